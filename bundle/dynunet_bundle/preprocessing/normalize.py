"""Intensity normalisation, one scheme per channel.

Stored on disk: the names of ``SCHEMES``, in plans.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.errors import CaseError, PlanError, counted

SCHEMES = ("zscore", "zscore_nonzero", "ct", "none", "rescale_to_0_1", "rgb_to_0_1")
MIN_STD = 1e-8
"""Smallest divisor, against division by zero in a constant channel."""

MAX_RGB = 255.0
"""Largest value of an 8-bit colour channel."""


class NormalizeChannelsd(MapTransform):
    """Normalise each channel by its own scheme: ``preprocessing`` of train.json and inference.json.

    The schemes are nnU-Net's; MONAI's transforms apply one scheme to all channels. ``zscore``: minus the mean of the
    volume, divided by its standard deviation. ``zscore_nonzero``: the same with the statistics inside a mask of the
    voxels that are nonzero in any channel, holes filled; outside, the result is 0. ``ct``: clipped to the data set's
    foreground percentiles, minus its mean, divided by its standard deviation. ``rescale_to_0_1``: the range of the
    volume becomes 0 to 1. ``rgb_to_0_1``: divided by 255. ``none``: unchanged.

    Args:
        keys: keys of the images, ``[C, D, H, W]``.
        normalization: scheme of each channel.
        intensity_statistics: for each channel None, or ``lower``, ``upper``, ``mean``, ``std``.
        allow_missing_keys: as in MONAI.

    Raises:
        PlanError: if a scheme is unknown or lacks its statistics.
        CaseError: if a channel with ``rgb_to_0_1`` has values outside 0 to 255.
    """

    def __init__(
        self,
        keys: KeysCollection,
        normalization: Sequence[str],
        intensity_statistics: Sequence[Mapping[str, float] | None],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(normalization) != len(intensity_statistics):
            raise PlanError(
                f"the plan has {counted(len(normalization), 'normalization scheme')} "
                f"and {len(intensity_statistics)} intensity_statistics. Give one of each per channel."
            )
        for channel, (scheme, statistics) in enumerate(
            zip(normalization, intensity_statistics, strict=True)
        ):
            if scheme not in SCHEMES:
                raise PlanError(
                    f'normalization of channel {channel} is "{scheme}". Choose one of {", ".join(SCHEMES)}.'
                )
            if scheme == "ct" and statistics is None:
                raise PlanError(
                    f'channel {channel} has normalization "ct" but no intensity_statistics. Plan again.'
                )
        self.normalization = list(normalization)
        self.intensity_statistics = list(intensity_statistics)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalise one case; the result is float32."""
        normalized = dict(data)
        for key in self.key_iterator(normalized):
            given = normalized[key]
            # a MetaTensor would copy its metadata in every step
            plain = given.as_subclass(torch.Tensor)
            image = plain.to(torch.float32)
            mask = _nonzero_mask(image) if "zscore_nonzero" in self.normalization else None
            channels = zip(image, self.normalization, self.intensity_statistics, strict=True)
            case = name_of({**normalized, "image": given})
            result = torch.stack([_normalized(*channel, mask, case) for channel in channels])
            if isinstance(given, MetaTensor):
                result = MetaTensor(result).copy_meta_from(given)
            normalized[key] = result
        return normalized


def _normalized(
    channel: torch.Tensor,
    scheme: str,
    statistics: Mapping[str, float] | None,
    mask: torch.Tensor | None,
    case: str,
) -> torch.Tensor:
    if scheme == "ct" and statistics:
        return _ct(channel, statistics)
    if scheme == "none":
        return channel
    if scheme == "rescale_to_0_1":
        shifted = channel - channel.min()
        return shifted / shifted.max().clamp(min=MIN_STD)
    if scheme == "rgb_to_0_1":
        if channel.min() < 0 or channel.max() > MAX_RGB:
            raise CaseError(
                case,
                f"a colour channel ranges from {float(channel.min()):g} to {float(channel.max()):g}, not 0 to 255",
                "Convert it to 8 bits, or rename the channel and plan again.",
            )
        return channel / MAX_RGB
    return _zscore(channel, mask if scheme == "zscore_nonzero" else None)


def _nonzero_mask(image: torch.Tensor) -> torch.Tensor:
    nonzero = (image != 0).any(dim=0).cpu().numpy()
    return torch.from_numpy(ndimage.binary_fill_holes(nonzero)).to(image.device)


def _zscore(channel: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    # float64: MR intensities reach 1e6, where float32 sums lose the variance
    exact = channel.to(torch.float64)
    inside = exact if mask is None else exact[mask]
    scaled = (exact - inside.mean()) / inside.std(correction=0).clamp(min=MIN_STD)
    return (scaled if mask is None else scaled * mask).to(torch.float32)


def _ct(channel: torch.Tensor, statistics: Mapping[str, float]) -> torch.Tensor:
    clipped = channel.clamp(statistics["lower"], statistics["upper"])
    return clipped.sub_(statistics["mean"]).div_(max(statistics["std"], MIN_STD))

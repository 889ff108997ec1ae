"""What a network's output says about its own quality: entropy, and intensities unlike those of the training.

Stored on disk: the keys ``entropy`` and ``clipped``, in ``run.json``. ``flags.py`` judges them.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from dynunet_bundle.dataset.cases import IMAGE
from dynunet_bundle.labels.scheme import LabelScheme

QUALITY = "quality"
MAX_VOXELS = 2**21
"""Largest number of voxels that are examined; larger volumes are subsampled along each axis."""


class NoteQualityd(MapTransform):
    """Note entropy and clipped intensities as ``data["quality"]``: ``postprocessing`` of inference.json.

    First step of the postprocessing, because it needs the logits. ``entropy``: by class or region, the mean entropy
    in bits of its voxels' probabilities. ``clipped``: for each CT channel, the fraction of foreground voxels whose
    intensity is outside the range of the training's foreground (1 % for the training cases, by the plan's definition).

    Args:
        keys: key of the logits ``[C, D, H, W]``.
        labels: the plan's labels.
        intensity_statistics: of the plan, one per channel.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        labels: LabelScheme,
        intensity_statistics: Sequence[Mapping[str, float] | None] = (),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.names = labels.target_names[1:]
        self.has_regions = labels.sigmoid
        self.statistics = list(intensity_statistics)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Examine one case: its logits, and its preprocessed image ``[channels, D, H, W]``."""
        noted = dict(data)
        for key in self.key_iterator(noted):
            logits, image = noted[key], noted[IMAGE]
            step = max(math.ceil((logits[0].numel() / MAX_VOXELS) ** (1 / 3)), 1)
            part = (slice(None), *[slice(None, None, step)] * (logits.ndim - 1))
            noted[QUALITY] = self._look(
                logits.as_subclass(torch.Tensor)[part].float(),
                image.as_subclass(torch.Tensor)[part],
            )
        return noted

    def _look(self, logits: torch.Tensor, image: torch.Tensor) -> dict[str, Any]:
        if self.has_regions:
            members = list(logits > 0)
            foreground = (logits > 0).any(0)
        else:
            classes = logits.max(0).indices
            members = [classes == number for number in range(1, len(logits))]
            foreground = classes > 0
        entropy = {
            name: self._entropy(logits[:, where], channel)
            for channel, (name, where) in enumerate(zip(self.names, members, strict=True))
        }
        clipped = [
            _clipped_share(channel[foreground.to(channel.device)], statistics)
            for channel, statistics in zip(image, self.statistics, strict=False)
        ]
        return {"entropy": entropy, "clipped": clipped}

    def _entropy(self, logits: torch.Tensor, channel: int) -> float | None:
        """Mean entropy in bits of the voxels ``[C, N]`` of one class or region; None if there are no voxels."""
        if not logits.shape[1]:
            return None
        if self.has_regions:
            inside = logits[channel].sigmoid()
            shares = torch.stack([inside, 1 - inside])
        else:
            shares = logits.softmax(0)
        return float(torch.special.entr(shares).sum(0).mean() / math.log(2))


def _clipped_share(values: torch.Tensor, statistics: Mapping[str, float] | None) -> float | None:
    if statistics is None or not values.numel():
        return None
    scale = max(statistics["std"], 1e-8)
    low, high = ((statistics[end] - statistics["mean"]) / scale for end in ("lower", "upper"))
    margin = 1e-3 * (high - low)
    return float(((values <= low + margin) | (values >= high - margin)).float().mean())

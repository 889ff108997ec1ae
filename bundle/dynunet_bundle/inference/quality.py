"""What makes a prediction doubtful: an unsure network, and intensities, volumes and pieces unlike the training's."""

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
"""Voxels that are looked at; of larger volumes every second along each axis, or every third, ..."""

VOLUME_MARGIN = 0.1
"""Share by which a volume may lie outside the range of the training."""


class NoteQualityd(MapTransform):
    """Note how sure the network is and how much was cut off: ``postprocessing`` of inference.json.

    The notes are ``data["quality"]``. It comes first in the postprocessing, while the logits are there. ``entropy``
    is, by class or region, the mean entropy in bits of its voxels' probabilities; ``clipped`` is, for each channel
    of CT, the share of foreground voxels whose intensity lay outside the range of the training's foreground (by the
    plan's definition one percent there).

    Args:
        keys: key of the logits ``[C, D, H, W]``.
        labels: the plan's labels.
        intensity_statistics: the plan's, one a channel.
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
        """Look at one case: its logits, and its preprocessed image ``[channels, D, H, W]``."""
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
        """Mean entropy in bits of the voxels ``[C, N]`` of one class or region; None where there are none."""
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


def find_flags(
    facts: Mapping[str, Any],
    training: Mapping[str, Any],
    max_entropy: float,
    max_clipped: float,
) -> list[dict[str, Any]]:
    """What a person should look at, as run.json keeps it.

    Args:
        facts: a case of run.json: ``volumes_ml``, ``components``, ``entropy``, ``clipped``.
        training: what model.json says of the training cases; may be empty.
        max_entropy: mean entropy in bits from which on a class is doubtful.
        max_clipped: share of foreground voxels outside the training's intensities, likewise.
    """
    flags = []
    volumes = facts["volumes_ml"]
    if volumes and not any(volumes.values()):
        flags.append(_flag("empty", None, "nothing was found", 0))
    for name, value in volumes.items():
        span = training.get("volumes_ml", {}).get(name)
        if value and span and not _within(value, span, VOLUME_MARGIN):
            text = f"{name} has {value:.2f} ml, in training {span[0]:.2f} to {span[1]:.2f} ml"
            flags.append(_flag("volume", name, text, value, span))
    for name, value in facts["components"].items():
        span = training.get("components", {}).get(name)
        if span and value > span[1]:
            text = f"{name} is in {value} pieces, in training in {span[1]} at most"
            flags.append(_flag("components", name, text, value, span))
    for name, value in (facts["entropy"] or {}).items():
        if value is not None and value > max_entropy:
            text = f"the network is unsure of {name}: {value:.2f} bits a voxel"
            flags.append(_flag("entropy", name, text, value, [0.0, max_entropy]))
    for channel, value in enumerate(facts["clipped"]):
        if value is not None and value > max_clipped:
            text = f"{value:.0%} of the foreground in channel {channel} is brighter or darker than in training"
            flags.append(_flag("intensity", None, text, value, [0.0, max_clipped]))
    return flags


def _within(value: float, span: Sequence[float], margin: float) -> bool:
    return span[0] * (1 - margin) <= value <= span[1] * (1 + margin)


def _flag(
    kind: str, label: str | None, message: str, value: float, span: Sequence[float] | None = None
) -> dict[str, Any]:
    return {
        "kind": kind,
        "label": label,
        "message": message,
        "value": value,
        "range": None if span is None else list(span),
    }

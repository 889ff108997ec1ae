"""Refuse a case that cannot be what the plan expects, by name, before anything is computed from it."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from dynunet_bundle.cases import name_of
from dynunet_bundle.errors import CaseError, PlanError
from dynunet_bundle.preprocessing.reader import (
    MAX_CORNER_SHIFT_VOXELS,
    SPATIAL_AXES,
    corner_shift,
)

MAX_LABEL_ROUNDING = 1e-3
MAX_UNNAMED_LABELS = 64
MAX_SHOWN_VALUES = 10
MIN_VOXEL_MM3 = 1e-9

Problem = tuple[str, str]
"""What is wrong with a case, and what to do about it."""


class CheckCased(MapTransform):
    """Check image and label of a case after ``EnsureChannelFirstd``; MONAI trains on NaN or shifted labels silently.

    Checked are: three spatial axes, number of channels, finite values, an image that is not constant; and, where
    there is a label, equal shape and geometry (no corner off by more than 0.1 voxel), whole-numbered values from
    the listed ones. A float label is rounded.

    Args:
        channel_names: the plan's channels.
        label_names: the plan's labels.
        label_values: the values that a label may have, one a name; 0, 1, 2, ... where None.
        image_key: key of the image, a MetaTensor ``[C, X, Y, Z]``.
        label_key: key of the label, ``[1, X, Y, Z]``; it may be absent.

    Raises:
        PlanError: if names and values are not as many.
        CaseError: naming the case, the fault and the remedy.
    """

    def __init__(
        self,
        channel_names: Sequence[str],
        label_names: Sequence[str],
        label_values: Sequence[int] | None = None,
        image_key: str = "image",
        label_key: str = "label",
    ) -> None:
        super().__init__((image_key, label_key), allow_missing_keys=True)
        self.num_channels = len(channel_names)
        self.label_values = list(range(len(label_names)) if label_values is None else label_values)
        if len(self.label_values) != len(label_names):
            raise PlanError(
                f"the plan has {len(label_names)} label_names and {len(self.label_values)} label_values; "
                "it needs one value a name."
            )
        self.image_key = image_key
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check one case and return it, its label rounded to uint8, or int32 for larger values."""
        checked = dict(data)
        image, label = checked[self.image_key], checked.get(self.label_key)
        case = name_of({**checked, "image": image})
        for problem, remedy in find_problems(image, label, self.num_channels, self.label_values):
            raise CaseError(case, problem, remedy)
        if label is not None:
            small = self.label_values[-1] <= torch.iinfo(torch.uint8).max
            checked[self.label_key] = label.round().to(torch.uint8 if small else torch.int32)
        return checked


def find_problems(
    image: MetaTensor,
    label: MetaTensor | None,
    num_channels: int | None,
    label_values: Sequence[int] | None,
) -> Iterator[Problem]:
    """All that makes a case unusable, each as what is wrong and what to do; the most fundamental first.

    Args:
        image: ``[C, X, Y, Z]``.
        label: ``[1, X, Y, Z]`` or None.
        num_channels: channels of the plan; None where nothing tells.
        label_values: values that the label may have; None where nothing tells.
    """
    if image.ndim != SPATIAL_AXES + 1 or min(image.shape) < 1:
        yield (
            f"its image is {image.ndim - 1}D with shape {tuple(image.shape[1:])}, the plan is for 3D volumes",
            "Leave it out, or give it a third axis.",
        )
        return
    yield from _affine_problems("image", np.asarray(image.affine))
    yield from _intensity_problems(image, num_channels)
    if label is not None:
        yield from _geometry_problems(image, label)
        yield from _value_problems(label, label_values)


def _affine_problems(what: str, affine: np.ndarray) -> Iterator[Problem]:
    volume = _voxel_mm3(affine)
    if volume < MIN_VOXEL_MM3:
        yield (
            f"the affine of its {what} gives voxels of {volume:g} mm3",
            "Correct the header: spacing and directions must span a volume.",
        )


def _voxel_mm3(affine: np.ndarray) -> float:
    return abs(float(np.linalg.det(affine[:3, :3]))) if np.isfinite(affine).all() else 0.0


def _intensity_problems(image: MetaTensor, num_channels: int | None) -> Iterator[Problem]:
    if num_channels is not None and image.shape[0] != num_channels:
        yield (
            f"its image has {image.shape[0]} channel(s), the plan {num_channels}",
            "Pass the task overlay of this data set, or correct the file.",
        )
    num_bad = int((~torch.isfinite(image.as_tensor())).sum())
    if num_bad:
        yield (
            f"its image has {num_bad} NaN or infinite voxel(s)",
            "Repair the file, e.g. set them to the background value.",
        )
    elif image.max() == image.min():
        yield f"its image is constant ({float(image.max()):g})", "Replace the file."


def _geometry_problems(image: MetaTensor, label: MetaTensor) -> Iterator[Problem]:
    yield from _affine_problems("label", np.asarray(label.affine))
    if label.shape[0] != 1:
        yield f"its label has {label.shape[0]} channels", "Save one label map a case."
        return
    if image.shape[1:] != label.shape[1:]:
        yield (
            f"image and label have different shapes, {tuple(image.shape[1:])} and {tuple(label.shape[1:])}",
            "Pair the image with its own label, on the same grid.",
        )
        return
    if _voxel_mm3(np.asarray(image.affine)) < MIN_VOXEL_MM3:
        return
    shift = corner_shift(np.asarray(image.affine), np.asarray(label.affine), image.shape[1:])
    if shift > MAX_CORNER_SHIFT_VOXELS:
        yield (
            f"image and label lie at different places: their affines put a corner {shift:.1f} voxels apart",
            "Resample the label to the image, or correct its affine.",
        )


def _value_problems(label: MetaTensor, label_values: Sequence[int] | None) -> Iterator[Problem]:
    rounded = label.round()
    values, counts = np.unique(rounded.as_tensor().numpy(), return_counts=True)
    if label_values is None:
        yield from _unnamed_value_problems(values)
        label_values = [int(value) for value in values if np.isfinite(value)]
    unexpected = [
        f"{value:g} ({count} voxels)"
        for value, count in zip(values, counts, strict=True)
        if value not in label_values
    ]
    if unexpected:
        yield (
            f"its label has values that are not listed: {_shown(unexpected)}; "
            f"expected are {_listed(label_values)}",
            'Correct the label, or list the value under "labels" in dataset.json and plan again.',
        )
        return
    off = float((label - rounded).abs().max())
    if off > MAX_LABEL_ROUNDING:
        yield (
            f"its label has values that are no whole numbers (off by {off:g})",
            "Save the label with nearest-neighbour interpolation and an integer type.",
        )


def _unnamed_value_problems(values: np.ndarray) -> Iterator[Problem]:
    if len(values) > MAX_UNNAMED_LABELS or values.min() < 0:
        yield (
            f"its label has {len(values)} different values from {values.min():g} to {values.max():g}",
            "A label map holds a few whole numbers from 0 on: check that it is one, saved without loss.",
        )


def _shown(items: Sequence[str]) -> str:
    more = len(items) - MAX_SHOWN_VALUES
    return ", ".join(items[:MAX_SHOWN_VALUES]) + (f" and {more} more" if more > 0 else "")


def _listed(label_values: Sequence[int]) -> str:
    if list(label_values) == list(range(len(label_values))):
        return f"0 to {len(label_values) - 1}"
    return ", ".join(map(str, label_values))

"""Refuse a case that cannot be what the plan expects, by name, before anything is computed from it."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from dynunet_bundle.errors import CaseError
from dynunet_bundle.files import case_name

SPATIAL_AXES = 3
MAX_CORNER_SHIFT_VOXELS = 0.1
MAX_LABEL_ROUNDING = 1e-3
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
        label_names: the plan's labels; their indices are the values a label may have.
        image_key: key of the image, a MetaTensor ``[C, X, Y, Z]``.
        label_key: key of the label, ``[1, X, Y, Z]``; it may be absent.

    Raises:
        CaseError: naming the case, the fault and the remedy.
    """

    def __init__(
        self,
        channel_names: Sequence[str],
        label_names: Sequence[str],
        image_key: str = "image",
        label_key: str = "label",
    ) -> None:
        super().__init__((image_key, label_key), allow_missing_keys=True)
        self.num_channels = len(channel_names)
        self.num_labels = len(label_names)
        self.image_key = image_key
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Check one case and return it, its label rounded to uint8."""
        checked = dict(data)
        image, label = checked[self.image_key], checked.get(self.label_key)
        case = case_name(str(image.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "unnamed")))
        for problem, remedy in find_problems(image, label, self.num_channels, self.num_labels):
            raise CaseError(case, problem, remedy)
        if label is not None:
            checked[self.label_key] = label.round().to(torch.uint8)
        return checked


def find_problems(
    image: MetaTensor, label: MetaTensor | None, num_channels: int, num_labels: int
) -> Iterator[Problem]:
    """All that makes a case unusable, each as what is wrong and what to do; the most fundamental first.

    Args:
        image: ``[C, X, Y, Z]``.
        label: ``[1, X, Y, Z]`` or None.
        num_channels: channels of the plan.
        num_labels: labels of the plan, including the background.
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
        yield from _value_problems(label, num_labels)


def _affine_problems(what: str, affine: np.ndarray) -> Iterator[Problem]:
    volume = _voxel_mm3(affine)
    if volume < MIN_VOXEL_MM3:
        yield (
            f"the affine of its {what} gives voxels of {volume:g} mm3",
            "Correct the header: spacing and directions must span a volume.",
        )


def _voxel_mm3(affine: np.ndarray) -> float:
    return abs(float(np.linalg.det(affine[:3, :3]))) if np.isfinite(affine).all() else 0.0


def _intensity_problems(image: MetaTensor, num_channels: int) -> Iterator[Problem]:
    if image.shape[0] != num_channels:
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
    # where the label's affine puts the corners of the volume, in voxels of the image
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in image.shape[1:]])).reshape(3, -1)
    homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
    moved = np.linalg.solve(np.asarray(image.affine), np.asarray(label.affine) @ homogeneous)
    shift = float(np.abs(moved[:3] - corners).max())
    if shift > MAX_CORNER_SHIFT_VOXELS:
        yield (
            f"image and label lie at different places: their affines put a corner {shift:.1f} voxels apart",
            "Resample the label to the image, or correct its affine.",
        )


def _value_problems(label: MetaTensor, num_labels: int) -> Iterator[Problem]:
    rounded = label.round()
    values, counts = np.unique(rounded.as_tensor().numpy(), return_counts=True)
    unexpected = [
        f"{value:g} ({count} voxels)"
        for value, count in zip(values, counts, strict=True)
        if not 0 <= value < num_labels
    ]
    if unexpected:
        yield (
            f"its label has values that are not listed: {', '.join(unexpected)}; expected are 0 to {num_labels - 1}",
            'Correct the label, or list the value under "labels" in dataset.json and plan again.',
        )
        return
    off = float((label - rounded).abs().max())
    if off > MAX_LABEL_ROUNDING:
        yield (
            f"its label has values that are no whole numbers (off by {off:g})",
            "Save the label with nearest-neighbour interpolation and an integer type.",
        )

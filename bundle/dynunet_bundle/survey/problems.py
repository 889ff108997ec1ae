"""Problems in a case's arrays that make it unusable; preprocessing refuses them, the survey lists them."""

from collections.abc import Iterator, Sequence

import numpy as np

from dynunet_bundle.errors import counted, some_of
from dynunet_bundle.images.grid import (
    MAX_CORNER_SHIFT_VOXELS,
    SPATIAL_AXES,
    corner_shift,
    voxel_mm3,
)
from dynunet_bundle.images.read import Volume
from dynunet_bundle.survey.value_counts import value_counts

MAX_LABEL_ROUNDING = 1e-3  # accepted distance of a label value from a whole number
MAX_UNNAMED_LABELS = 64  # distinct values of a label map if dataset.json does not list them
MAX_SHOWN_VALUES = 10  # values listed in a message
MIN_VOXEL_MM3 = 1e-18
"""Voxel volume below which an affine is degenerate: a cube of 1 nm. Voxels of electron microscopes are a bit larger."""


Problem = tuple[str, str]
"""Problem of a case, and its remedy."""


def find_problems(
    image: Volume,
    label: Volume | None,
    num_channels: int | None,
    label_values: Sequence[int] | None,
) -> Iterator[Problem]:
    """All problems that make a case unusable, most fundamental first.

    Args:
        image: ``[C, X, Y, Z]`` and its affine.
        label: ``[1, X, Y, Z]`` and its affine, or None.
        num_channels: channels of the plan, or None if unknown.
        label_values: allowed values of the label, or None if unknown.
    """
    shape = image.array.shape
    if len(shape) != SPATIAL_AXES + 1 or min(shape) < 1:
        yield (
            f"its image is {len(shape) - 1}D with shape {shape[1:]}, but the plan is for 3D volumes",
            "Leave the case out, or give its image a third axis.",
        )
        return
    yield from _affine_problems("image", image.affine)
    yield from _intensity_problems(image.array, num_channels, is_training=label is not None)
    if label is not None:
        yield from find_mask_problems(image, label, label_values)


def find_mask_problems(
    image: Volume, mask: Volume, label_values: Sequence[int] | None, what: str = "label"
) -> Iterator[Problem]:
    """All problems that make a mask unusable for its image, most fundamental first.

    Args:
        image: ``[C, X, Y, Z]`` and its affine.
        mask: ``[1, X, Y, Z]`` and its affine.
        label_values: allowed values of the mask, or None if unknown.
        what: name of the mask in messages.
    """
    yield from _geometry_problems(image, mask, what)
    yield from _value_problems(mask.array, label_values, what)


def _affine_problems(what: str, affine: np.ndarray) -> Iterator[Problem]:
    volume = voxel_mm3(affine)
    if volume < MIN_VOXEL_MM3:
        yield (
            f"the affine of its {what} gives voxels of {volume:g} mm3",
            "Correct the header: spacing and directions must span a volume.",
        )


def _intensity_problems(
    array: np.ndarray, num_channels: int | None, is_training: bool
) -> Iterator[Problem]:
    if num_channels is not None and len(array) != num_channels:
        source = "the task overlay of this data set" if is_training else "another --model"
        yield (
            f"its image has {counted(len(array), 'channel')}, the plan has {num_channels}",
            f"Pass {source}, or correct the file.",
        )
    low, high = float(array.min()), float(array.max())  # both are NaN if any voxel is
    if not np.isfinite([low, high]).all():
        yield (
            f"its image has {counted(int((~np.isfinite(array)).sum()), 'NaN or infinite voxel')}",
            "Repair the file, e.g. set these voxels to the background value.",
        )
    elif high == low:
        yield f"its image is constant ({high:g})", "Replace the file."


def _geometry_problems(image: Volume, label: Volume, what: str) -> Iterator[Problem]:
    yield from _affine_problems(what, label.affine)
    if len(label.array) != 1:
        yield (
            f"its {what} has {counted(len(label.array), 'channel')}",
            "Save one label map per case.",
        )
        return
    shape, other = image.array.shape[1:], label.array.shape[1:]
    if shape != other:
        yield (
            f"image and {what} have different shapes, {shape} and {other}",
            f"Pair the image with its own {what}, on the same grid.",
        )
        return
    if voxel_mm3(image.affine) < MIN_VOXEL_MM3:
        return
    shift = corner_shift(image.affine, label.affine, shape)
    if shift > MAX_CORNER_SHIFT_VOXELS:
        yield (
            f"image and {what} are at different positions: their affines put a corner {shift:.1f} voxels apart",
            f"Resample the {what} to the image, or correct its affine.",
        )


def _value_problems(
    label: np.ndarray, label_values: Sequence[int] | None, what: str
) -> Iterator[Problem]:
    rounded = np.round(label)
    values, counts = value_counts(rounded)
    if label_values is None:
        yield from _unnamed_value_problems(values)
        label_values = [int(value) for value in values if np.isfinite(value)]
    unexpected = [
        f"{value:g} ({counted(count, 'voxel')})"
        for value, count in zip(values, counts, strict=True)
        if value not in label_values
    ]
    if unexpected:
        yield (
            f"its {what} has values that are not listed: {some_of(unexpected, MAX_SHOWN_VALUES)}; "
            f"expected: {_listed(label_values)}",
            f'Correct the {what}, or list the value under "labels" in dataset.json and plan again.',
        )
        return
    off = float(np.abs(label - rounded).max())
    if off > MAX_LABEL_ROUNDING:
        yield (
            f"its {what} has values that are not whole numbers (off by up to {off:g})",
            f"Save the {what} with nearest-neighbour interpolation and an integer type.",
        )


def _unnamed_value_problems(values: np.ndarray) -> Iterator[Problem]:
    if len(values) > MAX_UNNAMED_LABELS or values.min() < 0:
        yield (
            f"its label has {len(values)} different values from {values.min():g} to {values.max():g}",
            "A label map has a few whole numbers >= 0. Check that this is one, in a lossless format.",
        )


def _listed(label_values: Sequence[int]) -> str:
    if list(label_values) == list(range(len(label_values))):
        return f"0 to {len(label_values) - 1}"
    return ", ".join(map(str, label_values))

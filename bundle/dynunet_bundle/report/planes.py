"""Three planes of a volume as radiologists look at them: the patient's right on the left, front or head on top."""

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from dynunet_bundle.images.grid import SPATIAL_AXES

MIN_FIELD_MARGIN_MM = 15.0
FIELD_MARGIN_SHARE = 0.4
"""What is shown reaches beyond the foreground by this share of its longest side, so that one sees where it lies."""

WINDOW_PERCENTILES = (0.5, 99.5)
MAX_WINDOW_VOXELS = 500_000
MIN_WINDOW_VOXELS = 500
"""The grey values of fewer voxels say too little; the window is then taken from all that is shown."""

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Plane:
    """One way to cut a volume whose axes run to the patient's left, back and feet.

    Attributes:
        name: what radiologists call it.
        across: the axis that it cuts; of the others the first gives columns and the second rows.
        letters: what lies on the left, on the right, on top and at the bottom.
    """

    name: str
    across: int
    letters: tuple[str, str, str, str]

    @property
    def columns(self) -> int:
        """The axis that runs to the right."""
        return 1 if self.across == 0 else 0

    @property
    def rows(self) -> int:
        """The axis that runs down."""
        return 1 if self.across == SPATIAL_AXES - 1 else SPATIAL_AXES - 1


PLANES = (
    Plane("axial", 2, ("R", "L", "A", "P")),
    Plane("coronal", 1, ("R", "L", "S", "I")),
    Plane("sagittal", 0, ("A", "P", "S", "I")),
)
"""Axial from the feet, coronal from the front, sagittal from the patient's left."""


@dataclass(frozen=True)
class StoredAxes:
    """How a volume is stored.

    Attributes:
        order: the stored axis that comes closest to right-left, front-back, head-feet.
        flipped: whether it runs the other way, to the right, front or head.
        spacing_mm: size of a voxel along each of them.
        tilt_degrees: the largest angle between an axis of the volume and the one of the patient that it stands for.
    """

    order: tuple[int, ...]
    flipped: tuple[bool, ...]
    spacing_mm: tuple[float, ...]
    tilt_degrees: float

    def view(self, array: np.ndarray) -> np.ndarray:
        """``[X, Y, Z, ...]`` as stored -> ``[left, back, feet, ...]``, without a copy."""
        rest = tuple(range(SPATIAL_AXES, array.ndim))
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)
        return array.transpose(*self.order, *rest)[steps]

    def stored_index(self, axis: int, index: int, size: int) -> int:
        """Where a slice of the view along ``axis`` lies in the file."""
        return size - 1 - index if self.flipped[axis] else index


def stored_axes(affine: np.ndarray) -> StoredAxes:
    """Read the stored axes off an affine ``[4, 4]`` in RAS+ mm; an axis of no length keeps its place."""
    stands_for = nib.io_orientation(affine)
    order: list[int | None] = [None] * SPATIAL_AXES
    flipped = [False] * SPATIAL_AXES
    for stored, (world, direction) in enumerate(stands_for):
        if np.isfinite(world):
            order[int(world)] = stored
            # RAS+ grows to the right, front and head; the view grows the other way
            flipped[int(world)] = direction > 0
    left = [axis for axis in range(SPATIAL_AXES) if axis not in order]
    known = tuple(left.pop(0) if axis is None else axis for axis in order)
    columns = np.asarray(affine, dtype=float)[:SPATIAL_AXES, list(known)]
    lengths = np.linalg.norm(columns, axis=0)
    spacing = np.where(lengths > 0, lengths, 1.0)
    cosines = np.abs(np.diag(columns)) / spacing
    tilt = np.degrees(np.arccos(np.clip(cosines[lengths > 0], 0, 1))).max(initial=0.0)
    return StoredAxes(known, tuple(flipped), tuple(map(float, spacing)), float(tilt))


def section(view: np.ndarray, plane: Plane, index: int) -> np.ndarray:
    """One slice ``[rows, columns, ...]`` of a view, without a copy."""
    return np.moveaxis(np.moveaxis(view, plane.across, 0)[index], 0, 1)


def foreground_counts(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Voxels that are foreground in any mask, counted by slice along each axis; no volume is copied.

    Args:
        masks: views ``[left, back, feet]`` of one shape; what is above 0.5 is foreground.
    """
    shape = masks[0].shape
    # slices along the axis with the longest strides lie together in memory
    along = int(np.argmax(np.abs(masks[0].strides)))
    first, second = (axis for axis in range(SPATIAL_AXES) if axis != along)
    counts = [np.zeros(size, dtype=np.int64) for size in shape]
    for index in range(shape[along]):
        inside = np.zeros((shape[first], shape[second]), dtype=bool)
        for mask in masks:
            inside |= np.moveaxis(mask, along, 0)[index] > 0.5
        counts[along][index] = inside.sum()
        counts[first] += inside.sum(axis=1)
        counts[second] += inside.sum(axis=0)
    return counts


def foreground_box(counts: Sequence[np.ndarray]) -> Box:
    """The smallest box that holds all foreground; all of the volume where there is none."""
    limits = []
    for along in counts:
        inside = np.flatnonzero(along)
        limits.append((inside[0], inside[-1] + 1) if len(inside) else (0, len(along)))
    first, second, third = (slice(int(low), int(high)) for low, high in limits)
    return first, second, third


def field_of_view(box: Box, shape: Sequence[int], spacing_mm: Sequence[float]) -> Box:
    """A cube about the box with a margin, cut to the volume.

    All planes of a case are drawn at one scale, which the longest side sets; so a cube costs nothing and shows more.

    Args:
        box: of the foreground.
        shape: of the view.
        spacing_mm: of the view.
    """
    middles = [(part.start + part.stop) / 2 for part in box]
    longest = max(
        (part.stop - part.start) * length for part, length in zip(box, spacing_mm, strict=True)
    )
    side = longest + 2 * max(MIN_FIELD_MARGIN_MM, FIELD_MARGIN_SHARE * longest)
    first, second, third = (
        slice(
            max(round(middle - side / length / 2), 0), min(round(middle + side / length / 2), size)
        )
        for middle, size, length in zip(middles, shape, spacing_mm, strict=True)
    )
    return first, second, third


def grey_window(image: np.ndarray, box: Box, field: Box) -> tuple[float, float]:
    """Values that are shown black and white: percentiles of the foreground's box, for CT and MR alike.

    Args:
        image: a view ``[left, back, feet]``; of a large box only every so-manyth voxel is looked at.
        box: of the foreground.
        field: what is shown.
    """
    values = _some_values(image[box])
    if len(values) < MIN_WINDOW_VOXELS:
        values = _some_values(image[field])
    if not len(values):
        return 0.0, 1.0
    low, high = np.percentile(values, WINDOW_PERCENTILES)
    return float(low), float(max(high, low + 1e-8))


def _some_values(part: np.ndarray) -> np.ndarray:
    step = max(1, int(np.ceil((part.size / MAX_WINDOW_VOXELS) ** (1 / SPATIAL_AXES))))
    values = part[::step, ::step, ::step].ravel()
    return values[np.isfinite(values)]

"""Three planes of a volume in radiological view: the patient's right is on the left, front or head on top."""

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from dynunet_bundle.images.grid import SPATIAL_AXES

MIN_FIELD_MARGIN_MM = 15.0
FIELD_MARGIN_SHARE = 0.4
"""Margin shown around the foreground, as a fraction of its longest side, to show the surrounding anatomy."""

WINDOW_PERCENTILES = (0.5, 99.5)
MAX_WINDOW_VOXELS = 500_000
MIN_WINDOW_VOXELS = 500
"""Fewest foreground voxels that set the grey window; with fewer, the whole field of view sets it."""

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Plane:
    """One plane of a volume whose axes run to the patient's left, back and feet.

    Attributes:
        name: radiological name.
        across: the axis perpendicular to the plane; of the others the first gives columns and the second rows.
        letters: directions at the left, right, top and bottom.
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
    """Order and direction of the stored axes of a volume.

    Attributes:
        order: for each of right-left, front-back and head-feet the closest stored axis.
        flipped: for each whether the stored axis runs the other way, to the right, front or head.
        spacing_mm: voxel size along each.
        tilt_degrees: largest angle between an axis of the volume and its patient axis.
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
        """Index in the file of a slice of the view along ``axis``."""
        return size - 1 - index if self.flipped[axis] else index


def stored_axes(affine: np.ndarray) -> StoredAxes:
    """The stored axes of an affine ``[4, 4]`` in RAS+ mm; axes of zero length fill the remaining positions in order."""
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
    """Number of voxels that are foreground in any mask, per slice along each axis; no volume is copied.

    Args:
        masks: views ``[left, back, feet]`` of one shape; values above 0.5 are foreground.

    Returns:
        For each axis an int64 array with one count per slice.
    """
    shape = masks[0].shape
    # slices along the axis with the longest stride are contiguous in memory
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
    """Bounding box of the foreground; the whole volume if there is no foreground."""
    limits = []
    for along in counts:
        inside = np.flatnonzero(along)
        limits.append((inside[0], inside[-1] + 1) if len(inside) else (0, len(along)))
    first, second, third = (slice(int(low), int(high)) for low, high in limits)
    return first, second, third


def field_of_view(box: Box, shape: Sequence[int], spacing_mm: Sequence[float]) -> Box:
    """A cube around the box with a margin, clipped to the volume.

    All planes of a case share one scale, set by the longest side, so a cube shows more without more pixels.

    Args:
        box: bounding box of the foreground.
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
    """Values that are shown black and white: percentiles within the foreground's box, for CT and MR alike.

    Args:
        image: a view ``[left, back, feet]``; large boxes are subsampled.
        box: bounding box of the foreground.
        field: field of view.
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

"""The rule for "the same grid", for all files that belong together: image and mask, channels, ensemble members."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynunet_bundle.files import PICTURE_SUFFIXES

SPATIAL_AXES = 3

MAX_CORNER_SHIFT_VOXELS = 0.1
"""Distance at each corner up to which grids are the same. Headers round: NIfTI stores its affine in float32."""


def voxel_mm3(affine: np.ndarray) -> float:
    """Volume of a voxel in cubic millimetres; 0 if the affine is not finite.

    Args:
        affine: ``[4, 4]``, from voxel indices to millimetres.
    """
    return abs(float(np.linalg.det(affine[:3, :3]))) if np.isfinite(affine).all() else 0.0


def counts_pixels(file: str | Path, shape: Sequence[int]) -> bool:
    """Whether a file is a plain picture: lengths and areas are in pixels, not in millimetres.

    Args:
        file: image or mask; a mask has the format of its image.
        shape: of the array; its last axis has the slices.
    """
    return str(file).lower().endswith(PICTURE_SUFFIXES) and shape[-1] == 1


def sheared_degrees(affine: np.ndarray) -> float:
    """Angle between the third axis and the normal of the other two, as of a CT with gantry tilt; 0 if undefined.

    Args:
        affine: ``[4, 4]``, from voxel indices to millimetres.
    """
    if voxel_mm3(affine) == 0:
        return 0.0
    normal, step = np.cross(affine[:3, 0], affine[:3, 1]), affine[:3, 2]
    cosine = abs(float(normal @ step)) / float(np.linalg.norm(normal) * np.linalg.norm(step))
    return math.degrees(math.acos(min(cosine, 1.0)))


def corner_shift(affine: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """Largest distance between the corners of a volume under two affines, in voxels of the first.

    Args:
        affine: ``[4, 4]``.
        other: ``[4, 4]``.
        shape: voxels by axis, ``(X, Y, Z)``.

    Returns:
        The largest distance along an axis; 0 if voxels of the first have no volume.
    """
    if voxel_mm3(affine) == 0:
        return 0.0
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape])).reshape(3, -1)
    homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
    moved = np.linalg.solve(affine, other @ homogeneous)
    return float(np.abs(moved[:3] - corners).max())


def grid_difference(
    shape: Sequence[int], affine: np.ndarray, other_shape: Sequence[int], other: np.ndarray
) -> str | None:
    """Difference between two grids, as the end of a sentence about both; None if they are the same.

    Args:
        shape: voxels by axis of the first, ``(X, Y, Z)``.
        affine: ``[4, 4]`` of the first.
        other_shape: voxels by axis of the second.
        other: ``[4, 4]`` of the second.
    """
    if tuple(shape) != tuple(other_shape):
        return f"have shapes {tuple(shape)} and {tuple(other_shape)}"
    shift = corner_shift(affine, other, shape)
    return f"are {shift:.1f} voxels apart at a corner" if shift > MAX_CORNER_SHIFT_VOXELS else None


def same_grid(
    shape: Sequence[int], affine: np.ndarray, other_shape: Sequence[int], other: np.ndarray
) -> bool:
    """Whether two grids have the same shape and position, see ``grid_difference``."""
    return grid_difference(shape, affine, other_shape, other) is None

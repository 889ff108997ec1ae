"""Rotation and scaling of a patch as one map, and the region of a volume that the map needs.

Coordinates are voxel indices, with centres at whole numbers, in the order of the array axes. Output voxel ``i`` of a
patch of size ``P`` about the point ``center`` is read at ``center + matrix @ (i - (P - 1) / 2)``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynunet_bundle.feed.augmentation import Augmentation
from dynunet_bundle.feed.draws import Numbers, stretched

CROP, SCALE, AFFINE = 0, 1, 2
CUBIC_MARGIN = 2
"""Extra voxels on each side of a region for cubic interpolation."""

MAP_NUMBERS = 6
"""Random numbers that ``draw_map`` takes: rotate or not, scale or not, three angles, a factor."""

IDENTITY = np.eye(3)


@dataclass(frozen=True)
class PatchMap:
    """Drawn rotation and scaling of one sample.

    Attributes:
        kind: ``CROP`` (nothing drawn), ``SCALE`` (along the axes), or ``AFFINE``.
        matrix: ``[3, 3]``.
        in_plane: whether the first axis stays unchanged.
        degrees: drawn angles about the first, second and third axis, or the first only; empty without rotation.
        factor: drawn scaling.
    """

    kind: int
    matrix: np.ndarray
    in_plane: bool
    degrees: tuple[float, ...] = ()
    factor: float = 1.0


@dataclass(frozen=True)
class ReadRegion:
    """The part of a volume that a patch is computed from.

    Attributes:
        start: first voxel per axis; may be negative.
        size: voxels per axis.
        center: centre of the patch per axis, relative to ``start``.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    center: tuple[float, ...]


def draw_map(
    augmentation: Augmentation, degrees: tuple[float, float], in_plane: bool, numbers: Numbers
) -> PatchMap:
    """Draw rotation and scaling.

    Args:
        augmentation: the declaration.
        degrees: range of the angle about each axis.
        in_plane: whether to rotate and scale within the plane of the last two axes only.
        numbers: random numbers of the sample, of which it takes ``MAP_NUMBERS``.
    """
    rotate = numbers.hit(augmentation.prob("rotation"))
    scale = numbers.hit(augmentation.prob("scaling"))
    angles, factor = numbers.take(3), numbers.next()
    if not (rotate or scale):
        return PatchMap(CROP, IDENTITY, in_plane)
    matrix = IDENTITY.copy()
    size, turns = 1.0, []
    if scale:
        size = stretched(factor, augmentation.kinds["scaling"]["factor"])
        matrix *= size
    if rotate:
        turns = [stretched(angle, degrees) for angle in angles[: 1 if in_plane else 3]]
        matrix = _rotation([math.radians(turn) for turn in turns]) @ matrix
    if in_plane:
        matrix[0] = (1, 0, 0)
    return PatchMap(AFFINE if rotate else SCALE, matrix, in_plane, tuple(turns), size)


def _rotation(angles: Sequence[float]) -> np.ndarray:
    """Rotation about the first axis, then the second, then the third, radians."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        result = turn @ result
    return result


def region_for(
    patch_map: PatchMap, start: tuple[int, ...], patch_size: tuple[int, ...], cubic: bool = False
) -> ReadRegion:
    """The smallest region that a map needs.

    Args:
        patch_map: the map.
        start: first voxel of the patch without rotation and scaling, per axis.
        patch_size: voxels per axis, three values.
        cubic: whether a scaled patch is interpolated by cubic convolution, which needs a margin.
    """
    half = [(length - 1) / 2 for length in patch_size]
    if patch_map.kind == CROP:
        return ReadRegion(start, patch_size, tuple(half))
    reach = (np.abs(patch_map.matrix) @ half).tolist()
    margin = CUBIC_MARGIN if cubic and patch_map.kind == SCALE else 0
    low, size, center = list(start), list(patch_size), list(half)
    for axis in range(1 if patch_map.in_plane else 0, 3):
        middle = start[axis] + half[axis]
        low[axis] = math.floor(middle - reach[axis]) - margin
        size[axis] = math.floor(middle + reach[axis]) + 2 + margin - low[axis]
        center[axis] = middle - low[axis]
    return ReadRegion(tuple(low), tuple(size), tuple(center))


def scale_window(
    patch_map: PatchMap, region: ReadRegion, patch_size: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of the part of a region that becomes a scaled patch, for DALI's ``resize``.

    Returns:
        Two ``[3]`` float32 in DALI's coordinates, in which voxel ``i`` extends from ``i`` to ``i + 1``.
    """
    reach = np.diag(patch_map.matrix) * patch_size / 2
    middle = np.array(region.center) + 0.5
    return (middle - reach).astype(np.float32), (middle + reach).astype(np.float32)


def dali_matrix(patch_map: PatchMap, region: ReadRegion, patch_size: tuple[int, ...]) -> np.ndarray:
    """The map as a matrix for DALI's ``warp_affine``.

    Returns:
        ``[3, 4]`` float32 from (x, y, z) of the output to (x, y, z) of the region, with voxel centres at halves.
    """
    matrix = patch_map.matrix
    offset = np.array(region.center) + 0.5 - matrix @ (np.array(patch_size) / 2)
    return np.concatenate([matrix[::-1, ::-1], offset[::-1, np.newaxis]], axis=1).astype(np.float32)

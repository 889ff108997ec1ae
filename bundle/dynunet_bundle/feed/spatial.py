"""Rotation and scaling of a patch as one map, and the region of a volume that the map needs.

Coordinates are voxel indices, centres at whole numbers, in the order of the array axes. Output voxel ``i`` of a patch
of size ``P`` about the point ``center`` is read at ``center + matrix @ (i - (P - 1) / 2)``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import grid_sample

from dynunet_bundle.feed.augmentation import Augmentation

CROP, SCALE, AFFINE = 0, 1, 2
CUBIC_MARGIN = 2


@dataclass(frozen=True)
class PatchMap:
    """What is drawn for the place of one sample.

    Attributes:
        kind: ``CROP`` (nothing drawn), ``SCALE`` (along the axes), or ``AFFINE``.
        matrix: ``[3, 3]``.
        in_plane: whether the first axis stays as it is.
    """

    kind: int
    matrix: np.ndarray
    in_plane: bool


@dataclass(frozen=True)
class Region:
    """The part of a volume that a patch is computed from.

    Attributes:
        start: first voxel, ``[3]`` int; may be negative.
        size: voxels, ``[3]`` int.
        center: the patch's middle, ``[3]``, counted from ``start``.
    """

    start: np.ndarray
    size: np.ndarray
    center: np.ndarray


def draw_map(
    augmentation: Augmentation,
    degrees: tuple[float, float],
    in_plane: bool,
    rng: np.random.Generator,
) -> PatchMap:
    """Draw rotation and scaling.

    Args:
        augmentation: the declaration.
        degrees: range of the angle about each axis.
        in_plane: turn and scale across the first axis only.
        rng: the sample's own generator.
    """
    rotate = rng.random() < augmentation.prob("rotation")
    scale = rng.random() < augmentation.prob("scaling")
    angles = np.deg2rad(rng.uniform(*degrees, 3))
    factor = rng.uniform(*augmentation.setting("scaling", "factor", (1, 1)))
    matrix = np.eye(3)
    if in_plane:
        angles[1:] = 0
    if scale:
        matrix *= factor
    if rotate:
        matrix = _rotation(angles) @ matrix
    if in_plane:
        matrix[0] = (1, 0, 0)
    kind = AFFINE if rotate else SCALE if scale else CROP
    return PatchMap(kind, matrix, in_plane)


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation about the first axis, then the second, then the third, radians."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        result = turn @ result
    return result


def region_for(
    patch_map: PatchMap, start: np.ndarray, patch_size: np.ndarray, cubic: bool = False
) -> Region:
    """The region that a map needs, no more.

    Args:
        patch_map: the map.
        start: first voxel of the patch if nothing is drawn, ``[3]`` int.
        patch_size: voxels, ``[3]``.
        cubic: whether a scaled patch is interpolated from two more voxels at each side.
    """
    half = (patch_size - 1) / 2
    center = start + half
    if patch_map.kind == CROP:
        return Region(start, np.array(patch_size), half)
    reach = np.abs(patch_map.matrix) @ half
    margin = CUBIC_MARGIN if cubic and patch_map.kind == SCALE else 0
    low = np.floor(center - reach).astype(int) - margin
    high = np.floor(center + reach).astype(int) + 1 + margin
    if patch_map.in_plane:
        low[0], high[0] = start[0], start[0] + patch_size[0] - 1
    return Region(low, high - low + 1, center - low)


def scale_window(
    patch_map: PatchMap, region: Region, patch_size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of the part of a region that becomes a scaled patch, for DALI's ``resize``.

    Returns:
        Two ``[3]`` float32 in DALI's coordinates, in which voxel ``i`` reaches from ``i`` to ``i + 1``.
    """
    reach = np.diag(patch_map.matrix) * patch_size / 2
    middle = region.center + 0.5
    return (middle - reach).astype(np.float32), (middle + reach).astype(np.float32)


def dali_matrix(patch_map: PatchMap, region: Region, patch_size: np.ndarray) -> np.ndarray:
    """The map as DALI's ``warp_affine`` takes it.

    Returns:
        ``[3, 4]`` float32 from (x, y, z) of the output to those of the region, voxel centres at halves.
    """
    matrix = patch_map.matrix
    offset = region.center + 0.5 - matrix @ (np.array(patch_size) / 2)
    return np.concatenate([matrix[::-1, ::-1], offset[::-1, np.newaxis]], axis=1).astype(np.float32)


def warp(
    image: np.ndarray,
    label: np.ndarray,
    patch_map: PatchMap,
    region: Region,
    patch_size: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute a patch on the CPU, as the graph does on a GPU: DALI's CPU kernel is several times slower.

    Args:
        image: ``[C, D, H, W]`` of the region, interpolated linearly, zero outside.
        label: ``[1, D, H, W]``, of which each voxel takes the nearest.
        patch_map: the map.
        region: where they lie.
        patch_size: voxels, ``[3]``.

    Returns:
        ``[C, *patch_size]`` float32, and ``[1, *patch_size]`` of the type of the label.
    """
    # in the plane the slices are channels of a 2D image
    axes = (1, 2) if patch_map.in_plane else (0, 1, 2)
    coordinates = [_coordinate(patch_map.matrix, region, patch_size, axes, row) for row in axes]
    size = [int(patch_size[axis]) for axis in axes]
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    tensor = tensor.flatten(0, 1) if patch_map.in_plane else tensor
    # filled plane by plane: grid_sample wants the coordinates of a voxel together, the last axis first
    grid = np.empty((len(axes), *size), np.float32)
    flat_index = np.zeros(size, np.int32)
    for place, (row, coordinate) in enumerate(zip(axes, coordinates, strict=True)):
        length = int(region.size[row])
        # from -1 to 1 between the centres of the outermost voxels
        np.multiply(coordinate, np.float32(2 / max(length - 1, 1)), out=grid[-1 - place])
        flat_index *= length
        # the region holds all that the map needs, so no index leaves it
        flat_index += np.rint(coordinate, out=coordinate).astype(np.int32)
    grid -= 1
    grid = np.ascontiguousarray(np.moveaxis(grid, 0, -1))
    sampled = grid_sample(tensor[None], torch.from_numpy(grid)[None], align_corners=True)
    slices = label.reshape(-1, int(np.prod(region.size[list(axes)])))
    taken = np.take(slices, flat_index.reshape(-1), axis=1)
    shape = patch_size.tolist()
    return sampled.reshape(len(image), *shape).numpy(), taken.reshape(len(label), *shape)


def _coordinate(
    matrix: np.ndarray,
    region: Region,
    patch_size: np.ndarray,
    axes: tuple[int, ...],
    row: int,
) -> np.ndarray:
    """Where along axis ``row`` of the region each voxel of the patch is read, ``[*patch]`` float32."""
    value = np.float32(region.center[row])
    for place, column in enumerate(axes):
        shape = [1] * len(axes)
        shape[place] = -1
        offsets = np.arange(patch_size[column], dtype=np.float32) - (patch_size[column] - 1) / 2
        weight = np.float32(matrix[row, column])
        value = value + weight * offsets.astype(np.float32).reshape(shape)
    return np.asarray(value)

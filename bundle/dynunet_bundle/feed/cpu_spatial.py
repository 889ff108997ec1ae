"""Patches computed from regions on a CPU: scaled along the axes, or rotated by torch's ``grid_sample``."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch.nn.functional import grid_sample

from dynunet_bundle.feed.cpu_interpolation import Taps, cubic_taps, linear_taps, resampled, taken
from dynunet_bundle.feed.spatial import CROP, SCALE, PatchMap, ReadRegion


def scaled(
    image: np.ndarray,
    label: np.ndarray,
    patch_map: PatchMap,
    region: ReadRegion,
    patch_size: tuple[int, ...],
    cubic: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute a patch that is scaled along the axes.

    Args:
        image: ``[C, D, H, W]`` float32 of the region.
        label: ``[1, D, H, W]`` of the region; interpolated by nearest neighbour.
        patch_map: the map.
        region: position of image and label.
        patch_size: voxels per axis, three values.
        cubic: whether to interpolate the image by cubic convolution instead of linearly.

    Returns:
        ``[C, *patch_size]`` float32, and ``[1, *patch_size]`` with the type of the label.
    """
    taps: list[Taps | None] = []
    for axis, length in enumerate(patch_size):
        if axis == 0 and patch_map.in_plane:
            taps.append(None)
            continue
        positions = region.center[axis] + patch_map.matrix[axis, axis] * _offsets(length)
        of_axis = cubic_taps if cubic else linear_taps
        taps.append(of_axis(positions, region.size[axis]))
        label = taken(label, np.rint(positions).astype(np.intp), 1 + axis)
    if len(image) == 1:
        return resampled(image, taps), label
    # one channel at a time stays in the cache: half the time
    result = np.empty((len(image), *patch_size), np.float32)
    for channel, target in zip(image, result, strict=True):
        target[...] = resampled(channel, taps)
    return result, label


def warped(
    image: np.ndarray,
    label: np.ndarray,
    patch_map: PatchMap,
    region: ReadRegion,
    patch_size: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Compute a rotated patch, with linear interpolation; arguments and result as in ``scaled``."""
    matrix = patch_map.matrix
    # grid_sample counts from -1 to 1 between the centres of the outermost voxels
    factors = [2 / max(length - 1, 1) for length in region.size]
    if patch_map.in_plane:
        return _warped_in_plane(image, label, matrix, region, patch_size, factors)
    grid = np.empty((*patch_size, 3), np.float32)
    flat_index = np.zeros(patch_size, np.int32)
    for row in range(3):
        coordinate = _coordinate(matrix[row], region.center[row], patch_size)
        np.multiply(coordinate, np.float32(factors[row]), out=grid[..., 2 - row])
        flat_index *= region.size[row]
        # the region covers the whole map, so all indices are inside
        flat_index += np.rint(coordinate, out=coordinate).astype(np.int32)
    grid -= 1
    sampled = grid_sample(
        torch.from_numpy(np.array(image))[None], torch.from_numpy(grid)[None], align_corners=True
    )
    found = np.take(label.reshape(len(label), -1), flat_index.reshape(-1), axis=1)
    return sampled[0].numpy(), found.reshape(len(label), *patch_size)


def nearest(
    label: np.ndarray, patch_map: PatchMap, region: ReadRegion, patch_size: tuple[int, ...]
) -> np.ndarray:
    """Compute a patch of a label only, for any map, by nearest neighbour.

    Args:
        label: ``[1, D, H, W]`` of the region.
        patch_map: the map.
        region: position of the label.
        patch_size: voxels per axis, three values.

    Returns:
        ``[1, *patch_size]`` with the type of the label; for a crop the label itself.
    """
    if patch_map.kind == CROP:
        return label
    matrix = patch_map.matrix
    if patch_map.kind == SCALE:
        for axis, length in enumerate(patch_size):
            positions = region.center[axis] + matrix[axis, axis] * _offsets(length)
            label = taken(label, np.rint(positions).astype(np.intp), 1 + axis)
        return label
    flat_index = np.zeros(patch_size, np.int32)
    for row in range(3):
        coordinate = _coordinate(matrix[row], region.center[row], patch_size)
        flat_index *= region.size[row]
        flat_index += np.rint(coordinate, out=coordinate).astype(np.int32)
    return np.take(label.reshape(1, -1), flat_index.reshape(-1), axis=1).reshape(1, *patch_size)


def _warped_in_plane(
    image: np.ndarray,
    label: np.ndarray,
    matrix: np.ndarray,
    region: ReadRegion,
    patch_size: tuple[int, ...],
    factors: Sequence[float],
) -> tuple[np.ndarray, np.ndarray]:
    """Treat slices as channels of a 2D image; the label too, because 0 to 255 are exact in float32."""
    _, height, width = patch_size
    # a complex number holds the two coordinates of a voxel, last axis first, as grid_sample expects
    columns = complex(factors[2] * matrix[2, 2], factors[1] * matrix[1, 2])
    rows = complex(factors[2] * matrix[2, 1], factors[1] * matrix[1, 1])
    middle = complex(factors[2] * region.center[2] - 1, factors[1] * region.center[1] - 1)
    down = (middle + rows * _offsets(height)).astype(np.complex64)
    right = (columns * _offsets(width)).astype(np.complex64)
    grid = np.add.outer(down, right).view(np.float32).reshape(1, height, width, 2)
    found = []
    for volume, mode in ((image, "bilinear"), (label, "nearest")):
        plane = np.array(volume, np.float32).reshape(1, -1, *region.size[1:])
        sampled = grid_sample(
            torch.from_numpy(plane), torch.from_numpy(grid), mode=mode, align_corners=True
        )
        found.append(sampled.numpy().reshape(len(volume), *patch_size))
    return found[0], found[1].astype(label.dtype)


def _coordinate(row: np.ndarray, center: float, patch_size: tuple[int, ...]) -> np.ndarray:
    """Coordinate along one axis of the region of each voxel of the patch, ``[*patch]`` float32."""
    a, b, c = (
        (weight * _offsets(length)).astype(np.float32)
        for weight, length in zip(row, patch_size, strict=True)
    )
    plane = np.add.outer(b, c)
    return np.add.outer(a + np.float32(center), plane.reshape(-1)).reshape(patch_size)


@lru_cache(maxsize=16)
def _offsets(length: int) -> np.ndarray:
    """Voxel indices of an axis relative to its middle."""
    return np.arange(length) - (length - 1) / 2

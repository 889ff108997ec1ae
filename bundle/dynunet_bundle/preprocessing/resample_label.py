"""Resizing of labels, class by class, by the rules of nnU-Net.

The label is cut into tiles. Most contain one class only and are filled with it. In the others, the share of each
class present is computed for every voxel by the matrices of ``axis_matrix.py``, and the largest share wins. So a class
costs time only where it occurs, and memory beyond input and output is that of one tile.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from dynunet_bundle.preprocessing.axis_matrix import (
    LINEAR,
    Block,
    axis_blocks,
    axis_order,
    multiply,
    nearest_indices,
)

TILE_SIZE = 24
"""Size of a tile in new voxels along each axis; half or twice this size is slower."""

TIE = 1e-11
"""Difference below which two shares of a voxel are equal: above the rounding of coordinates of up to a few thousand
voxels (1e-12), and below the smallest true difference for sizes of up to 2000. nnU-Net compares exactly, so rounding
decides its ties if a factor is not a binary fraction."""


def resize_label(
    label: np.ndarray, shape: Sequence[int], coarse_axis: int | None = None
) -> np.ndarray:
    """Resize a label; a voxel gets the class with the largest share of it, interpolated linearly.

    Equal shares, common for even factors, go to the class of the nearest voxel if it is one of them, else to the
    smallest class (batchgenerators 0.25.5 ``resize_segmentation``, its default).

    Args:
        label: ``[1, D, H, W]``, whole numbers from 0 to 255; the ignore value is treated as a class.
        shape: target ``(D, H, W)``.
        coarse_axis: as in ``resize``.

    Returns:
        ``[1, *shape]`` uint8, with values of ``label`` only.
    """
    shape = tuple(int(size) for size in shape)
    label = label.astype(np.uint8, copy=False)
    if label.shape[1:] == shape:
        return label
    volume = label[0]
    if coarse_axis is None:
        return _resize_classes(volume, shape)[None]
    picked = nearest_indices(volume.shape[coarse_axis], shape[coarse_axis])
    needed, position = np.unique(picked, return_inverse=True)
    in_plane = tuple(
        len(needed) if axis == coarse_axis else size for axis, size in enumerate(shape)
    )
    resized = _resize_classes(volume.take(needed, coarse_axis), in_plane)
    return resized.take(position, coarse_axis)[None]


def _resize_classes(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize ``[D, H, W]`` uint8 in tiles: only tiles with several classes need computation and memory."""
    sizes = list(zip(volume.shape, shape, strict=True))
    nearest = [nearest_indices(old, new) for old, new in sizes]
    dtype = np.dtype(np.float64)
    result = np.empty(shape, np.uint8)
    for tile in itertools.product(
        *(axis_blocks(old, new, LINEAR, dtype, TILE_SIZE) for old, new in sizes)
    ):
        source = volume[tuple(block.source for block in tile)]
        target = tuple(block.target for block in tile)
        if (source == source.flat[0]).all():
            result[target] = source.flat[0]
        else:
            picked = np.ix_(*(indices[part] for indices, part in zip(nearest, target, strict=True)))
            result[target] = _largest_share(source, volume[picked], tile)
    return result


def _largest_share(source: np.ndarray, nearest: np.ndarray, tile: tuple[Block, ...]) -> np.ndarray:
    """The winning class of each voxel of a tile.

    Args:
        source: the old voxels that the tile depends on.
        nearest: for each new voxel the class of the nearest old one.
        tile: one block per axis.

    Returns:
        Classes in the shape of ``nearest``.
    """
    best = np.zeros(nearest.shape)
    share_of_nearest = np.zeros(nearest.shape)
    winner = np.zeros_like(nearest)
    for value in np.flatnonzero(np.bincount(source.ravel())):
        share = (source == value).astype(np.float64)
        for axis in axis_order(source.shape, nearest.shape):
            share = multiply(share, axis, (tile[axis].alone(),))
        np.copyto(winner, value, where=share > best + TIE, casting="unsafe")
        np.copyto(share_of_nearest, share, where=nearest == value)
        np.maximum(best, share, out=best)
    return np.where(share_of_nearest >= best - TIE, nearest, winner)

"""Resizing of labels, class by class, by the rules of nnU-Net.

The label is cut into tiles. Most see one class only and are filled; in the others each class that is there gets its
share of every voxel, by the matrices of ``axis_matrix.py``, and the largest share wins. So classes cost nothing where
they are not, and no memory beyond input, output and one tile.
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
"""New voxels along each axis of the tiles that a label is cut into; half or twice as many take longer."""

TIE = 1e-11
"""Shares of a voxel that differ by less are equal: above the rounding of coordinates of up to a few thousand voxels
(1e-12), and below the least difference that sizes of up to 2000 can make. nnU-Net compares exactly, so it leaves ties
to rounding where a factor is no binary fraction."""


def resize_label(
    label: np.ndarray, shape: Sequence[int], coarse_axis: int | None = None
) -> np.ndarray:
    """Resize a label; a voxel takes the class with the largest share of it, interpolated linearly.

    Equal shares, common where a factor is even, go to the class of the nearest voxel if it is one of the equal ones,
    else to the smallest (batchgenerators 0.25.5 ``resize_segmentation``, its default).

    Args:
        label: ``[1, D, H, W]``, whole numbers from 0 to 255; what is to be ignored is a class like the others.
        shape: wanted ``(D, H, W)``.
        coarse_axis: as in ``resize``.

    Returns:
        ``[1, *shape]`` uint8; values occur in ``label``.
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
    """Resize ``[D, H, W]`` uint8 in tiles: classes cost only where they meet another, and only there memory."""
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
        source: the old voxels that the tile sees.
        nearest: for each new voxel the class of the nearest old one.
        tile: one block for each axis.

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

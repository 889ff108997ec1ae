"""Resizing along one axis as a product with a matrix.

Spline resizing is linear and separable, so each axis has a matrix ``[new, old]``. Its columns are the results of
``ndimage.zoom`` for unit vectors, so borders are treated as in SciPy; BLAS applies it. A new voxel depends on few old
ones, so the matrix is stored as blocks along its diagonal.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

LINEAR = 1
NEAREST = 0
"""Spline orders."""

NEGLIGIBLE = 1 / 16
"""Smallest weight that is kept, in units of a type's machine epsilon. Spline weights fall by a factor of 0.27 from
voxel to voxel, so few are needed."""

MAX_PRODUCT = 2**18
"""Largest product given to BLAS at once, in multiplications: up to this size NumPy's OpenBLAS stays on the calling
thread (``interface/gemm.c``). So the result does not depend on its number of threads, and cases prepared in parallel
do not wait for each other: without this limit four of them took 15 times as long."""


class Block(NamedTuple):
    """A range of rows of a matrix, and the columns that they need.

    Attributes:
        source: old voxels, the columns.
        target: new voxels, the rows.
        weights: ``[rows, columns]``; None for the identity.
    """

    source: slice
    target: slice
    weights: np.ndarray | None

    def alone(self) -> "Block":
        """The same block for an array that is already cut to ``source``."""
        return Block(slice(None), slice(0, self.target.stop - self.target.start), self.weights)


@lru_cache(maxsize=256)
def axis_blocks(old: int, new: int, order: int, dtype: np.dtype, size: int) -> tuple[Block, ...]:
    """The matrix that resizes one axis, in blocks of ``size`` rows.

    Args:
        old: number of voxels before.
        new: number of voxels after.
        order: spline order, at least 1.
        dtype: floating-point type of the weights.
        size: rows per block.
    """
    targets = [slice(start, min(start + size, new)) for start in range(0, new, size)]
    if old == new:
        return tuple(Block(target, target, None) for target in targets)
    matrix = np.stack([_zoom(line, new, order) for line in np.eye(old)], axis=1)
    negligible = NEGLIGIBLE * np.finfo(dtype).eps
    blocks = []
    for target in targets:
        seen = np.flatnonzero((abs(matrix[target]) > negligible).any(axis=0))
        source = slice(int(seen[0]), int(seen[-1]) + 1)
        weights = matrix[target, source].astype(dtype)
        weights.flags.writeable = False  # cached, so shared by all callers
        blocks.append(Block(source, target, weights))
    return tuple(blocks)


def axis_order(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """Order in which to resize the axes: those that shrink most first, which leaves less work for the others.

    Unchanged axes come first of all: slabs along them are independent.
    """
    return sorted(range(len(old)), key=lambda axis: (old[axis] != new[axis], new[axis] / old[axis]))


def multiply(array: np.ndarray, axis: int, blocks: Sequence[Block]) -> np.ndarray:
    """Multiply along one axis with a matrix given as blocks.

    Args:
        array: ``[D, H, W]`` with the type of the weights, contiguous along the last axis.
        axis: 0, 1 or 2.
        blocks: all rows, in order.

    Returns:
        ``array`` with the new size along ``axis``; ``array`` itself if the axis is unchanged.
    """
    before, old, after = array.shape[:axis], array.shape[axis], array.shape[axis + 1 :]
    new, inner = blocks[-1].target.stop, math.prod(after)
    # [rows, old] for the last axis, else [planes, old, columns]: BLAS reads both without a copy
    flat = array.reshape(-1, old) if inner == 1 else array.reshape(-1, old, inner)
    result = np.empty((len(flat), new, *flat.shape[2:]), array.dtype)
    for source, target, weights in blocks:
        if weights is None:
            return array
        step = max(MAX_PRODUCT // weights.size, 1)
        for start in range(0, len(flat) if inner == 1 else inner, step):
            part = slice(start, start + step)
            if inner == 1:
                np.matmul(flat[part, source], weights.T, out=result[part, target])
            else:
                np.matmul(weights, flat[:, source, part], out=result[:, target, part])
    return result.reshape(*before, new, *after)


def nearest_indices(old: int, new: int) -> np.ndarray:
    """For each new voxel the index of the old one that contains its centre, the later of two; ``[new]`` int."""
    return _zoom(np.arange(old), new, NEAREST)


def _zoom(line: np.ndarray, size: int, order: int) -> np.ndarray:
    # same arguments as in skimage.transform.resize(mode="edge")
    return ndimage.zoom(line, size / len(line), order=order, mode="nearest", grid_mode=True)

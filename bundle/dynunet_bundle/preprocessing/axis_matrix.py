"""Resizing along one axis as a product with a matrix.

Resizing by splines is linear and works on each axis by itself, so every axis has a matrix ``[new, old]``. SciPy gives
it, as what ``ndimage.zoom`` makes of unit vectors, so borders are SciPy's own; BLAS applies it. A new voxel sees few
old ones, so the matrix is kept as blocks on its diagonal.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

LINEAR = 1
NEAREST = 0

NEGLIGIBLE = 1 / 16
"""Weights below this part of the rounding of a type are left out; a spline's fall to 0.27 from voxel to voxel."""

MAX_PRODUCT = 2**18
"""Multiplications that BLAS is given at once. So many OpenBLAS, which NumPy brings, does on the calling thread
(``interface/gemm.c``). So the result does not depend on the number of its threads, and cases that are prepared side by
side don't wait for one another: without this limit four of them took 15 times as long."""


class Block(NamedTuple):
    """Some rows of a matrix and the columns that they need.

    Attributes:
        source: the old voxels, columns.
        target: the new voxels, rows.
        weights: ``[rows, columns]``; None keeps the voxels as they are.
    """

    source: slice
    target: slice
    weights: np.ndarray | None

    def alone(self) -> "Block":
        """The same block for an array that was cut to ``source``."""
        return Block(slice(None), slice(0, self.target.stop - self.target.start), self.weights)


@lru_cache(maxsize=256)
def axis_blocks(old: int, new: int, order: int, dtype: np.dtype, size: int) -> tuple[Block, ...]:
    """The matrix that resizes one axis, in blocks of ``size`` rows.

    Args:
        old: voxels before.
        new: voxels after.
        order: spline order, from 1.
        dtype: floating-point type of the weights.
        size: rows of a block.
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
        weights.flags.writeable = False  # shared by all that ask for the same sizes
        blocks.append(Block(source, target, weights))
    return tuple(blocks)


def axis_order(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """Axes in the order to resize them: the most shrunk first, so that there is less to do along the others.

    Axes that stay come before all: slabs along them have nothing in common.
    """
    return sorted(range(len(old)), key=lambda axis: (old[axis] != new[axis], new[axis] / old[axis]))


def multiply(array: np.ndarray, axis: int, blocks: Sequence[Block]) -> np.ndarray:
    """Multiply along one axis with a matrix given as blocks.

    Args:
        array: ``[D, H, W]`` of the type of the weights, contiguous along the last axis.
        axis: 0, 1 or 2.
        blocks: all rows, from the first to the last.

    Returns:
        ``array`` with the new size along ``axis``; ``array`` itself where that axis stays.
    """
    before, old, after = array.shape[:axis], array.shape[axis], array.shape[axis + 1 :]
    new, inner = blocks[-1].target.stop, math.prod(after)
    # [rows, old] for the last axis, else [planes, old, columns]: BLAS takes both as they lie in memory
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
    """For each new voxel the old one whose extent holds its centre, the later of two, ``[new]`` int."""
    return _zoom(np.arange(old), new, NEAREST)


def _zoom(line: np.ndarray, size: int, order: int) -> np.ndarray:
    # grid_mode with "nearest" borders is what skimage.transform.resize(mode="edge") calls
    return ndimage.zoom(line, size / len(line), order=order, mode="nearest", grid_mode=True)

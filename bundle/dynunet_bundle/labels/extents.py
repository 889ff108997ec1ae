"""How much of each class is in a mask, and in how many pieces."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MM3_PER_ML = 1000.0


class Extents(NamedTuple):
    """By class number from 1 on.

    Attributes:
        volumes_ml: millilitres.
        components: connected components, voxels that touch at a corner being connected.
    """

    volumes_ml: list[float]
    components: list[int]


def class_extents(mask: np.ndarray, affine: np.ndarray, classes: Sequence[int]) -> Extents:
    """Measure some classes of a mask.

    Args:
        mask: ``[X, Y, Z]`` whole numbers.
        affine: ``[4, 4]``, from voxel indices to millimetres.
        classes: the numbers in the mask to measure.
    """
    import cc3d

    voxel_ml = abs(float(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3]))) / MM3_PER_ML
    # in an image of one slice all neighbours lie in it; 26 of them count all the same
    pieces, number = cc3d.connected_components(
        np.ascontiguousarray(mask), connectivity=26, return_N=True
    )
    labels, values = pieces.reshape(-1), mask.reshape(-1)
    # where a piece begins along the lines of voxels is enough to know its class
    begins = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1])
    class_of = np.zeros(number + 1, mask.dtype)
    class_of[labels[begins]] = values[begins]
    voxels = [int(np.count_nonzero(mask == value)) for value in classes]
    return Extents(
        [count * voxel_ml for count in voxels],
        [int(np.count_nonzero(class_of[1:] == value)) for value in classes],
    )

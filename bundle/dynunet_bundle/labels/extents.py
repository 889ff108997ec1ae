"""Volume and number of connected components of each class in a mask."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MM3_PER_ML = 1000.0


class Extents(NamedTuple):
    """Measurements, one entry per measured class.

    Attributes:
        volumes_ml: volumes in millilitres.
        components: number of connected components; voxels that share a corner are connected.
    """

    volumes_ml: list[float]
    components: list[int]


def class_extents(mask: np.ndarray, affine: np.ndarray, classes: Sequence[int]) -> Extents:
    """Measure classes of a mask.

    Args:
        mask: ``[X, Y, Z]`` whole numbers.
        affine: ``[4, 4]``, from voxel indices to millimetres.
        classes: numbers in the mask to measure.
    """
    import cc3d

    voxel_ml = abs(float(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3]))) / MM3_PER_ML
    # 26 is right for an image of one slice, too: the neighbours outside it do not exist
    pieces, number = cc3d.connected_components(
        np.ascontiguousarray(mask), connectivity=26, return_N=True
    )
    labels, values = pieces.reshape(-1), mask.reshape(-1)
    # one voxel of a component tells its class: take the first of each run along the lines of voxels
    begins = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1])
    lengths, class_of_run = np.diff(begins, append=labels.size), values[begins]
    class_of = np.zeros(number + 1, mask.dtype)
    class_of[labels[begins]] = class_of_run
    voxels = [int(lengths[class_of_run == value].sum()) for value in classes]
    return Extents(
        [count * voxel_ml for count in voxels],
        [int(np.count_nonzero(class_of[1:] == value)) for value in classes],
    )

"""Bounding box of a mask.

MONAI's ``generate_spatial_bounding_box`` gives the same box, but planning works without MONAI and torch.
"""

import numpy as np


def bounding_box(mask: np.ndarray, margin: int = 0) -> tuple[slice, ...] | None:
    """Find the smallest box around all voxels that are set.

    Args:
        mask: boolean, any number of axes.
        margin: voxels to add on each side, within the array.

    Returns:
        One slice per axis; None if no voxel is set.
    """
    box = []
    for axis, length in enumerate(mask.shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        if not len(found):
            return None
        box.append(slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + margin + 1, length)))
    return tuple(box)

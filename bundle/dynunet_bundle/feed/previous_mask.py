"""Apply the drawn changes to the previous stage's mask of a sample, always on a CPU.

Morphology needs distances up to the radius only. So squared distances are computed as integers, axis by axis, up to
the radius, within the bounding box of the class. nnU-Net convolves the whole patch with a ball by Fourier transforms;
for an integer radius the result is the same. For other radii nnU-Net rounds the radius down, or uses a ball of an even
number of voxels, which shifts the mask; here the ball contains all voxels within the radius.
"""

import math
from collections.abc import Sequence

import cc3d
import numpy as np

from dynunet_bundle.feed.previous_mask_draws import MaskChange, Morphology, Removal
from dynunet_bundle.images.boxes import bounding_box

CONNECTIVITY = {2: 8, 3: 26}
"""Connectivity by number of axes: faces, edges and corners, the default of skimage's ``label``, as in nnU-Net."""


def changed_mask(classes: np.ndarray, changes: Sequence[MaskChange]) -> np.ndarray:
    """Change a mask.

    Args:
        classes: class numbers ``[*spatial]`` uint8 of a patch, two or three axes.
        changes: changes to apply, in this order.

    Returns:
        A new array, or ``classes`` itself without changes.
    """
    if not changes:
        return classes
    result = np.array(classes, order="C")
    for change in changes:
        if isinstance(change, Morphology):
            _reshape(result, change)
        else:
            _remove(result, change)
    return result


def _reshape(classes: np.ndarray, change: Morphology) -> None:
    mask = classes == change.value
    # a closing dilates, then erodes: voxels farther away than twice the radius have no effect
    box = bounding_box(mask, 2 * math.ceil(change.radius) + 1)
    if box is None:
        return
    before = mask[box]
    after = _operated(before, change)
    part = classes[box]
    part[before & ~after] = 0
    part[after] = change.value


def _operated(mask: np.ndarray, change: Morphology) -> np.ndarray:
    radius = change.radius
    if change.operation == "dilation":
        return dilated(mask, radius)
    if change.operation == "erosion":
        return eroded(mask, radius)
    if change.operation == "closing":
        return eroded(dilated(mask, radius), radius)
    return dilated(eroded(mask, radius), radius)


def dilated(mask: np.ndarray, radius: float) -> np.ndarray:
    """All voxels within ``radius`` voxels of a boolean mask of any shape; outside the array the mask is False."""
    limit = math.floor(radius**2)
    far = limit + 1
    dtype = np.min_scalar_type(far + limit)  # largest possible sum below
    squares = np.where(mask, 0, far).astype(dtype)
    for axis in range(mask.ndim):
        before = np.moveaxis(squares, axis, 0)
        squares = squares.copy()
        after = np.moveaxis(squares, axis, 0)
        for step in range(1, min(math.floor(radius), len(before) - 1) + 1):
            more = dtype.type(step**2)
            np.minimum(after[step:], before[:-step] + more, out=after[step:])
            np.minimum(after[:-step], before[step:] + more, out=after[:-step])
    return squares <= limit


def eroded(mask: np.ndarray, radius: float) -> np.ndarray:
    """All voxels of a mask farther than ``radius`` voxels from its complement; outside the array is not counted."""
    return ~dilated(~mask, radius)


def _remove(classes: np.ndarray, change: Removal) -> None:
    mask = classes == change.value
    box = bounding_box(mask)
    if box is None:
        return
    labels = cc3d.connected_components(
        np.ascontiguousarray(mask[box]), connectivity=CONNECTIVITY[mask.ndim]
    )
    sizes = np.bincount(labels.ravel())[1:]
    small = np.flatnonzero(sizes < change.max_share * mask.size)
    if len(small):
        component = small[int(change.place * len(small))] + 1
        classes[box][labels == component] = change.refill

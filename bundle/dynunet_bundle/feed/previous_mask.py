"""The previous stage's mask of a sample: changed as it was drawn, on a CPU, whoever computes the image.

Morphology needs the distance to what is set, but only up to the radius. So the squares of distances are counted in
whole numbers, axis by axis and no further than the radius, in the box of the class. nnU-Net convolves with a ball by
Fourier transforms of the whole patch; what comes out is the same for a whole radius. For others its ball is that of the
radius rounded down, or one with an even number of voxels, which moves the mask; here it is what lies within the radius.
"""

import math
from collections.abc import Sequence

import cc3d
import numpy as np

from dynunet_bundle.feed.previous_mask_draws import MaskChange, Morphology, Removal
from dynunet_bundle.images.boxes import bounding_box

CONNECTIVITY = {2: 8, 3: 26}
"""Components touch by faces, edges or corners: the default of skimage's ``label``, which nnU-Net uses."""


def changed_mask(classes: np.ndarray, changes: Sequence[MaskChange]) -> np.ndarray:
    """Change a mask.

    Args:
        classes: class numbers ``[*spatial]`` uint8 of a patch, two or three axes.
        changes: what to do, in this order.

    Returns:
        A new array, or ``classes`` where nothing is to be done.
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
    # a closing grows and shrinks again: nothing farther away than twice the radius can matter
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
    """What lies within ``radius`` voxels of a mask, boolean of any shape; there is nothing outside the array."""
    limit = math.floor(radius**2)
    far = limit + 1
    dtype = np.min_scalar_type(far + limit)  # no sum below is larger
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
    """What of a mask lies farther than ``radius`` voxels from what is not set; nothing outside the array counts."""
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

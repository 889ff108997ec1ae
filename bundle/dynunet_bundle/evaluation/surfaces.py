"""Distances between the surfaces of two masks, in millimetres, made of parts of MONAI's metrics.

MONAI has two notions of a surface, and each measure follows the one that it is usually reported with:

* HD95 and ASSD count *voxels*: those of a mask that have a face in common with the background, at their centres, all of
  the same weight. So do MONAI's ``compute_hausdorff_distance`` and ``compute_average_surface_distance``.
* NSD weighs *areas*: the pieces of surface inside each 2x2x2 voxels by their mm2 (in 2D by their length). So do MONAI's
  ``compute_surface_dice`` with ``use_subvoxels`` and DeepMind's ``surface_distance``. The latter weighs its robust
  Hausdorff and average distances by area, too: they differ from ours.

Not called as a whole, MONAI's three functions agree with these, but each finds surfaces and distances anew, copies
whole volumes before it crops, and finds pieces of surface by a convolution (6 s for two masks of 26 million voxels on a
core, here 0.3). And they cannot tell the border of what nobody labelled from a surface.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from monai.metrics.utils import get_code_to_measure_table, get_mask_edges, get_surface_distance
from scipy import ndimage

HD_PERCENTILE = 95
ROUNDING_MM = 1e-4
"""A distance of two voxels of 0.5 mm is within 1 mm, though headers (float32) make it 1.00000001."""


class SurfaceMeasures(NamedTuple):
    """How far two surfaces lie apart.

    Attributes:
        hd95_mm: the larger of both directed 95th percentiles of the distances between surface voxels.
        assd_mm: the mean of the distances of all surface voxels of both masks.
        nsd: the part of both surfaces' area that is not farther from the other one than the tolerance.
    """

    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None


def surface_measures(
    predicted: np.ndarray,
    expected: np.ndarray,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    labelled: np.ndarray | None = None,
) -> SurfaceMeasures:
    """Compare two surfaces; where the array ends, so does the mask.

    Voxels that nobody labelled take the class of the nearest one that is labelled, in both masks, and only surface at
    labelled voxels counts, since the border of what is unknown is no surface. MONAI's ``ignore_index`` makes it one, so
    that of a single labelled slice each voxel would lie on the surface.

    Args:
        predicted: boolean, two or three axes.
        expected: boolean, the same shape.
        spacing_mm: size of a voxel along each axis.
        tolerance_mm: distance up to which NSD takes surfaces for equal.
        labelled: False where nobody labelled; None where all is labelled.

    Returns:
        The measures. Distances are None where a mask has no surface; NSD is then 0, or None if both have none.
    """
    if labelled is not None:
        predicted, expected = _filled(predicted, expected, labelled, spacing_mm)
        labelled = np.pad(labelled, 1)
    masks = (np.pad(predicted, 1), np.pad(expected, 1))
    hd95_mm, assd_mm = _voxel_distances(masks, spacing_mm, labelled)
    return SurfaceMeasures(hd95_mm, assd_mm, _nsd(masks, spacing_mm, tolerance_mm, labelled))


def _voxel_distances(
    masks: Sequence[np.ndarray], spacing_mm: Sequence[float], labelled: np.ndarray | None
) -> tuple[float | None, float | None]:
    """HD95 and ASSD."""
    predicted, expected = get_mask_edges(*masks, crop=False)
    if labelled is not None:
        predicted, expected = predicted & labelled, expected & labelled
    if not (predicted.any() and expected.any()):
        return None, None
    pair = (
        _distances(predicted, expected, spacing_mm),
        _distances(expected, predicted, spacing_mm),
    )
    hd95_mm = max(np.percentile(distances, HD_PERCENTILE) for distances in pair)
    return float(hd95_mm), float(np.concatenate(pair).mean(dtype=float))


def _nsd(
    masks: Sequence[np.ndarray],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    labelled: np.ndarray | None,
) -> float | None:
    """Normalized surface Dice (Nikolov et al. 2018, arXiv:1809.04430)."""
    areas = [_areas(mask, spacing_mm) for mask in masks]
    if labelled is not None:
        # a piece of surface counts where one of the voxels around it is labelled
        around = ndimage.maximum_filter(labelled, size=2, origin=-1)[(slice(-1),) * labelled.ndim]
        areas = [area * around for area in areas]
    predicted, expected = (area > 0 for area in areas)
    whole = sum(float(area.sum(dtype=float)) for area in areas)
    near = 0.0
    if predicted.any() and expected.any():
        for area, own, other in zip(
            areas, (predicted, expected), (expected, predicted), strict=True
        ):
            close = _distances(own, other, spacing_mm) <= tolerance_mm + ROUNDING_MM
            near += float(area[own][close].sum(dtype=float))
    return near / whole if whole else None


def _areas(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Area of the surface inside each 2x2x2 voxels (DeepMind's tables, by way of MONAI); 0 where there is none.

    Args:
        mask: boolean, its borders False.
        spacing_mm: size of a voxel along each axis.

    Returns:
        float32, along each axis one less than the mask.
    """
    table, weights = get_code_to_measure_table(tuple(spacing_mm))
    bits = mask.view(np.uint8)
    codes = np.zeros([size - 1 for size in mask.shape], np.uint8)
    for corner in product((0, 1), repeat=mask.ndim):
        shifted = tuple(
            slice(start, start + size) for start, size in zip(corner, codes.shape, strict=True)
        )
        codes += bits[shifted] * np.uint8(weights[(0, 0, *corner)])
    return table.numpy()[codes]


def _distances(own: np.ndarray, other: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance from each element of a surface to the nearest of another, in the order of the array.

    Those that both have in common need not be looked for.
    """
    distances = np.zeros(own.shape, np.float32)
    apart = own & ~other
    if apart.any():
        distances[apart] = get_surface_distance(apart, other, spacing=spacing_mm)
    return distances[own]


def _filled(
    predicted: np.ndarray, expected: np.ndarray, labelled: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Both masks with the nearest labelled voxel in the place of each other one."""
    nearest = tuple(
        ndimage.distance_transform_edt(
            ~labelled, sampling=spacing_mm, return_distances=False, return_indices=True
        )
    )
    return predicted[nearest], expected[nearest]

"""Distances between the surfaces of two masks, in millimetres, built from parts of MONAI's metrics.

MONAI has two definitions of a surface; each measure uses the one it is usually reported with:

* HD95 and ASSD count *voxels*: voxels of a mask that share a face with the background, at their centres, equally
  weighted, as in MONAI's ``compute_hausdorff_distance`` and ``compute_average_surface_distance``.
* NSD weights *areas*: the surface element inside each 2x2x2 voxels by its mm2 (in 2D by its length), as in MONAI's
  ``compute_surface_dice`` with ``use_subvoxels`` and DeepMind's ``surface_distance``. The latter also weights its
  robust Hausdorff and average distances by area: they differ from ours.

MONAI's three functions give the same values but are not called: each computes surfaces and distances again, copies
whole volumes before it crops, and finds surface elements by a convolution (6 s for two masks of 26 million voxels on
one core, 0.3 s here). They also count the border of unlabelled voxels as surface.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from monai.metrics.utils import get_code_to_measure_table, get_mask_edges, get_surface_distance
from scipy import ndimage

HD_PERCENTILE = 95
ROUNDING_MM = 1e-4
"""Slack of the NSD tolerance: two voxels of 0.5 mm are within 1 mm although float32 headers give 1.00000001."""


class SurfaceMeasures(NamedTuple):
    """Distances between two surfaces.

    Attributes:
        hd95_mm: the larger of the two directed 95th percentiles of the distances between surface voxels.
        assd_mm: mean distance over the surface voxels of both masks.
        nsd: fraction of the area of both surfaces that is within the tolerance of the other surface.
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
    """Compare two surfaces; a mask that touches the border of the array has a surface there.

    In both masks, unlabelled voxels take the class of the nearest labelled voxel, and only surface at labelled voxels
    counts: the border of an unlabelled area is not a surface. MONAI's ``ignore_index`` treats it as one, so that every
    voxel of a single labelled slice would be on the surface.

    Args:
        predicted: boolean, two or three axes.
        expected: boolean, the same shape.
        spacing_mm: voxel size along each axis.
        tolerance_mm: distance up to which NSD counts surfaces as equal.
        labelled: boolean, False at unlabelled voxels; None if all voxels are labelled.

    Returns:
        The measures. Distances are None if a mask has no surface; NSD is then 0, or None if neither has one.
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
        # a surface element counts if one of the voxels around it is labelled
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
    """Surface area inside each 2x2x2 voxels, 0 without surface; uses DeepMind's tables as shipped in MONAI.

    Args:
        mask: boolean, False along its borders.
        spacing_mm: voxel size along each axis.

    Returns:
        float32, mm2 (mm in 2D); each axis is one shorter than the mask's.
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

    Elements in both surfaces have distance 0 and are not searched.
    """
    distances = np.zeros(own.shape, np.float32)
    apart = own & ~other
    if apart.any():
        distances[apart] = get_surface_distance(apart, other, spacing=spacing_mm)
    return distances[own]


def _filled(
    predicted: np.ndarray, expected: np.ndarray, labelled: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Both masks, each unlabelled voxel replaced by the nearest labelled one."""
    nearest = tuple(
        ndimage.distance_transform_edt(
            ~labelled, sampling=spacing_mm, return_distances=False, return_indices=True
        )
    )
    return predicted[nearest], expected[nearest]

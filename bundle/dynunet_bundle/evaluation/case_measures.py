"""All measures of one case: overlap, surfaces and volumes of each class or region, in native space.

Values of a class that is absent from one or both masks:

| class is in | dice, iou | nsd | hd95_mm, assd_mm | sensitivity | precision | volumes |
|---|---|---|---|---|---|---|
| both masks | yes | yes | yes | yes | yes | yes |
| neither mask | None | None | None | None | None | 0 |
| the reference only | 0 | 0 | None | 0 | None | yes |
| the prediction only | 0 | 0 | None | None | 0 | yes |

Means leave None out. nnU-Net does the same for Dice and IoU (``compute_metrics`` of 2.8.1: nan if both masks are
empty). A distance to an empty mask is undefined: any number for it would be arbitrary, so such cases are only counted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from monai.data.utils import affine_to_spacing
from scipy import ndimage

from dynunet_bundle.errors import CaseError, ConfigError
from dynunet_bundle.evaluation.dice import members
from dynunet_bundle.evaluation.statistics import PIXEL_NAMES, Measures
from dynunet_bundle.evaluation.surfaces import SurfaceMeasures, surface_measures
from dynunet_bundle.labels.extents import MM3_PER_ML
from dynunet_bundle.labels.scheme import IGNORE_CLASS

NSD_TOLERANCE_MM = 1.0
MIN_AXES = 2


class Grid(NamedTuple):
    """Voxel size of a case.

    Attributes:
        spacing_mm: voxel size along each axis of the array; 1 for a picture.
        voxel_ml: voxel volume.
        in_pixels: whether the case is a plain picture, which is measured in pixels.
    """

    spacing_mm: tuple[float, ...]
    voxel_ml: float
    in_pixels: bool = False


def grid_of(affine: np.ndarray, case: str, in_pixels: bool = False) -> Grid:
    """The grid of a case; the axes may be oblique.

    Args:
        affine: ``[4, 4]`` from voxel indices to millimetres. The spacing is the length of its columns; the voxel
            volume is their determinant, which is less than the product of the spacing if the gantry was tilted.
        case: name of the case, for the message.
        in_pixels: whether the case is a plain picture, see ``counts_pixels``.

    Raises:
        CaseError: if the voxel volume is zero or not finite.
    """
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / MM3_PER_ML
    if not (np.isfinite(voxel_ml) and voxel_ml > 0):
        raise CaseError(
            case,
            f"the affine {np.asarray(affine).tolist()} gives its voxels a volume of {voxel_ml} ml",
            "Repair the header of the file.",
        )
    return Grid(tuple(affine_to_spacing(affine).tolist()), voxel_ml, in_pixels)


def require_tolerance(tolerance_mm: float) -> None:
    """Refuse a negative or non-finite tolerance.

    Raises:
        ConfigError: naming the value.
    """
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ConfigError(f"nsd_tolerance_mm is {tolerance_mm}. Pass 0 or more.")


def measure_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    targets: Sequence[Sequence[int]],
    grid: Grid,
    tolerance_mm: float = NSD_TOLERANCE_MM,
) -> list[Measures]:
    """Measure each class or region of one case, inside its bounding box.

    Args:
        prediction: class numbers ``[X, Y, Z]``, integers; axes of size 1 are dropped down to two axes.
        reference: class numbers, the same shape; no measure counts voxels that are ``IGNORE_CLASS`` here.
        targets: the classes of each region, or one class each.
        grid: result of ``grid_of``.
        tolerance_mm: distance up to which NSD counts surfaces as equal.

    Returns:
        One dictionary per target, with all of ``statistics.MEASURES``, or ``PIXEL_MEASURES`` of a picture.

    Raises:
        ValueError: if the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"shapes differ: {prediction.shape} and {reference.shape}")
    prediction, reference, spacing_mm = _without_flat_axes(prediction, reference, grid.spacing_mm)
    boxes = [ndimage.find_objects(mask, IGNORE_CLASS - 1) for mask in (prediction, reference)]
    measures = []
    for classes in targets:
        around = [found[number - 1] for found in boxes for number in classes]
        box = _union(around, reference.ndim)
        ours, theirs = prediction[box], reference[box]
        known = theirs != IGNORE_CLASS
        predicted, expected = members(ours, classes) & known, members(theirs, classes) & known
        surfaces = SurfaceMeasures(None, None, None)
        if predicted.any() and expected.any():
            labelled = None if known.all() else known
            surfaces = surface_measures(predicted, expected, spacing_mm, tolerance_mm, labelled)
        measures.append(_all_measures(predicted, expected, surfaces, grid))
    return measures


def _without_flat_axes(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Drop the flat axis of a picture or single slice: along that axis its whole area would be surface."""
    flat = [axis for axis, size in enumerate(prediction.shape) if size == 1]
    dropped = tuple(flat[::-1][: max(prediction.ndim - MIN_AXES, 0)])
    sizes = spacing_mm[: prediction.ndim]
    spacing = [size for axis, size in enumerate(sizes) if axis not in dropped]
    return prediction.squeeze(dropped), reference.squeeze(dropped), spacing


def _union(boxes: Sequence[tuple[slice, ...] | None], num_axes: int) -> tuple[slice, ...]:
    """Union of the boxes, padded by one voxel where possible; empty if all are None."""
    present = [box for box in boxes if box is not None]
    if not present:
        return (slice(0),) * num_axes
    return tuple(
        slice(max(min(part.start for part in parts) - 1, 0), max(part.stop for part in parts) + 1)
        for parts in zip(*present, strict=True)
    )


def _all_measures(
    predicted: np.ndarray, expected: np.ndarray, surfaces: SurfaceMeasures, grid: Grid
) -> Measures:
    num_predicted, num_expected = int(predicted.sum()), int(expected.sum())
    overlap = int((predicted & expected).sum())
    nsd = surfaces.nsd
    if (num_predicted == 0) != (num_expected == 0):
        nsd = 0.0
    # an area is a whole number of pixels
    size = 1 if grid.in_pixels else grid.voxel_ml
    measures = {
        "dice": _ratio(2 * overlap, num_predicted + num_expected),
        "iou": _ratio(overlap, num_predicted + num_expected - overlap),
        "hd95_mm": surfaces.hd95_mm,
        "assd_mm": surfaces.assd_mm,
        "nsd": nsd,
        "sensitivity": _ratio(overlap, num_expected),
        "precision": _ratio(overlap, num_predicted),
        "volume_ml": num_predicted * size,
        "reference_volume_ml": num_expected * size,
        "volume_difference_ml": (num_predicted - num_expected) * size,
    }
    names = PIXEL_NAMES if grid.in_pixels else {}
    return {names.get(name, name): value for name, value in measures.items()}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None

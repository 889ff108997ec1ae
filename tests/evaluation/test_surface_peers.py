"""Surface measures of real masks, compared with MONAI's own functions and DeepMind's ``surface_distance``."""

import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from monai.metrics.utils import get_edge_surface_distance
from scipy import ndimage

from dynunet_bundle.evaluation.case_measures import grid_of, measure_case
from dynunet_bundle.images.read import read_volume

surface_distance = pytest.importorskip("surface_distance")

# a file and one of its values; voxels of 1 mm, and 0.5 x 0.5 x 7.5, 1, 0.5 x 0.5 x 3, 0.66 x 0.66 x 2.1 mm
MASKS = {
    "hippocampus": ("Task04_Hippocampus/labelsTr/hippocampus_003.nii.gz", 1),
    "thick slices": ("extra/spinalcord_t2s/labelsTr/errsm30_t2s.nii.gz", 1),
    "other axes": ("extra/spinalcord_t2_psr/labelsTr/errsm30_t2.nii.gz", 1),
    "prostate": ("extra/prostatex_t2_adc/labelsTr/ProstateX-0001.nii.gz", 2),
    "small lesion": ("extra/pyradiomics_breast/labelsTr/breast1.nii.gz", 1),
    "picture": ("extra/wbc_2d_rgb/labels/001.png", 255),
}
TOLERANCE_MM = 1.0
WITH_ROUNDING_MM = TOLERANCE_MM + 1e-4
"""Tolerance for the peers, so that 2 x 0.5 mm by a header are within 1 mm for them, too."""


def shifted(mask: np.ndarray) -> np.ndarray:
    return np.roll(mask, (1, 2), (0, 1))


def eroded(mask: np.ndarray) -> np.ndarray:
    return ndimage.binary_erosion(mask, np.ones([min(size, 2) for size in mask.shape]))


@pytest.fixture(params=[*MASKS])
def masks(request, real_data):
    """Predictions, by the change that was made to the reference; the reference; and the affine."""
    file, value = MASKS[request.param]
    path = real_data / file
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    volume = read_volume(path)
    reference = np.rint(volume.array[0]) == value
    assert reference.any()
    return {"shifted": shifted(reference), "eroded": eroded(reference)}, reference, volume.affine


def ours(prediction, reference, affine):
    [row] = measure_case(
        prediction.astype(np.uint8),
        reference.astype(np.uint8),
        [[1]],
        grid_of(affine, "a"),
        TOLERANCE_MM,
    )
    return row


def for_peers(prediction, reference, affine):
    """Masks without a flat axis, and their voxel size."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    kept = [size > 1 for size in reference.shape]
    return prediction.squeeze(), reference.squeeze(), spacing[kept].tolist()


def batch(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask)[None, None].float()


def deep_mind(prediction, reference, spacing):
    return surface_distance.compute_surface_distances(reference, prediction, spacing)


@pytest.mark.parametrize("change", ["shifted", "eroded"])
def test_all_three_are_monais(masks, change):
    predictions, reference, affine = masks
    row = ours(predictions[change], reference, affine)
    prediction, reference, spacing = for_peers(predictions[change], reference, affine)
    pair, settings = (
        (batch(prediction), batch(reference)),
        {"include_background": True, "spacing": spacing},
    )
    hd95 = compute_hausdorff_distance(*pair, percentile=95, **settings)
    assd = compute_average_surface_distance(*pair, symmetric=True, **settings)
    nsd = compute_surface_dice(*pair, [WITH_ROUNDING_MM], use_subvoxels=True, **settings)
    assert row["hd95_mm"] == pytest.approx(hd95.item(), abs=1e-3) and row["hd95_mm"] > 0
    assert row["assd_mm"] == pytest.approx(assd.item(), abs=1e-3) and row["assd_mm"] > 0
    assert row["nsd"] == pytest.approx(nsd.item(), abs=1e-3)


@pytest.mark.parametrize("change", ["shifted", "eroded"])
def test_the_surface_dice_is_deep_minds(masks, change):
    predictions, reference, affine = masks
    row = ours(predictions[change], reference, affine)
    found = deep_mind(*for_peers(predictions[change], reference, affine))
    expected = surface_distance.compute_surface_dice_at_tolerance(found, WITH_ROUNDING_MM)
    assert row["nsd"] == pytest.approx(expected, abs=1e-3)


def test_deep_minds_distances_are_those_of_monais_areas(masks):
    """The peers differ by their definitions: DeepMind's distances weight areas, ours count voxels."""
    predictions, reference, affine = masks
    prediction, reference, spacing = for_peers(predictions["shifted"], reference, affine)
    found = deep_mind(prediction, reference, spacing)
    edges, distances, areas = get_edge_surface_distance(
        torch.from_numpy(prediction),
        torch.from_numpy(reference),
        spacing=tuple(spacing),
        use_subvoxels=True,
        symmetric=True,
    )
    weights = [area[edge].numpy() for area, edge in zip(areas, edges, strict=True)]
    pairs = list(zip((part.numpy() for part in distances), weights, strict=True))
    hd95 = surface_distance.compute_robust_hausdorff(found, 95)
    assert hd95 == pytest.approx(max(weighted_95(*pair) for pair in pairs), abs=1e-3)
    averages = surface_distance.compute_average_surface_distance(found)
    expected = [np.average(values, weights=area) for values, area in pairs]
    assert averages == pytest.approx(expected[::-1], abs=1e-3)


def weighted_95(distances: np.ndarray, areas: np.ndarray) -> float:
    order = np.lexsort((areas, distances))
    share = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order][np.searchsorted(share, 0.95)])


def test_in_thick_slices_the_peers_disagree(real_data):
    """A figure must therefore state its definition; ours is MONAI's."""
    volume = read_volume(real_data / MASKS["thick slices"][0])
    reference = np.rint(volume.array[0]) == 1
    prediction = np.roll(reference, 1, 2)
    row = ours(prediction, reference, volume.affine)
    found = deep_mind(*for_peers(prediction, reference, volume.affine))
    hd95 = surface_distance.compute_robust_hausdorff(found, 95)
    assd = np.mean(surface_distance.compute_average_surface_distance(found))
    assert row["hd95_mm"] > 1.5 * hd95
    assert row["assd_mm"] > 2 * assd


def test_both_definitions_on_a_block_with_a_needle():
    reference = np.zeros((60, 40, 40), bool)
    reference[5:25, 5:35, 5:35] = True
    prediction = reference.copy()
    prediction[25:55, 5, 5] = True
    row = ours(prediction, reference, np.eye(4))
    # voxel by voxel the needle goes 1, 2, ... 30 mm away, and covers none of the block's surface
    num_block = 20 * 30 * 30 - 18 * 28 * 28
    assert row["assd_mm"] == pytest.approx(sum(range(1, 31)) / (2 * num_block + 30), rel=1e-4)
    # fewer than 5 % are on it
    found = deep_mind(prediction, reference, (1.0, 1.0, 1.0))
    assert row["hd95_mm"] == surface_distance.compute_robust_hausdorff(found, 95) == 0
    # the edges of a mask are cut: 4 / sqrt(2) mm2 of surface a mm of the needle, so by area it weighs nearly thrice
    to_prediction, to_reference = surface_distance.compute_average_surface_distance(found)
    needle, block = 4 / np.sqrt(2), 2 * 30 * 30 + 4 * 20 * 30
    assert to_prediction == 0
    assert to_reference == pytest.approx(needle * sum(range(31)) / (block + needle * 30), rel=0.03)

"""Measures of masks whose values can be computed by hand."""

import numpy as np
import pytest

from dynunet_bundle.errors import CaseError, ConfigError
from dynunet_bundle.evaluation.case_measures import (
    Grid,
    grid_of,
    measure_case,
    require_tolerance,
)
from dynunet_bundle.evaluation.statistics import MEASURES
from dynunet_bundle.labels.scheme import IGNORE_CLASS

SPACING = (2.0, 0.5, 1.5)
GRID = Grid(SPACING, 2.0 * 0.5 * 1.5 / 1000)
SHAPE = (14, 15, 16)


def box(*ranges: tuple[int, int], shape=SHAPE, value=1) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(*limits) for limits in ranges)] = value
    return mask


def measured(prediction, reference, grid=GRID, tolerance_mm=1.0):
    [row] = measure_case(prediction, reference, [[1]], grid, tolerance_mm)
    assert tuple(row) == MEASURES
    return row


# --- overlap and volumes


def test_overlap_and_volumes_of_two_boxes():
    # 4 x 4 x 4 voxels against 4 x 4 x 6, of which 3 x 4 x 4 are shared
    row = measured(box((2, 6), (3, 7), (4, 8)), box((3, 7), (3, 7), (4, 10)))
    assert row["dice"] == 2 * 48 / (64 + 96)
    assert row["iou"] == 48 / (64 + 96 - 48)
    assert row["sensitivity"] == 48 / 96
    assert row["precision"] == 48 / 64
    assert row["volume_ml"] == pytest.approx(64 * 1.5 / 1000)
    assert row["reference_volume_ml"] == pytest.approx(96 * 1.5 / 1000)
    assert row["volume_difference_ml"] == pytest.approx(-32 * 1.5 / 1000)


# --- distances


@pytest.mark.parametrize(("axis", "steps"), [(0, 3), (1, 5), (2, 2)])
def test_single_voxels_are_as_far_apart_as_their_centres(axis, steps):
    reference = box((5, 6), (5, 6), (5, 6))
    prediction, step_mm = np.roll(reference, steps, axis), SPACING[axis]
    row = measured(prediction, reference)
    assert row["hd95_mm"] == pytest.approx(steps * step_mm)
    assert row["assd_mm"] == pytest.approx(steps * step_mm)
    assert row["dice"] == 0
    # the surface is at the corners: half of it is a step closer
    for tolerance_mm, share in (
        ((steps - 1) * step_mm - 0.01, 0),
        ((steps - 1) * step_mm + 0.01, 0.5),
        (steps * step_mm - 0.01, 0.5),
        (steps * step_mm + 0.01, 1),
    ):
        row = measured(prediction, reference, tolerance_mm=tolerance_mm)
        assert row["nsd"] == pytest.approx(share)


def test_the_percentile_of_distances_along_a_line():
    # 10 voxels of 20 are in both; the others are 1 to 10 steps of 0.5 mm away
    shape = (5, 30, 5)
    long, short = (
        box((2, 3), (3, 23), (2, 3), shape=shape),
        box((2, 3), (3, 13), (2, 3), shape=shape),
    )
    for row in (measured(long, short), measured(short, long)):
        # number 18.05 of the 20 sorted distances, counted from 0, where 9 is followed by 10 steps
        assert row["hd95_mm"] == pytest.approx(0.5 * 9.05)
        assert row["assd_mm"] == pytest.approx(0.5 * 55 / 30)


def test_equal_masks_have_no_distance():
    mask = box((2, 6), (3, 7), (4, 8))
    row = measured(mask, mask.copy(), tolerance_mm=0)
    assert (row["hd95_mm"], row["assd_mm"]) == (0, 0)
    assert row["dice"] == row["iou"] == row["nsd"] == row["sensitivity"] == row["precision"] == 1


def test_the_surface_dice_counts_area():
    # 10 x 6 x 6 voxels, moved by two of 2 mm: of each box an end is 4 mm away, with half a voxel of the sides
    reference = box((2, 12), (3, 9), (4, 10), shape=(16, 15, 16))
    prediction = np.roll(reference, 2, 0)
    near, far = (measured(prediction, reference, tolerance_mm=mm)["nsd"] for mm in (3.9, 4.1))
    assert far == 1
    end, girth = 3 * 9, 2 * (3 + 9)
    assert near == pytest.approx(1 - (end + 1 * girth) / (2 * end + 20 * girth), abs=0.015)
    # counted without area, it would be 49 of 386 elements
    assert near != pytest.approx(1 - 49 / 386, abs=0.015)


# --- geometry


def random_masks(seed=0, shape=(11, 12, 13)):
    rng = np.random.default_rng(seed)
    smooth = rng.random(shape)
    for axis in range(len(shape)):
        smooth = smooth + np.roll(smooth, 1, axis) + np.roll(smooth, 2, axis)
    reference = (smooth > np.quantile(smooth, 0.8)).astype(np.uint8)
    return np.roll(reference, 1, 0), reference


def oblique(spacing) -> np.ndarray:
    """An affine with a rotation by 30 degrees about x, then by 50 about z."""
    a, b = np.deg2rad([30, 50])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * np.asarray(spacing)
    affine[:3, 3] = [5, -70, 12]
    return affine


def test_flips_permutations_and_rotations_change_nothing():
    prediction, reference = random_masks()
    affine = np.diag([*SPACING, 1])
    expected = measured(prediction, reference, grid_of(affine, "a"))
    assert expected["hd95_mm"] > 0 and 0 < expected["nsd"] < 1
    assert measured(prediction, reference, grid_of(oblique(SPACING), "a")) == pytest.approx(
        expected
    )
    flipped = affine.copy()
    flipped[:, 1] *= -1
    grid = grid_of(flipped, "a")
    assert measured(prediction[:, ::-1], reference[:, ::-1], grid) == pytest.approx(expected)
    order = (2, 0, 1)
    permuted = affine[:, [*order, 3]]
    masks = prediction.transpose(order), reference.transpose(order)
    assert measured(*masks, grid_of(permuted, "a")) == pytest.approx(expected)
    # the spacing of the file must not be taken in another order
    assert measured(prediction, reference, grid_of(permuted, "a")) != pytest.approx(expected)


def test_the_grid_of_a_sheared_affine():
    # a tilted gantry: the third axis leans by 3 mm to 4 along the table
    affine = np.array([[2.0, 0, 0, 0], [0, 1, 3, 0], [0, 0, 4, 0], [0, 0, 0, 1]])
    grid = grid_of(affine, "a")
    assert grid.spacing_mm == pytest.approx((2, 1, 5))
    assert grid.voxel_ml == pytest.approx(8 / 1000)


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_voxels_without_volume_name_the_case(bad):
    with pytest.raises(CaseError, match="case lung_3: the affine .* gives its voxels a volume of"):
        grid_of(np.diag([1, bad, 1, 1]), "lung_3")


def test_the_rest_of_the_volume_does_not_matter():
    prediction, reference = random_masks(3)
    expected = measured(prediction, reference)
    wide = [np.pad(mask, ((30, 2), (0, 25), (9, 9))) for mask in (prediction, reference)]
    assert measured(*wide) == pytest.approx(expected)


def test_where_the_volume_ends_the_mask_does():
    full, part = np.ones((6, 5, 4), np.uint8), box((0, 4), (0, 5), (0, 4), shape=(6, 5, 4))
    row = measured(full, part)
    assert row == measured(np.pad(full, 1), np.pad(part, 1))
    # 20 of 108 surface voxels, the end, lie two voxels away
    assert row["hd95_mm"] == pytest.approx(4)


# --- flat volumes


def test_a_picture_has_contours_not_areas():
    reference = box((3, 9), (3, 9), shape=(14, 15))
    prediction = np.roll(reference, 2, 0)
    flat = measure_case(prediction, reference, [[1]], Grid((1.0, 1.0), 0.001))
    for axis in range(3):
        masks = (np.expand_dims(mask, axis) for mask in (prediction, reference))
        assert measure_case(*masks, [[1]], Grid((1.0, 1.0, 1.0), 0.001)) == flat
    # each contour has 20 pixels. From the nearest of the other one are, in pixels, the row ahead 6 x 2, the two behind
    # it 1, and the four inner ones of the last row, which lie inside of the other square, 1 2 2 1
    assert flat[0]["hd95_mm"] == 2
    assert flat[0]["assd_mm"] == pytest.approx((12 + 2 + 6) / 20)


def test_a_slice_along_any_axis_takes_the_spacing_of_the_others():
    reference = box((5, 6), (5, 6), shape=(12, 12))
    prediction = np.roll(reference, 3, 1)
    row = measured(prediction[:, None, :], reference[:, None, :])
    assert row["hd95_mm"] == pytest.approx(3 * SPACING[2])
    assert row["volume_ml"] == pytest.approx(1.5 / 1000)
    row = measured(prediction[None], reference[None])
    assert row["hd95_mm"] == pytest.approx(3 * SPACING[2])
    row = measured(prediction[..., None], reference[..., None])
    assert row["hd95_mm"] == pytest.approx(3 * SPACING[1])


def test_a_single_row_or_voxel_is_measured_too():
    row = measured(np.eye(1, 9, 2, dtype=np.uint8)[None], np.eye(1, 9, 5, dtype=np.uint8)[None])
    assert row["hd95_mm"] == pytest.approx(3 * SPACING[2])
    one = np.ones((1, 1, 1), np.uint8)
    assert measured(one, one)["nsd"] == 1


# --- absent classes


def test_what_absent_classes_get():
    prediction, reference = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    prediction[2:4, 2:4, 2:4] = 1
    reference[2:4, 2:4, 2:5] = 2
    predicted, expected, neither = measure_case(prediction, reference, [[1], [2], [3]], GRID)
    for row in (predicted, expected):
        assert row["dice"] == row["iou"] == row["nsd"] == 0
        assert row["hd95_mm"] is row["assd_mm"] is None
    assert (predicted["sensitivity"], predicted["precision"]) == (None, 0)
    assert (expected["sensitivity"], expected["precision"]) == (0, None)
    assert predicted["volume_difference_ml"] == pytest.approx(8 * 1.5 / 1000)
    assert expected["volume_difference_ml"] == pytest.approx(-12 * 1.5 / 1000)
    volumes = {measure for measure in MEASURES if measure.endswith("_ml")}
    assert all(value == (0 if key in volumes else None) for key, value in neither.items())


def test_regions_join_classes():
    labels = box((2, 6), (3, 7), (4, 8)) + box((6, 9), (3, 7), (4, 8), value=3)
    prediction = np.where(labels, 3, 0).astype(np.uint8)
    whole, inner = measure_case(prediction, labels, [[1, 3], [3]], GRID)
    assert (whole["dice"], whole["hd95_mm"], whole["nsd"]) == (1, 0, 1)
    assert inner["dice"] == 2 * 48 / (112 + 48)


# --- voxels that nobody labelled


def test_what_is_found_where_nobody_labelled_changes_nothing():
    prediction, reference = random_masks(5)
    reference = reference.copy()
    reference[4:7], reference[:, 9:] = IGNORE_CLASS, IGNORE_CLASS
    expected = measured(prediction, reference)
    assert 0 < expected["dice"] < 1 and expected["hd95_mm"] > 0
    noise = np.random.default_rng(0).integers(0, 2, prediction.shape)
    other = np.where(reference == IGNORE_CLASS, noise, prediction)
    assert not np.array_equal(other, prediction)
    assert measured(other, reference) == expected
    kept = reference != IGNORE_CLASS
    assert expected["volume_ml"] == pytest.approx(prediction[kept].sum() * 1.5 / 1000)


def test_the_border_of_what_nobody_labelled_is_no_surface():
    # labelled is one half of a block, 2 voxels of which (1 mm) are not found
    block = box((2, 12), (4, 12), (4, 12))
    prediction = box((2, 12), (6, 12), (4, 12))
    half = block.copy()
    half[7:] = IGNORE_CLASS
    for tolerance_mm in (0.4, 1.0):
        row = measured(prediction, half, tolerance_mm=tolerance_mm)
        # whether the masks extend beyond it, at either end, does not matter
        seen = box((2, 7), (6, 12), (4, 12))
        assert measured(seen, half, tolerance_mm=tolerance_mm) == row
        turned = measured(seen[::-1], half[::-1], tolerance_mm=tolerance_mm)
        assert turned == pytest.approx(row)
        # the other half is its mirror image and would not change any mean
        whole = measured(prediction, block, tolerance_mm=tolerance_mm)
        assert row["hd95_mm"] == whole["hd95_mm"] == pytest.approx(1)
        assert row["assd_mm"] == pytest.approx(whole["assd_mm"])
        assert row["nsd"] == pytest.approx(whole["nsd"], abs=0.01)
    # if the border were a surface, the shared inner voxels would be on it, at distance 0
    cut = measured(prediction[:7], half[:7])
    assert cut["assd_mm"] < 0.9 * row["assd_mm"]


def test_one_labelled_slice_is_a_picture():
    prediction, flat = random_masks(7, (20, 22))
    reference = np.full((20, 22, 9), IGNORE_CLASS, np.uint8)
    reference[..., 4] = flat
    found = np.ones_like(reference)
    found[..., 4] = prediction
    row = measured(found, reference)
    [expected] = measure_case(prediction, flat, [[1]], GRID)
    assert row["hd95_mm"] == pytest.approx(expected["hd95_mm"])
    assert row["assd_mm"] == pytest.approx(expected["assd_mm"])
    assert row["nsd"] == pytest.approx(expected["nsd"])


def test_nothing_but_ignored_voxels_is_nothing():
    row = measured(np.ones(SHAPE, np.uint8), np.full(SHAPE, IGNORE_CLASS, np.uint8))
    assert (row["dice"], row["nsd"], row["volume_ml"]) == (None, None, 0)


# --- refusals


def test_different_shapes_are_an_error():
    with pytest.raises(ValueError, match="shapes differ"):
        measure_case(np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int), [[1]], GRID)


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_a_tolerance_is_a_distance(tolerance):
    require_tolerance(0)
    with pytest.raises(ConfigError, match=r"nsd_tolerance_mm is .*\. Pass 0 or more"):
        require_tolerance(tolerance)

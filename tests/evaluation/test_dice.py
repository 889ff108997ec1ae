import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric

from dynunet_bundle.evaluation.dice import dice_by_target


def test_dice_is_twice_the_overlap_over_both_volumes():
    prediction, reference = np.zeros((4, 4, 4), int), np.zeros((4, 4, 4), int)
    prediction[0, 0, :3] = 1
    reference[0, 0, 1:] = 1
    reference[3] = 2
    prediction[3, :2] = 2
    assert dice_by_target(prediction, reference, [[1], [2]]) == [2 * 2 / 6, 2 * 8 / 24]


def test_absent_classes_count_as_none_or_zero():
    prediction, reference = np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int)
    prediction[0] = 1  # only predicted
    reference[1] = 2  # only in the reference
    assert dice_by_target(prediction, reference, [[1], [2], [3]]) == [0.0, 0.0, None]


def test_agrees_with_monai(real_data):
    folder = real_data / "Task04_Hippocampus" / "labelsTr"
    label = np.asarray(nib.load(folder / "hippocampus_003.nii.gz").dataobj).round().astype(int)
    shifted = np.roll(label, 2, axis=1)
    metric = DiceMetric(include_background=False, num_classes=3)
    expected = metric(torch.tensor(shifted)[None, None], torch.tensor(label)[None, None])
    assert dice_by_target(shifted, label, [[1], [2]]) == pytest.approx(
        expected[0].tolist(), abs=1e-6
    )


def test_different_grids_are_an_error():
    with pytest.raises(ValueError, match="shapes differ"):
        dice_by_target(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), [[1]])


def test_regions_are_scored_as_regions():
    prediction, reference = np.zeros((4, 4), int), np.zeros((4, 4), int)
    reference[0] = [1, 2, 3, 0]
    prediction[0] = [3, 1, 3, 3]
    # whole: 3 of 3 and 4; core: found at 0, 2, 3, is at 1, 2; the last is nowhere
    expected = [2 * 3 / (4 + 3), 2 * 1 / (3 + 2), None]
    assert dice_by_target(prediction, reference, [[1, 2, 3], [2, 3], [4]]) == expected


def test_ignored_voxels_count_neither_for_nor_against():
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 4, (2, 1, 9, 8, 7))
    reference[:, 2:5] = 255
    kept = np.ones(reference.shape, bool)
    kept[:, 2:5] = False
    expected = dice_by_target(prediction[kept], reference[kept], [[1], [2], [3]])
    assert dice_by_target(prediction, reference, [[1], [2], [3]]) == expected
    prediction[:, 2:5] = 3
    assert dice_by_target(prediction, reference, [[1], [2], [3]]) == expected
    assert dice_by_target(prediction, np.full_like(reference, 255), [[1], [2], [3]]) == [
        None,
        None,
        None,
    ]

"""Input of MeanDice: plain classes unchanged, regions as masks, ignored voxels as background."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.handlers import from_engine
from monai.metrics import DiceMetric
from monai.networks import one_hot

from dynunet_bundle.evaluation.dice import dice_by_target
from dynunet_bundle.labels.scheme import IGNORE_CLASS, LabelScheme
from dynunet_bundle.training.validation_masks import TargetMasks

VALUES = [0, 1, 2, 5]
CLASSES = LabelScheme(["background", "a", "b", "c"], VALUES)
REGIONS = LabelScheme(
    CLASSES.names, VALUES, None, {"whole": [1, 2, 5], "inner": [5], "rim": [1, 2]}, [1, 5, 1]
)
INNER = LabelScheme(CLASSES.names, VALUES, None, {"inner": [5]}, [5])


def outputs(seed: int = 0, ignored: bool = False) -> list[dict[str, torch.Tensor]]:
    """Two cases with four classes, in the form of a validation step's output."""
    rng = np.random.default_rng(seed)
    made = []
    for shape in ((1, 6, 5, 4), (1, 3, 7, 5)):
        label = torch.from_numpy(rng.integers(0, 4, shape).astype(np.uint8))
        if ignored:
            label[:, 1:3] = IGNORE_CLASS
        pred = torch.from_numpy(rng.integers(0, 4, shape).astype(np.float32))
        made.append({"pred": MetaTensor(pred), "label": label})
    return made


def mean_dice(step, labels=CLASSES, **settings) -> torch.Tensor:
    """``val_dice_by_class`` as declared in train.json."""
    metric = DiceMetric(
        include_background=labels.sigmoid,
        num_classes=labels.num_outputs,
        reduction="mean_batch",
        **settings,
    )
    metric(*TargetMasks(labels)(step))
    return metric.aggregate()


def test_plain_classes_are_scored_to_the_bit_as_one_hot_masks_are():
    step = outputs()
    metric = DiceMetric(include_background=False, reduction="mean_batch")
    predictions, labels = from_engine(["pred", "label"])(step)
    metric(*([one_hot(mask, 4, dim=0) for mask in masks] for masks in (predictions, labels)))
    assert torch.equal(mean_dice(step), metric.aggregate())


def test_nothing_is_copied_where_nothing_is_ignored():
    step = outputs()
    predictions, labels = TargetMasks(CLASSES)(step)
    assert all(mask is case["pred"] for mask, case in zip(predictions, step, strict=True))
    assert all(mask is case["label"] for mask, case in zip(labels, step, strict=True))


@pytest.mark.parametrize("labels", [CLASSES, REGIONS, INNER])
@pytest.mark.parametrize("ignored", [False, True])
def test_scores_are_those_of_the_masks_without_what_is_ignored(labels, ignored):
    step = outputs(3, ignored)
    found = mean_dice(step, labels)
    targets = labels.target_classes
    expected = []
    for case in step:
        prediction, label = case["pred"].numpy(), case["label"].numpy()
        kept = label != IGNORE_CLASS
        assert kept.all() != ignored
        expected.append(dice_by_target(prediction[kept], label[kept], targets))
        assert dice_by_target(prediction, label, targets) == expected[-1]
    assert found.flatten().tolist() == pytest.approx(np.mean(expected, axis=0).tolist(), abs=1e-6)


@pytest.mark.parametrize("labels", [CLASSES, REGIONS])
def test_what_is_found_at_ignored_voxels_changes_nothing(labels):
    step, other = outputs(4, ignored=True), outputs(4, ignored=True)
    for case in other:
        case["pred"][:, 1:3] = torch.randint(0, 4, case["pred"][:, 1:3].shape).float()
    assert not torch.equal(step[0]["pred"].as_tensor(), other[0]["pred"].as_tensor())
    assert torch.equal(mean_dice(step, labels), mean_dice(other, labels))


def test_monais_own_way_to_ignore_a_class_agrees():
    step = outputs(5, ignored=True)
    metric = DiceMetric(
        include_background=False, num_classes=4, reduction="mean_batch", ignore_index=IGNORE_CLASS
    )
    metric(*from_engine(["pred", "label"])(step))
    assert torch.allclose(metric.aggregate(), mean_dice(step))


def test_the_outputs_stay_as_they_are():
    step = outputs(6, ignored=True)
    before = [case["label"].clone() for case in step]
    TargetMasks(REGIONS)(step)
    assert all(torch.equal(old, case["label"]) for old, case in zip(before, step, strict=True))

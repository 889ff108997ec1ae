"""Rules are kept only if the Dice improves."""

import numpy as np
import pytest

from dynunet_bundle.best_configuration.component_rules import PackedPair, decide_rules, format_rules
from dynunet_bundle.labels.largest_component import keep_largest
from dynunet_bundle.labels.scheme import IGNORE_CLASS, LabelScheme

NAMES = ["background", "liver", "tumour"]
REGION_NAMES = ["background", "edema", "core", "enhancing"]
REGIONS = {"whole": [1, 2, 4], "core": [2, 4], "enhancing": [4]}


def line(text: str) -> np.ndarray:
    """``"11.2"``: class numbers along the first axis, a dot for the background, ``i`` for ignored voxels."""
    numbers = {".": 0, "i": IGNORE_CLASS}
    return np.array([numbers.get(c) or int(c if c.isdigit() else 0) for c in text], np.uint8)[
        :, None, None
    ] * np.ones((1, 1, 1), np.uint8)


def decide(*cases: tuple[str, str], names=NAMES, values=(0, 1, 2), regions=None):
    arrays = ((f"case {i}", line(pred), line(ref)) for i, (pred, ref) in enumerate(cases))
    order = regions and [parts[0] for parts in regions.values()]
    return decide_rules(arrays, LabelScheme(names, values, None, regions, order))


def kept(decision) -> list[str]:
    return [step["target"] for step in decision["steps"] if step["kept"]]


def test_an_island_beside_the_organ_is_found():
    decision = decide(("1111.22...1", "1111.22...."), ("111..22.2..", "111..22...."))
    assert decision["keep_largest"] == [[1], [2]]
    # the organ and its tumour do not touch, so the largest component of both is the organ alone
    assert decision["steps"][0]["kept"] is False and decision["steps"][0]["worse"] == ["tumour"]
    assert decision["steps"][0]["after"]["mean"]["tumour"] == 0
    assert decision["before"]["mean"] == {"liver": pytest.approx((8 / 9 + 1) / 2), "tumour": 0.9}
    assert decision["after"] == {"mean_dice": 1.0, "mean": {"liver": 1.0, "tumour": 1.0}}
    assert [step["num_changed"] for step in decision["steps"]] == [2, 1, 1]


def test_all_foreground_as_one_comes_first_and_then_nothing_is_left_to_do():
    decision = decide(("111122..1.2", "111122....."), ("111222...1.", "111122....."))
    assert decision["keep_largest"] == [[1, 2]] and kept(decision) == ["all foreground"]
    assert decision["before"]["mean_dice"] < decision["after"]["mean_dice"]


def test_the_classes_are_decided_on_masks_after_the_first_rule():
    # after the first rule, the liver still has two parts, on either side of the tumour
    decision = decide(("111221....1", "11122......"))
    assert decision["keep_largest"] == [[1, 2], [1]]
    assert decision["after"]["mean_dice"] == 1


def test_a_rule_that_hurts_is_dropped():
    decision = decide(("11.222.11.2", "11.222.11.2"))
    assert decision["keep_largest"] == [] and decision["before"] == decision["after"]
    # it helps one case but hurts another more
    decision = decide(("111.....1..", "111........"), ("111...11...", "111...11..."))
    assert decision["keep_largest"] == []


def test_no_better_is_not_enough():
    decision = decide(("111.22.....", "111.22....."))
    assert decision["keep_largest"] == []
    # one voxel of one class in exchange for one of the other, in the same proportion
    decision = decide(("1111..1", "1111..1"), names=NAMES[:2], values=(0, 1))
    assert decision["keep_largest"] == []


def test_the_mean_may_get_better_while_one_class_gets_worse():
    # the liver of two cases gains more than the tumour of the third loses
    many = ("1111122.1.1.1.1.1.1.1.1", "1111122................")
    decision = decide(many, many, ("11111122.2", "11111122.2"))
    first = decision["steps"][0]
    assert first["after"]["mean_dice"] > first["before"]["mean_dice"]
    assert first["worse"] == ["tumour"] and kept(decision) == ["liver"]


def test_equally_large_components_stay():
    decision = decide(("111.111", "111...."), names=NAMES[:2], values=(0, 1))
    assert decision["keep_largest"] == [] and decision["steps"][0]["num_changed"] == 0


def test_one_class_has_one_rule():
    decision = decide(("111.1", "111.."), names=NAMES[:2], values=(0, 7))
    assert decision["keep_largest"] == [[7]] and len(decision["steps"]) == 1


def test_a_class_that_disappears_from_all_cases_leaves_the_mean():
    decision = decide(("111...2", "111...."), ("111....", "111...."))
    assert decision["before"]["mean"] == {"liver": 1.0, "tumour": 0.0}
    assert decision["after"]["mean"] == {"liver": 1.0, "tumour": None}
    assert decision["keep_largest"] == [[1, 2]] and decision["after"]["mean_dice"] == 1


def test_ignored_voxels_join_components_but_do_not_count():
    decision = decide(
        (
            "111111.1",
            "111iii..",
        ),
        names=NAMES[:2],
        values=(0, 1),
    )
    assert decision["keep_largest"] == [[1]]
    assert decision["before"]["mean_dice"] == pytest.approx(6 / 7)
    # the island is in an ignored area
    decision = decide(("111..1", "111iii"), names=NAMES[:2], values=(0, 1))
    assert decision["keep_largest"] == [] and decision["before"]["mean_dice"] == 1


def test_regions_are_taken_in_order_and_change_what_comes_after():
    values = (0, 1, 2, 4)
    decision = decide(
        ("112332.2.1", "112332...."), names=REGION_NAMES, values=values, regions=REGIONS
    )
    assert decision["keep_largest"] == [[1, 2, 4]]
    apart = ("1123.112311.3", "1123.1123....")
    decision = decide(apart, names=REGION_NAMES, values=values, regions=REGIONS)
    assert decision["steps"][0]["kept"] is False
    assert [step["target"] for step in decision["steps"]] == ["all foreground", *REGIONS]
    assert [step["values"] for step in decision["steps"]][2:] == [[2, 4], [4]]
    expected = apply_in_turn(*apart, [[1, 2, 3], [2, 3], [3]])
    assert decision["keep_largest"] == [
        values_of for values_of, good in zip(REGIONS.values(), expected, strict=True) if good
    ]


def apply_in_turn(prediction: str, reference: str, targets) -> list[bool]:
    """One case: whether each rule helps after the previous ones, by counting voxels."""
    mask, truth = line(prediction), np.isin(line(reference), [1, 2, 3]) * line(reference)
    helped = []
    for classes in targets:
        candidate = mask.copy()
        keep_largest(candidate, classes)
        old, new = (
            2
            * (np.isin(m, classes) & np.isin(truth, classes)).sum()
            / (np.isin(m, classes).sum() + np.isin(truth, classes).sum())
            for m in (mask, candidate)
        )
        helped.append(bool(new > old))
        mask = candidate if new > old else mask
    return helped


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("regions", [None, {"whole": [1, 2, 4], "core": [2, 4], "last": [4]}])
def test_many_random_cases_against_a_loop_of_its_own(seed, regions):
    """Groups and packing do not change the result: rules tried one at a time on whole volumes give the same."""
    rng = np.random.default_rng(seed)
    cases = []
    for index in range(4):
        truth = np.zeros((14, 9, 6), np.uint8)
        truth[3:11, 2:8, 1:5] = 1
        truth[5:9, 3:7, 1:5] = 2
        truth[6:8, 4:6, 2:4] = 3
        found = truth.copy()
        speckle = rng.random(truth.shape)
        found[speckle < 0.01 * seed] = rng.integers(1, 4)
        found[speckle > 0.97] = 0
        cases.append((f"{index}", found, truth))
    order = regions and [1, 2, 4]
    labels = LabelScheme(REGION_NAMES, (0, 1, 2, 4), None, regions, order)
    decision = decide_rules(cases, labels)
    targets = [[1, 2, 3], [2, 3], [3]] if regions else [[1], [2], [3]]
    masks, rules = [found for _, found, _ in cases], []
    truths = [truth for *_, truth in cases]

    def means(arrays):
        return [
            np.nanmean([plain_dice(m, t, classes) for m, t in zip(arrays, truths, strict=True)])
            for classes in targets
        ]

    def after(classes):
        changed = [mask.copy() for mask in masks]
        for mask in changed:
            keep_largest(mask, classes)
        return changed

    new, old = means(after([1, 2, 3])), means(masks)
    if np.mean(new) > np.mean(old) and not any(n < o for n, o in zip(new, old, strict=True)):
        masks = after([1, 2, 3])
        rules.append([1, 2, 4])
    for index, classes in enumerate(targets):
        if means(after(classes))[index] > means(masks)[index]:
            masks = after(classes)
            rules.append([(0, 1, 2, 4)[number] for number in classes])
    assert decision["keep_largest"] == rules
    assert list(decision["after"]["mean"].values()) == pytest.approx(means(masks))


def plain_dice(mask, truth, classes) -> float:
    one, other = np.isin(mask, classes), np.isin(truth, classes)
    total = one.sum() + other.sum()
    return 2 * (one & other).sum() / total if total else np.nan


def test_packing_keeps_what_counts():
    prediction, reference = (np.zeros((9, 8, 7), np.uint8) for _ in range(2))
    reference[:] = IGNORE_CLASS
    reference[2:5, 3, 3:5] = 0
    prediction[3, 3, 3], reference[4, 3, 4] = 1, 2
    pair = PackedPair(prediction, reference)
    cut, truth = pair.arrays()
    assert cut.shape == (2, 1, 2) and np.array_equal(truth, reference[3:5, 3:4, 3:5])
    cut[:] = 2
    pair.replace(cut)
    assert (pair.arrays()[0] == 2).all()
    nothing = PackedPair(np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 3), np.uint8))
    assert not nothing.arrays()[0].any()


def test_the_text():
    lines = format_rules(decide(("1111.22...1", "1111.22...."))).splitlines()
    assert lines == [
        "keep only the largest component, by Dice of 1 case?",
        "all foreground  0.9444 -> 0.5000  no, worse: tumour",
        "liver           0.8889 -> 1.0000  yes",
        "tumour          1.0000 -> 1.0000  no",
        "mean Dice 0.9444 -> 1.0000 with keep_largest [[1]]",
    ]

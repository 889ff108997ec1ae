"""Regions that fit their classes, and every way in which they may not."""

import itertools
from typing import Any

import pytest

from dynunet_bundle.errors import PlanError
from dynunet_bundle.labels.scheme import (
    find_ignore_fault,
    find_region_fault,
    require_label_plan,
    target_classes,
    target_names,
)

VALUES = [0, 1, 2, 3]
TUMOUR = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def test_targets_are_the_classes_or_the_regions():
    names = ["background", "edema", "core"]
    assert target_names(names, None) == names
    assert target_names(names, {"all": [1, 2], "inner": [2]}) == ["background", "all", "inner"]
    assert target_classes([0, 5, 9], None) == [[1], [2]]
    assert target_classes([0, 5, 9], {"inner": [9], "all": [5, 9]}) == [[2], [1, 2]]


@pytest.mark.parametrize(
    ("regions", "order"),
    [
        (None, None),
        (TUMOUR, [1, 2, 3]),
        # KiTS: the tumour is part of the masses, and those of the kidney
        ({"kidney": [1, 2, 3], "masses": [2, 3], "tumour": [2]}, [1, 3, 2]),
        # what is in no region is background
        ({"core": [2]}, [2]),
        # what two regions share is a region of its own
        ({"left": [1, 2], "right": [2, 3], "both": [2]}, [1, 3, 2]),
        # two values that are nowhere told apart may be written as one
        ({"whole": [1, 2], "rest": [3]}, [2, 3]),
    ],
)
def test_good_regions(regions: Any, order: Any):
    assert find_region_fault(VALUES, regions, order) is None
    require_label_plan(VALUES, 4, regions, order)


@pytest.mark.parametrize(
    ("regions", "order", "words"),
    [
        (TUMOUR, None, ("need regions_class_order", "whole, core, enhancing")),
        (TUMOUR, 3, ("need regions_class_order", "it is 3")),
        (TUMOUR, [1, 2], ("2 value(s), [1, 2], for 3 region(s)", "one value a region")),
        (None, [1, 2], ("without regions",)),
        ({}, [], ("must be an object",)),
        ([[1, 2]], [1], ("must be an object",)),
        ({"whole": [1, 7]}, [1], ('"whole" has [1, 7]', "[1, 2, 3]")),
        ({"whole": [0, 1]}, [1], ('"whole" has [0, 1]', "background")),
        ({"whole": []}, [1], ('"whole" has []',)),
        ({"whole": 1}, [1], ('"whole" has 1', "a list")),
        ({"whole": [1.0]}, [1], ('"whole" has [1.0]',)),
        ({"a#b": [1]}, [1], ('"a#b"', "Rename")),
        ({"a::b": [1]}, [1], ('"a::b"', "Rename")),
        ({"whole": [1, 2]}, [3], ('writes 3 for the region "whole"', "[1, 2]")),
        (TUMOUR, [1, 2, True], ("writes True",)),
        # the whole tumour is written over its core
        (
            {"enhancing": [3], "core": [2, 3], "whole": [1, 2, 3]},
            [3, 2, 1],
            ("writes 1 where a voxel has the value 2", "list larger ones first"),
        ),
        ({"left": [1, 2], "right": [2, 3]}, [1, 3], ("writes 3 where", "a region of its own")),
    ],
)
def test_bad_regions_say_what_to_do(regions: Any, order: Any, words: tuple[str, ...]):
    with pytest.raises(PlanError) as error:
        require_label_plan(VALUES, None, regions, order)
    for word in words:
        assert word in str(error.value)


def test_what_passes_can_be_written_and_read_back():
    """Of all regions of three values: exactly those pass that a mask can hold, each value found as it should be."""
    subsets = [
        list(part) for size in (1, 2, 3) for part in itertools.combinations(VALUES[1:], size)
    ]
    passed = 0
    for pair in itertools.permutations(subsets, 2):
        for order in itertools.product(*pair):
            regions = dict(zip("ab", pair, strict=True))
            fault = find_region_fault(VALUES, regions, list(order))
            masks = {}
            for value in VALUES:
                mask = 0
                for values, written in zip(pair, order, strict=True):
                    mask = written if value in values else mask
                masks[value] = mask
            kept = all(
                [value in values for values in pair] == [masks[value] in values for values in pair]
                for value in VALUES
            )
            assert (fault is None) == kept, (regions, order, fault)
            passed += kept
    assert passed > 10


@pytest.mark.parametrize("value", [None, 4, 255])
def test_good_ignored_values(value: Any):
    assert find_ignore_fault(VALUES, value) is None


@pytest.mark.parametrize("value", [0, 3, -1, 1.5, "4", True])
def test_bad_ignored_values(value: Any):
    with pytest.raises(PlanError, match="the ignored value is .*of its own"):
        require_label_plan(VALUES, value)

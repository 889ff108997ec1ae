"""Regions that fit their classes, and every way in which they may not fit."""

import copy
import itertools
import json
from typing import Any

import pytest

from dynunet_bundle.errors import PlanError
from dynunet_bundle.labels.faults import find_region_fault
from dynunet_bundle.labels.scheme import LABEL_IDS, LabelScheme
from dynunet_bundle.preprocessing.recipe import recipe_of

NAMES = ["background", "edema", "core", "enhancing"]
VALUES = [0, 1, 2, 3]
TUMOUR = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def test_targets_are_the_classes_or_the_regions():
    plain = LabelScheme(["background", "edema", "core"], [0, 5, 9])
    assert plain.target_names == ["background", "edema", "core"]
    assert plain.target_classes == [[1], [2]]
    assert (plain.num_outputs, plain.sigmoid, plain.region_classes) == (3, False, [])
    regions = {"all": [5, 9], "inner": [9]}
    scheme = LabelScheme(plain.names, plain.values, 11, regions, [5, 9])
    assert scheme.target_names == ["background", "all", "inner"]
    assert scheme.target_classes == [[1, 2], [2]]
    assert (scheme.num_outputs, scheme.sigmoid, scheme.region_classes) == (2, True, [1, 2])
    assert (plain.file_values, scheme.file_values) == ((0, 5, 9), (0, 5, 9, 11))


def test_classes_are_numbered_unless_the_files_are():
    assert LabelScheme(NAMES).values == (0, 1, 2, 3)
    assert LabelScheme(()).values == ()


def test_a_scheme_holds_what_it_was_given_and_no_more():
    """Later changes of the plan do not change it; lists and tuples are equal."""
    regions: dict[str, list[int]] = {"whole": [1, 2, 3]}
    scheme = LabelScheme(NAMES, VALUES, 4, regions, [1])
    assert scheme == LabelScheme(tuple(NAMES), tuple(VALUES), 4, {"whole": (1, 2, 3)}, (1,))
    regions["whole"].append(9)
    assert scheme.regions == {"whole": (1, 2, 3)}
    assert copy.deepcopy(scheme) == copy.copy(scheme) == scheme


@pytest.mark.parametrize("regions", [None, TUMOUR])
def test_a_plan_and_a_scheme_say_the_same(regions: Any):
    order = None if regions is None else [1, 2, 3]
    plan = dict(zip(LABEL_IDS, (NAMES, VALUES, 7, regions, order), strict=True))
    scheme = LabelScheme.from_plan({**plan, "batch_size": 2})
    assert scheme.ids() == json.loads(json.dumps(scheme.ids())) == plan
    assert list(scheme.ids()) == list(LABEL_IDS)
    assert LabelScheme.from_plan({"label_names": NAMES, "label_values": VALUES}).regions is None


def test_the_store_describes_a_scheme_by_its_fields():
    plain = recipe_of(LabelScheme(NAMES, VALUES))
    assert plain == {"LabelScheme": {"names": NAMES, "values": VALUES}}
    full = recipe_of(LabelScheme(NAMES, VALUES, 4, TUMOUR, [1, 2, 3]))
    assert full["LabelScheme"]["regions"] == TUMOUR and full["LabelScheme"]["ignore_value"] == 4
    assert json.loads(json.dumps(full)) == full


@pytest.mark.parametrize(
    ("regions", "order"),
    [
        (None, None),
        (TUMOUR, [1, 2, 3]),
        # KiTS: the tumour is part of the masses, and those of the kidney
        ({"kidney": [1, 2, 3], "masses": [2, 3], "tumour": [2]}, [1, 3, 2]),
        # what is in no region is background
        ({"core": [2]}, [2]),
        # what two regions share is a separate region
        ({"left": [1, 2], "right": [2, 3], "both": [2]}, [1, 3, 2]),
        # two values that are nowhere told apart may be written as one
        ({"whole": [1, 2], "rest": [3]}, [2, 3]),
    ],
)
def test_good_regions(regions: Any, order: Any):
    LabelScheme(NAMES, VALUES, 4, regions, order)


@pytest.mark.parametrize(
    ("regions", "order", "words"),
    [
        (TUMOUR, None, ("need regions_class_order", "whole, core, enhancing")),
        (TUMOUR, 3, ("need regions_class_order", "It is 3")),
        (TUMOUR, [1, 2], ("2 values, [1, 2], for 3 regions", "one value per region")),
        (None, [1, 2], ("without regions",)),
        ({}, [], ("must be an object",)),
        ([[1, 2]], [1], ("must be an object",)),
        ({"whole": [1, 7]}, [1], ('"whole" is [1, 7]', "[1, 2, 3]")),
        ({"whole": [0, 1]}, [1], ('"whole" is [0, 1]', "background")),
        ({"whole": []}, [1], ('"whole" is []',)),
        ({"whole": 1}, [1], ('"whole" is 1', "a list")),
        ({"whole": [1.0]}, [1], ('"whole" is [1.0]',)),
        ({"a#b": [1]}, [1], ('"a#b"', "Rename")),
        ({"a::b": [1]}, [1], ('"a::b"', "Rename")),
        ({"whole": [1, 2]}, [3], ('writes 3 for the region "whole"', "[1, 2]")),
        (TUMOUR, [1, 2, True], ("writes True",)),
        # the whole tumour is written over its core
        (
            {"enhancing": [3], "core": [2, 3], "whole": [1, 2, 3]},
            [3, 2, 1],
            ("writes 1 where a voxel has the value 2", "list larger regions first"),
        ),
        (
            {"left": [1, 2], "right": [2, 3]},
            [1, 3],
            ("writes 3 where", "add a region for what two regions share"),
        ),
    ],
)
def test_bad_regions_say_what_to_do(regions: Any, order: Any, words: tuple[str, ...]):
    with pytest.raises(PlanError) as error:
        LabelScheme(NAMES, VALUES, None, regions, order)
    for word in words:
        assert word in str(error.value)


def test_what_passes_can_be_written_and_read_back():
    """Of all regions of three values, exactly those pass that a mask can represent without loss."""
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
    assert LabelScheme(NAMES, VALUES, value).ignore_value == value


@pytest.mark.parametrize("value", [0, 3, -1, 1.5, "4", True])
def test_bad_ignored_values(value: Any):
    with pytest.raises(PlanError, match="ignore_value is .*not a value of a class"):
        LabelScheme(NAMES, VALUES, value)


def test_as_many_values_as_names():
    with pytest.raises(PlanError, match="4 label_names and 2 label_values\\. Give one value"):
        LabelScheme(NAMES, [0, 255])


@pytest.mark.parametrize("values", [[0, 255, 128], [0, 1, 1], [0, "1"], list(range(256))])
def test_tables_that_are_refused(values: list[Any]):
    with pytest.raises(PlanError, match="at most 255 ascending whole numbers"):
        LabelScheme([f"class {value}" for value in values], values)


def test_names_that_differ_by_spaces_alone_are_refused():
    order = [1, 2]
    with pytest.raises(PlanError, match='region name "w" is given twice'):
        LabelScheme(["b", "x", "y"], (), None, {"w": [1, 2], "w ": [2]}, order)
    with pytest.raises(PlanError, match='class name "x" is given twice'):
        LabelScheme(["b", "x", " x"])

"""The labels of a dataset.json: plain, with regions, with voxels to ignore."""

from pathlib import Path
from typing import Any

import pytest

from dynunet_bundle.errors import DatasetError
from dynunet_bundle.labels.dataset_json import read_labels
from dynunet_bundle.labels.scheme import LabelScheme

SOURCE = Path("DATA/dataset.json")
BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}


def read(labels: Any, order: Any = None) -> LabelScheme:
    content = {"labels": labels}
    return read_labels(
        content if order is None else {**content, "regions_class_order": order}, SOURCE
    )


def test_plain_labels_have_no_regions_and_no_ignore_value():
    table = read({"background": 0, "edema": 1, "core": 5})
    assert table == LabelScheme(("background", "edema", "core"), (0, 1, 5))
    # nnU-Net writes the key for every data set; one value is not a region
    assert read({"background": 0, "edema": [1], "core": 5}, [1, 5]) == table


def test_regions_in_the_order_of_the_file():
    table = read(BRATS, [1, 2, 3])
    assert table.values == (0, 1, 2, 3)
    assert table.names == ("background", "label 1", "label 2", "enhancing")
    assert list(table.regions.items()) == [
        ("whole", (1, 2, 3)),
        ("core", (2, 3)),
        ("enhancing", (3,)),
    ]
    assert table.regions_class_order == (1, 2, 3)
    assert table.ignore_value is None


def test_the_order_of_the_file_is_the_order_of_the_outputs():
    labels = {"whole": [3, 1, 2], "background": 0, "enhancing": [3], "ignore": 4, "edema": 1}
    table = read(labels, [2, 3, 1])
    assert list(table.regions) == ["whole", "enhancing", "edema"]
    assert table.names == ("background", "edema", "label 2", "enhancing")
    assert table.values == (0, 1, 2, 3)
    assert table.ignore_value == 4


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "edema": 1, "ignore": 7},
        {"ignore": [7], "background": 0, "edema": [1]},
        {"0": "background", "7": "ignore", "1": "edema"},
    ],
)
def test_the_ignore_value_is_not_a_class(labels: dict[str, Any]):
    assert read(labels) == LabelScheme(("background", "edema"), (0, 1), 7)


@pytest.mark.parametrize(
    ("labels", "order", "words"),
    [
        (BRATS, None, "need regions_class_order"),
        (BRATS, [1, 2], "for 3 region"),
        (BRATS, [1, 2, 2], 'writes 2 for the region "enhancing"'),
        (BRATS, [1, 9, 3], 'writes 9 for the region "core"'),
        ({"whole": [1, 2], "core": 2}, [1, 2], '"background": 0'),
        ({"background": [0, 3], "whole": [1, 2], "core": 2}, [1, 2, 2], '"background": 0'),
        ({"background": 0, "all": [0, 1], "core": 1}, [1, 1], '"all" is'),
        ({**BRATS, "ignore": 3}, [1, 2, 3], "ignore_value is 3"),
        (
            {**BRATS, "ignore": [4, 5]},
            [1, 2, 3],
            '"ignore" in "labels" is [[4, 5]]. Give it exactly one value',
        ),
        ({"background": 0, "edema": 1, "ignore": 0}, None, "ignore_value is 0"),
        ({"background": 0, "edema": 1, "ignore": -1}, None, "ignore_value is -1"),
        ({"background": 0, "edema": []}, None, "give each class a different value"),
        ({"background": 0, "whole": [1, 2], "core": []}, [1, 2], '"core" is'),
        ({"background": 0, "whole": [1, "x"]}, [1], "not whole numbers"),
    ],
)
def test_what_is_refused(labels: dict[str, Any], order: Any, words: str):
    with pytest.raises(DatasetError, match=r"DATA/dataset\.json") as error:
        read(labels, order)
    assert words in str(error.value)

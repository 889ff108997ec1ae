"""Folds are those of scikit-learn and nnU-Net, unless the user's file says otherwise."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dynunet_bundle.dataset.folds import default_folds, read_folds, split_folds, write_folds
from dynunet_bundle.errors import DatasetError

# from scikit-learn 1.9.1: [v.tolist() for _, v in KFold(k, shuffle=True, random_state=seed).split(range(n))]
KFOLD = {
    (10, 5, 12345): [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]],
    (23, 5, 12345): [
        [3, 8, 10, 17, 19],
        [0, 7, 12, 15, 16],
        [6, 11, 14, 18, 20],
        [9, 13, 21, 22],
        [1, 2, 4, 5],
    ],
    (7, 3, 7): [[0, 2, 5], [3, 6], [1, 4]],
}

NAMES = [f"case_{index}" for index in range(10)]


@pytest.mark.parametrize(("arguments", "expected"), KFOLD.items())
def test_folds_are_those_of_scikit_learn(
    arguments: tuple[int, int, int], expected: list[list[int]]
):
    assert [fold.tolist() for fold in split_folds(*arguments)] == expected


def test_the_default_seed_is_that_of_nnunet():
    assert [fold.tolist() for fold in split_folds(10, 5)] == KFOLD[10, 5, 12345]


@pytest.mark.parametrize(("num_cases", "num_folds"), [(4, 5), (0, 2), (5, 1), (5, 0), (5, -1)])
def test_impossible_splits(num_cases: int, num_folds: int):
    with pytest.raises(DatasetError, match=rf"{num_cases} case.*{num_folds} folds.*--num_folds"):
        split_folds(num_cases, num_folds)


def test_folds_over_names_do_not_depend_on_their_order():
    folds = default_folds(NAMES[::-1], 5)
    assert folds == default_folds(NAMES, 5)
    assert [fold["val"] for fold in folds] == [
        [NAMES[index] for index in part] for part in KFOLD[10, 5, 12345]
    ]
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == NAMES


def test_names_are_sorted_as_text():
    # as in nnU-Net: 10 comes before 2
    in_order = ["0", "1", "10", "2", "3", "4", "5", "6", "7", "8", "9"]
    folds = default_folds([str(number) for number in range(11)], 3)
    expected = [[in_order[index] for index in part] for part in split_folds(11, 3)]
    assert [fold["val"] for fold in folds] == expected


# --- the file


def test_written_folds_are_read_back(tmp_path: Path):
    path = tmp_path / "splits.json"
    written = write_folds(path, NAMES)
    assert written == default_folds(NAMES, 5) == read_folds(path, NAMES)
    # the form of nnU-Net's splits_final.json
    assert json.loads(path.read_text()) == written


def test_a_file_that_is_there_is_the_users(tmp_path: Path):
    path = tmp_path / "splits.json"
    own = [{"train": NAMES[:3], "val": NAMES[7:9]}]  # one fold, and cases left out
    path.write_text(json.dumps(own))
    before = path.read_bytes()
    assert write_folds(path, NAMES) == own
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({"train": ["case_0"], "val": ["case_1"]}, "is not of type 'array'.*a list of folds"),
        ([], "should be non-empty.*a list of folds"),
        ([{"train": ["case_0"]}], r"\[0\]: 'val' is a required property.*a list of folds"),
        ([{"train": ["case_0"], "val": []}], r"\[0\]\.val: \[\] should be non-empty"),
        ([{"train": "case_0", "val": ["case_1"]}], r"\[0\]\.train: .* not of type 'array'"),
        ([{"train": ["case_0"], "val": [1]}], r"\[0\]\.val\[0\]: 1 is not of type 'string'"),
        ([["case_0"], ["case_1"]], r"\[1\]: .* is not of type 'object'"),
        (
            [{"train": ["case_0", "gone", "away"], "val": ["case_1"]}],
            r"fold 0 has 2 cases outside the data set: away, gone",
        ),
        (
            [
                {"train": ["case_0"], "val": ["case_1"]},
                {"train": ["case_0", "case_1"], "val": ["case_1"]},
            ],
            "fold 1 has case_1 in both train and val",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused_and_kept(tmp_path: Path, folds: Any, message: str):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(folds))
    for read in (read_folds, write_folds):
        with pytest.raises(DatasetError, match=f"{re.escape(str(path))}.*{message}.*delete it"):
            read(path, NAMES)
    assert json.loads(path.read_text()) == folds


def test_a_file_that_is_not_json(tmp_path: Path):
    path = tmp_path / "splits.json"
    path.write_text("[{]")
    with pytest.raises(DatasetError, match="splits.json is not valid JSON"):
        read_folds(path, NAMES)

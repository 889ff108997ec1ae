"""Folds of cross-validation: five by scikit-learn's rule, in a JSON file that the user may replace.

Stored on disk: ``train`` and ``val``, the keys of a fold, in ``configs/tasks/splits/*.json``.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynunet_bundle.errors import DatasetError, some_of
from dynunet_bundle.files import read_json, write_json
from dynunet_bundle.shapes import TEXT, list_of, object_with

Folds = list[dict[str, list[str]]]
"""Names of the ``train`` and ``val`` cases of each fold, as in nnU-Net's ``splits_final.json``."""

NAMES = list_of({**TEXT, "maxLength": 255}, minItems=1)
REMEDY = "Correct the file, or delete it and run scripts/plan.py again."

FOLDS_SCHEMA = list_of(
    object_with({"train": NAMES, "val": NAMES}, ("train", "val")),
    minItems=1,
    description=f'It is a list of folds, each {{"train": [names], "val": [names]}}. {REMEDY}',
)
"""Schema of a splits file."""

MIN_FOLDS = 2  # smallest number of folds
NUM_FOLDS = 5  # default number of folds

SPLIT_SEED = 12345
"""Random state of the five folds, as in the seed (NVIDIA's nnU-Net example) and in nnU-Net."""


def split_folds(num_cases: int, num_folds: int, seed: int = SPLIT_SEED) -> list[np.ndarray]:
    """Indices of the validation cases of each fold, as scikit-learn's ``KFold(shuffle=True)`` draws them.

    The rule is implemented here so that folds equal those of the seed and of nnU-Net: shuffle 0..n-1 with the legacy
    generator, split into folds of which the first ``n % k`` have one case more, sort each fold.

    Args:
        num_cases: number of cases, in sorted order.
        num_folds: number of folds, at least 2.
        seed: seed of numpy's legacy generator.

    Returns:
        ``num_folds`` sorted int arrays that together contain each of 0..num_cases-1 once.

    Raises:
        DatasetError: if there are fewer cases than folds.
    """
    if num_folds < MIN_FOLDS or num_cases < num_folds:
        raise DatasetError(
            f"{num_cases} case(s) cannot be split into {num_folds} folds. "
            "Pass a --num_folds from 2 to the number of cases."
        )
    order = np.arange(num_cases)
    np.random.RandomState(seed).shuffle(order)
    return [np.sort(part) for part in np.array_split(order, num_folds)]


def default_folds(names: Sequence[str], num_folds: int, seed: int = SPLIT_SEED) -> Folds:
    """Folds over case names.

    Args:
        names: names of the labelled cases, in any order.
        num_folds: number of folds.
        seed: seed of ``split_folds``.
    """
    ordered = sorted(names)
    held_out = [set(part.tolist()) for part in split_folds(len(ordered), num_folds, seed)]
    return [
        {
            "train": [name for index, name in enumerate(ordered) if index not in part],
            "val": [name for index, name in enumerate(ordered) if index in part],
        }
        for part in held_out
    ]


def write_folds(path: Path, names: Sequence[str], num_folds: int = NUM_FOLDS) -> Folds:
    """Write the default folds; an existing file is the user's and is only checked.

    Raises:
        DatasetError: if the existing file does not belong to these cases.
    """
    if path.is_file():
        return read_folds(path, names)
    folds = default_folds(names, num_folds)
    write_json(path, folds)
    return folds


def read_folds(path: Path, names: Sequence[str]) -> Folds:
    """Read and check a file of folds. It may have any number of folds, and does not need all cases.

    Args:
        path: the JSON file.
        names: names of the labelled cases.

    Raises:
        DatasetError: if it is malformed, has unknown cases, or has a case in both parts of a fold.
    """
    folds: Folds = read_json(path, DatasetError, FOLDS_SCHEMA)
    for index, fold in enumerate(folds):
        unknown = sorted({*fold["train"], *fold["val"]} - set(names))
        if unknown:
            raise DatasetError(
                f"{path}: fold {index} has {len(unknown)} case(s) that are not in the data set: "
                f"{some_of(unknown)}. {REMEDY}"
            )
        both = sorted(set(fold["train"]) & set(fold["val"]))
        if both:
            raise DatasetError(
                f"{path}: fold {index} has {some_of(both)} in both train and val. {REMEDY}"
            )
    return folds

"""Which cases are held out: five folds by scikit-learn's rule, kept in a JSON that a user may replace."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynunet_bundle.errors import DatasetError, some_of
from dynunet_bundle.files import read_json, write_json

Folds = list[dict[str, list[str]]]
"""For each fold the names of its ``train`` and ``val`` cases, as in nnU-Net's ``splits_final.json``."""

MIN_FOLDS = 2
NUM_FOLDS = 5

SPLIT_SEED = 12345
"""The seed's and nnU-Net's random state for the five folds."""


def split_folds(num_cases: int, num_folds: int, seed: int = SPLIT_SEED) -> list[np.ndarray]:
    """Indices of the validation cases of each fold, as scikit-learn's ``KFold(shuffle=True)`` draws them.

    Restated from its rule so that folds equal those of the seed and of nnU-Net: shuffle 0..n-1 with the legacy
    generator, cut into folds of which the first ``n % k`` have one case more, sort each.

    Args:
        num_cases: number of cases, in sorted order.
        num_folds: number of folds, at least 2.
        seed: state of the legacy numpy generator.

    Returns:
        ``num_folds`` sorted int arrays that together hold 0..num_cases-1 once.

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
        names: names of the labelled cases; they are sorted first.
        num_folds: number of folds.
        seed: as in ``split_folds``.
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
    """Write the default folds, unless the file is there: then it is the user's, and only checked.

    Raises:
        DatasetError: if the file that is there does not belong to these cases.
    """
    if path.is_file():
        return read_folds(path, names)
    folds = default_folds(names, num_folds)
    write_json(path, folds)
    return folds


def read_folds(path: Path, names: Sequence[str]) -> Folds:
    """Read and check a file of folds; it may have any number of folds, and leave cases out.

    Args:
        path: the JSON.
        names: names of the labelled cases.

    Raises:
        DatasetError: if it is malformed, names cases that the data set lacks, or holds a case in both parts.
    """
    folds = read_json(path, DatasetError)
    remedy = f"Correct {path.name}, or delete it to have it made anew by scripts/plan.py."
    if not isinstance(folds, list) or not folds or not all(map(_is_fold, folds)):
        raise DatasetError(
            f'{path} must be a list of folds, each {{"train": [names], "val": [names]}}. {remedy}'
        )
    for index, fold in enumerate(folds):
        unknown = sorted({*fold["train"], *fold["val"]} - set(names))
        if unknown:
            raise DatasetError(
                f"{path}: fold {index} has {len(unknown)} case(s) that the data set lacks: "
                f"{some_of(unknown)}. {remedy}"
            )
        both = sorted(set(fold["train"]) & set(fold["val"]))
        if both:
            raise DatasetError(
                f"{path}: fold {index} has {some_of(both)} in train and in val. {remedy}"
            )
    return folds


def _is_fold(fold: object) -> bool:
    return isinstance(fold, dict) and all(
        isinstance(fold.get(part), list)
        and fold[part]
        and all(isinstance(name, str) for name in fold[part])
        for part in ("train", "val")
    )

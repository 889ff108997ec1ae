"""Folds of cross-validation: five by scikit-learn's rule, in a JSON file that the user may replace.

Stored on disk: ``train`` and ``val``, the keys of a fold, in ``configs/tasks/splits/*.json``.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynunet_bundle.errors import DatasetError, counted, some_of
from dynunet_bundle.files import read_json, write_json
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.shapes import TEXT, list_of, object_with

logger = logging.getLogger(__name__)

Folds = list[dict[str, list[str]]]
"""Names of the ``train`` and ``val`` cases of each fold, as in nnU-Net's ``splits_final.json``."""

NAMES = list_of({**TEXT, "maxLength": 255}, minItems=1)
REMEDY = "Correct the file, or delete it and run dynunet-bundle plan again."

FOLDS_SCHEMA = list_of(
    object_with({"train": NAMES, "val": NAMES}, ("train", "val")),
    minItems=1,
    description=f'It is a list of folds, each {{"train": [names], "val": [names]}}. {REMEDY}',
)
"""Schema of a splits file."""

SPLITS_ID = "splits_file"
"""Id of train.json: the file of folds that a training reads."""

MIN_FOLDS = 2  # smallest number of folds
NUM_FOLDS = 5  # default number of folds

SPLITS_PLACE = ("configs", "tasks", "splits")
"""Folder of the splits files in a bundle; only tasks with enough cases have one."""

OWN_SPLITS = BUNDLE.joinpath(*SPLITS_PLACE)

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
            f"{counted(num_cases, 'case')} cannot be split into {num_folds} folds. Pass {fewer_folds(num_cases)}."
        )
    order = np.arange(num_cases)
    np.random.RandomState(seed).shuffle(order)
    return [np.sort(part) for part in np.array_split(order, num_folds)]


def fewer_folds(num_cases: int) -> str:
    """Options of ``train`` for too few cases, as a part of a sentence."""
    if num_cases == 1:
        return "--fold full; several folds need two cases"
    fitting = f"{MIN_FOLDS} to {num_cases}" if num_cases > MIN_FOLDS else MIN_FOLDS
    return f"--num_folds {fitting}, or --fold full for every case"


def told_fold(fold: int | str) -> str:
    """A fold as the command line names it: ``all`` of the configs is ``full``."""
    return "full" if fold == "all" else str(fold)


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


def find_splits(splits_file: str | None) -> Path | None:
    """The file that gives the folds; None if they are drawn.

    Args:
        splits_file: path of the file. If it was in the ``configs`` of a bundle that was moved since, the file in the
            same place of this bundle is meant.
    """
    if not splits_file:
        return None
    path = Path(splits_file)
    if _is_default(path) and not path.is_file():
        path = OWN_SPLITS / path.name
    return path if path.is_file() else None


def _is_default(path: Path) -> bool:
    """Whether a path is where the configs look for a file by themselves; a task may have none there."""
    return path.parts[-len(SPLITS_PLACE) - 1 : -1] == SPLITS_PLACE


def require_splits(splits_file: str) -> None:
    """Refuse a file of folds that was named and does not exist: drawn folds would train on its held-out cases.

    Raises:
        DatasetError: with the ways on.
    """
    if find_splits(splits_file) is None:
        raise DatasetError(
            f"splits_file {splits_file} does not exist, so the held-out cases are not known. Restore the file, "
            f"correct its path in the overlay, or draw new folds with --{SPLITS_ID} '$None'."
        )


def folds_source(splits_file: str | None, num_folds: int, seed: int = SPLIT_SEED) -> str:
    """Where the folds come from, as text for logs and ``status.json``."""
    path = find_splits(splits_file)
    return f"{num_folds} folds drawn with seed {seed}" if path is None else str(path)


def find_folds(
    names: Sequence[str], splits_file: str | None, num_folds: int, seed: int = SPLIT_SEED
) -> Folds:
    """The folds in the splits file; drawn ones without a file, or if the file of the default path does not exist.

    Args:
        names: names of the labelled cases.
        splits_file: path of the file, or None.
        num_folds: number of folds to draw.
        seed: seed of the draw.

    Raises:
        DatasetError: if the file does not exist elsewhere, if it does not belong to these cases, or if there are fewer
            cases than folds, or if another number of folds than the file's or the default is asked for.
    """
    path = find_splits(splits_file)
    if path is None:
        if splits_file and not _is_default(Path(splits_file)):
            require_splits(splits_file)
        return default_folds(names, num_folds, seed)
    folds = read_folds(path, names)
    if len(folds) != num_folds:
        if num_folds != NUM_FOLDS:
            raise DatasetError(
                f"{path} has {counted(len(folds), 'fold')}, but num_folds is {num_folds}. Leave out --num_folds, or "
                "pass --splits_file '$None' to draw folds anew."
            )
        logger.warning("%s has %s; num_folds is ignored", path, counted(len(folds), "fold"))
    return folds


def cases_of_splits(path: Path) -> set[str]:
    """Names of all cases in a file of folds.

    Raises:
        DatasetError: if it is malformed.
    """
    folds: Folds = read_json(path, DatasetError, FOLDS_SCHEMA)
    return {name for fold in folds for part in ("train", "val") for name in fold[part]}


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
                f"{path}: fold {index} has {counted(len(unknown), 'case')} outside the data set: "
                f"{some_of(unknown)}. {REMEDY}"
            )
        both = sorted(set(fold["train"]) & set(fold["val"]))
        if both:
            raise DatasetError(
                f"{path}: fold {index} has {some_of(both)} in both train and val. {REMEDY}"
            )
    return folds

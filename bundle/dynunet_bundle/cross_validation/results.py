"""Results of all folds: each case counts once, scored by the model that was not trained on it.

Stored on disk in ``OUT/cross_validation``:

    predictions/     the mask of each held-out case, on the grid of its file
    fold_0.json ...  Dice by case of one fold, and its inputs: weights, plan, folds, files
    summary.json     summary of the folds scored so far
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynunet_bundle.cross_validation.summary import FoldRecord, summarize_folds
from dynunet_bundle.errors import ConfigError, counted, some_of
from dynunet_bundle.files import read_json, write_json
from dynunet_bundle.machine.locks import exclusive
from dynunet_bundle.planning.plan import PLAN_SCHEMA, plan_differences
from dynunet_bundle.shapes import (
    COUNT,
    MAYBE_NUMBER,
    TEXT,
    by_name,
    list_of,
    object_with,
)

FOLD_FILE = re.compile(r"fold_(\d+)\.json")

FOLD_SCHEMA = object_with(
    {
        "cases": by_name(by_name(MAYBE_NUMBER)),
        "mean": by_name(MAYBE_NUMBER),
        "mean_dice": MAYBE_NUMBER,
        "plan": PLAN_SCHEMA,
        "held_out": list_of(list_of(TEXT), minItems=1),
        "basis": object_with(
            {
                "weights_sha256": TEXT,
                "epoch": {**COUNT, "type": ["integer", "null"]},
                "files_sha256": TEXT,
            }
        ),
    },
    ("cases", "mean", "mean_dice", "plan", "held_out", "basis"),
    description="Delete the file, and run dynunet-bundle train --collect to score the fold again.",
)
"""Schema of ``fold_K.json``."""


@dataclass(frozen=True)
class ResultFolder:
    """Folder of the results of a cross-validation.

    Attributes:
        path: ``OUT/cross_validation``.
    """

    path: Path

    @property
    def predictions(self) -> Path:
        """Folder of the masks of all folds."""
        return self.path / "predictions"

    def fold_file(self, fold: int) -> Path:
        """Scores of one fold."""
        return self.path / f"fold_{fold}.json"

    def records(self) -> dict[int, FoldRecord]:
        """Records of the folds scored so far, by their number.

        Raises:
            ConfigError: if a file is malformed, or not all folds and cases have the same classes.
        """
        found: dict[int, FoldRecord] = {}
        for file in self.path.glob("fold_*.json"):
            match = FOLD_FILE.fullmatch(file.name)
            if match:
                found[int(match[1])] = read_json(file, ConfigError, FOLD_SCHEMA)
        for fold, record in found.items():
            names = next(iter(found.values()))["mean"].keys()
            if any(row.keys() != names for row in (record["mean"], *record["cases"].values())):
                raise ConfigError(
                    f"{self.fold_file(fold)} has scores of other classes than {', '.join(names)}. "
                    f"{FOLD_SCHEMA['description']}"
                )
        return dict(sorted(found.items()))


def fold_record(
    fold: int,
    scores: Mapping[str, Any],
    plan: Mapping[str, Any],
    held_out: Sequence[Sequence[str]],
    basis: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of ``fold_K.json``.

    Args:
        fold: its number.
        scores: result of ``summarize`` for the fold's cases.
        plan: the plan of the weights.
        held_out: names of the held-out cases of every fold; folds of different splits must not be mixed.
        basis: result of ``score_basis``.
    """
    return {
        "fold": fold,
        **scores,
        "basis": dict(basis),
        "plan": dict(plan),
        "held_out": [list(names) for names in held_out],
    }


def require_same(
    records: Mapping[int, FoldRecord],
    plan: Mapping[str, Any],
    held_out: Sequence[Sequence[str]],
    where: Path,
) -> None:
    """Refuse results of other plans or splits.

    Args:
        records: the folds scored so far.
        plan: the plan that all must have.
        held_out: names of the held-out cases of every fold, the split that all must have.
        where: folder of the results, for the message.

    Raises:
        ConfigError: naming the fold and what differs.
    """
    remedy = "Choose another --output_dir, or delete that file to train and score the fold again."
    for fold, record in records.items():
        differences = plan_differences(record["plan"], plan)
        if differences:
            raise ConfigError(
                f"{where / f'fold_{fold}.json'} is of another plan ({'; '.join(differences)}). {remedy}"
            )
        fault = split_difference(record["held_out"], held_out)
        if fault:
            raise ConfigError(
                f"{where / f'fold_{fold}.json'} is of another split: {fault}. {remedy}"
            )


def require_disjoint(held_out: Sequence[Sequence[str]]) -> None:
    """Refuse a split that holds out a case more than once.

    Raises:
        ConfigError: naming cases and folds.
    """
    seen: dict[str, int] = {}
    for fold, names in enumerate(held_out):
        for name in names:
            if name in seen:
                raise ConfigError(
                    f"case {name} is held out in fold {seen[name]} and in fold {fold}, but a cross-validation "
                    "counts each case once. Correct the file of folds (splits_file)."
                )
            seen[name] = fold


def collect(folder: ResultFolder) -> dict[str, Any]:
    """Write ``summary.json`` of the folds scored so far.

    If two processes finish at the same time, a lock makes the second one wait, so that its summary has both folds.

    Returns:
        The summary.

    Raises:
        ConfigError: if there is no fold, or the folds have different plans or splits.
    """
    if not folder.path.is_dir():
        raise ConfigError(
            f"{folder.path} does not exist: no fold has been scored yet. Train a fold first."
        )
    with exclusive(folder.path / ".lock", "collection of scores"):
        records = folder.records()
        if not records:
            raise ConfigError(f"{folder.path} holds no scores of any fold yet. Train a fold first.")
        first = next(iter(records.values()))
        require_same(records, first["plan"], first["held_out"], folder.path)
        summary = summarize_folds(records)
        write_json(folder.path / "summary.json", summary)
    return summary


def split_difference(then: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> str | None:
    """First difference of two splits, given as the held-out cases of every fold; None if they are equal."""
    if len(then) != len(now):
        return f"{counted(len(then), 'fold')} against {len(now)}"
    for fold, (old, new) in enumerate(zip(then, now, strict=True)):
        changed = sorted(set(old) ^ set(new))
        if changed:
            return f"fold {fold} holds out {some_of(changed)} in one of them only"
    return None

"""Scores of all folds as one: each case counts once, scored by the model that has not seen it.

In ``OUT/cross_validation``:

    predictions/     the mask of each held-out case, in the space of its file
    fold_0.json ...  Dice by case of one fold, and what it depends on: weights, plan, folds, files
    summary.json     all folds that are there
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynunet_bundle.cross_validation.summary import FoldRecord, summarize_folds
from dynunet_bundle.errors import ConfigError, some_of
from dynunet_bundle.files import exclusive, read_json, write_json
from dynunet_bundle.planning.plan import plan_differences

FOLD_FILE = re.compile(r"fold_(\d+)\.json")


@dataclass(frozen=True)
class ResultFolder:
    """Where the results of a cross-validation lie.

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
        """All folds that are there, by their number.

        Raises:
            ConfigError: if a file is malformed.
        """
        found = {}
        for file in self.path.glob("fold_*.json"):
            match = FOLD_FILE.fullmatch(file.name)
            if match:
                found[int(match[1])] = _checked(read_json(file, ConfigError), file)
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
        scores: what ``summarize`` made of the fold's cases.
        plan: the plan of the weights.
        held_out: names of the held-out cases of every fold; folds of different splits must not be mixed.
        basis: what else the scores depend on.
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
        records: the folds that are there.
        plan: the plan that all must have.
        held_out: names of the held-out cases of every fold, likewise.
        where: folder of the results, for the message.

    Raises:
        ConfigError: naming the fold and what differs.
    """
    remedy = "Choose another --out, or take that file away to train and score the fold again."
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
    """Refuse a split that holds out a case more than once: it could not count once.

    Raises:
        ConfigError: naming cases and folds.
    """
    seen: dict[str, int] = {}
    for fold, names in enumerate(held_out):
        for name in names:
            if name in seen:
                raise ConfigError(
                    f"case {name} is held out in fold {seen[name]} and in fold {fold}; a cross-validation "
                    "counts each case once. Correct the file of folds (splits_file)."
                )
            seen[name] = fold


def collect(folder: ResultFolder) -> dict[str, Any]:
    """Write ``summary.json`` over all folds that are there; some may be missing yet.

    Two processes that finish at once do it one after the other, so that the later one sees both folds.

    Returns:
        The summary.

    Raises:
        ConfigError: if there is no fold, or folds of different plans or splits.
    """
    if not folder.path.is_dir():
        raise ConfigError(f"{folder.path} does not exist: no fold has been scored yet. Train one.")
    with exclusive(folder.path / ".lock", f"collects in {folder.path}"):
        records = folder.records()
        if not records:
            raise ConfigError(f"{folder.path} holds no scores of any fold yet. Train one.")
        first = next(iter(records.values()))
        require_same(records, first["plan"], first["held_out"], folder.path)
        summary = summarize_folds(records)
        write_json(folder.path / "summary.json", summary)
    return summary


def _checked(record: Any, file: Path) -> FoldRecord:
    needed = {"cases", "mean", "mean_dice", "plan", "held_out", "basis"}
    if not isinstance(record, dict) or not needed <= record.keys():
        raise ConfigError(f"{file} is no record of a fold's scores. Take it away to score again.")
    return record


def split_difference(then: Sequence[Sequence[str]], now: Sequence[Sequence[str]]) -> str | None:
    """What two splits differ in, each by the names of the held-out cases of every fold; None where nothing does."""
    if len(then) != len(now):
        return f"{len(then)} folds against {len(now)}"
    for fold, (old, new) in enumerate(zip(then, now, strict=True)):
        changed = sorted(set(old) ^ set(new))
        if changed:
            return f"fold {fold} holds out {some_of(changed)} in one of them only"
    return None

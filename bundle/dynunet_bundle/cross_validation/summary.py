"""Summary of a cross-validation: all cases, each fold, and the cases with the lowest Dice.

Stored on disk: the keys of ``summarize_folds`` in ``summary.json``.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dynunet_bundle.drawing.text_table import number_cell, text_table
from dynunet_bundle.evaluation.scores import mean_of, summarize

NUM_WORST = 5

FoldRecord = Mapping[str, Any]
"""Scores of one fold and their inputs, see ``results.fold_record``."""


def summarize_folds(records: Mapping[int, FoldRecord]) -> dict[str, Any]:
    """Summarise all folds together, and each fold.

    Args:
        records: folds of one plan and one split, by their number.

    Returns:
        ``mean``: Dice by class over all cases where it is defined; ``mean_dice``: its mean over classes, as nnU-Net's
        ``foreground_mean``; ``std_over_folds``: the sample standard deviation of the folds' means, by class and as
        ``mean_dice``, None for a single fold; ``by_fold``, ``missing_folds``, ``worst`` (the five cases with the lowest
        mean over classes) and ``cases``.
    """
    first = next(iter(records.values()))
    names = list(first["mean"])
    rows = {
        case: [row[name] for name in names]
        for record in records.values()
        for case, row in record["cases"].items()
    }
    whole = summarize(rows, ["background", *names])
    fold_of = {case: fold for fold, record in records.items() for case in record["cases"]}
    spread = {
        name: _spread([record["mean"][name] for record in records.values()]) for name in names
    }
    num_folds = len(first["held_out"])
    return {
        "metric": "Dice",
        "task_name": first["plan"].get("task_name"),
        "num_folds": num_folds,
        "missing_folds": [fold for fold in range(num_folds) if fold not in records],
        "mean_dice": whole["mean_dice"],
        "mean": whole["mean"],
        "num_cases": whole["num_cases"],
        "std_over_folds": {
            **spread,
            "mean_dice": _spread([record["mean_dice"] for record in records.values()]),
        },
        "by_fold": {str(fold): _fold_part(record) for fold, record in records.items()},
        "worst": _worst(whole["cases"], fold_of),
        "cases": {
            case: {"fold": fold_of[case], "dice": row} for case, row in whole["cases"].items()
        },
    }


def format_folds(summary: Mapping[str, Any]) -> str:
    """The summary as a table for a terminal: one row per fold, all cases, the spread, and the lowest cases."""
    names = list(summary["mean"])
    rows: list[tuple[str, int | None, list[float | None]]] = [
        (f"fold {fold}", part["num_cases"], [*part["mean"].values(), part["mean_dice"]])
        for fold, part in summary["by_fold"].items()
    ]
    whole = [*summary["mean"].values(), summary["mean_dice"]]
    spread = summary["std_over_folds"]
    rows.append(("all cases", len(summary["cases"]), whole))
    rows.append(("std over folds", None, [*(spread[name] for name in names), spread["mean_dice"]]))
    rows += [
        (f"{case['case']} (fold {case['fold']})", None, [*case["dice"].values(), case["mean_dice"]])
        for case in summary["worst"]
    ]
    cells = [
        [label, "" if count is None else str(count), *map(number_cell, values)]
        for label, count, values in rows
    ]
    lines = text_table([["", "cases", *names, "mean"], *cells])
    if summary["worst"]:
        lines.insert(-len(summary["worst"]), "the lowest:")
    if summary["missing_folds"]:
        missing = ", ".join(map(str, summary["missing_folds"]))
        lines.append(f"incomplete: of {summary['num_folds']} folds these are missing: {missing}")
    return "\n".join(lines)


def _fold_part(record: FoldRecord) -> dict[str, Any]:
    return {
        "num_cases": len(record["cases"]),
        "mean_dice": record["mean_dice"],
        "mean": record["mean"],
        **{key: record["basis"].get(key) for key in ("weights_sha256", "epoch")},
    }


def _worst(
    cases: Mapping[str, Mapping[str, float | None]], fold_of: Mapping[str, int]
) -> list[Any]:
    means = {case: mean_of(list(row.values())) for case, row in cases.items()}
    scored = sorted((mean, case) for case, mean in means.items() if mean is not None)
    return [
        {"case": case, "fold": fold_of[case], "mean_dice": mean, "dice": dict(cases[case])}
        for mean, case in scored[:NUM_WORST]
    ]


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) > 1 else None

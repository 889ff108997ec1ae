"""Tables of a report: scores by class, cases, facts of the run, times."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynunet_bundle.errors import counted
from dynunet_bundle.report.content import Content
from dynunet_bundle.report.text import (
    MEASURES,
    Measure,
    clean,
    duration,
    finite,
    measure_of,
    number,
    shown_value,
)

CASE_MEASURES = ("dice", "nsd", "hd95_mm", "volume_ml", "reference_volume_ml")
CHART_MEASURES = ("dice", "nsd", "hd95_mm")
SHORT_TITLES = {"reference_volume_ml": "Reference"}


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and the number that it is sorted by (empty if it has no number)."""

    text: str
    key: str = ""


@dataclass(frozen=True)
class Summary:
    """Statistics of one measure of one class, as text."""

    mean: Cell
    median: str
    interval: str
    num_cases: str


@dataclass(frozen=True)
class SummaryTable:
    """Measures as columns, classes as rows."""

    columns: tuple[Measure, ...]
    rows: tuple[tuple[str, tuple[Summary, ...]], ...]


@dataclass(frozen=True)
class CaseRow:
    """One case: its cells in column order, its number of flags, and whether it failed."""

    name: str
    cells: tuple[Cell, ...]
    num_flags: int
    failed: bool


@dataclass(frozen=True)
class CaseTable:
    """Cases as rows; ``groups`` are the classes, each with its columns and their units."""

    groups: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    rows: tuple[CaseRow, ...]


@dataclass(frozen=True)
class StageTime:
    """One stage: the median, maximum and sum of its times over the cases, as text."""

    stage: str
    texts: tuple[str, ...]


def cell(value: Any, digits: int) -> Cell:
    """A number as a cell, sorted by its full precision."""
    known = finite(value)
    return Cell(number(known, digits), "" if known is None else repr(known))


def summary_table(content: Content) -> SummaryTable | None:
    """Mean, median, 95 % interval and number of cases of each measure of each class; None without scores."""
    statistics = content.statistics or _older_statistics(content)
    keys = {key for measures in statistics.values() for key in measures}
    if not keys:
        return None
    listed = [measure.key for measure in MEASURES if measure.key in keys]
    ordered = [*listed, *sorted(keys - set(listed))]
    columns = tuple(measure_of(key, content.tolerance_mm) for key in ordered)
    rows = tuple(
        (name, tuple(_summary(measures.get(column.key, {}), column) for column in columns))
        for name, measures in statistics.items()
    )
    return SummaryTable(columns, rows)


def _older_statistics(content: Content) -> dict[str, dict[str, dict[str, Any]]]:
    """Statistics of scores of older versions: the mean Dice and the number of cases."""
    counts = content.scores.get("num_cases", {})
    return {
        name: {"dice": {"mean": mean, "num_cases": counts.get(name)}}
        for name, mean in content.scores.get("mean", {}).items()
    }


def _summary(statistics: Mapping[str, Any], measure: Measure) -> Summary:
    low, high = statistics.get("ci95") or (None, None)
    return Summary(
        cell(statistics.get("mean"), measure.digits),
        number(statistics.get("median"), measure.digits),
        f"{number(low, measure.digits)} to {number(high, measure.digits)}",
        number(statistics.get("num_cases"), 0),
    )


def case_table(content: Content) -> CaseTable:
    """Scores, volumes and flags of each case; columns without any value are left out."""
    groups, columns = [], []
    for name in content.classes:
        known = []
        for key in CASE_MEASURES:
            if any(content.value(case, name, key) is not None for case in content.cases):
                measure = measure_of(key)
                known.append((SHORT_TITLES.get(key, measure.title), measure.unit))
                columns.append((name, measure))
        if known:
            groups.append((name, tuple(known)))
    failed = {failure.case for failure in content.failures}
    rows = [
        CaseRow(
            case,
            tuple(
                cell(content.value(case, name, measure.key), measure.digits)
                for name, measure in columns
            ),
            len(content.flags(case)),
            case in failed,
        )
        for case in content.cases
    ]
    return CaseTable(tuple(groups), tuple(rows))


def run_facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts of the run, such as task, device and duration, as terms and texts."""
    facts = [
        ("Task", run.get("task_name")),
        ("Status", _status(run)),
        ("Error", run.get("error")),
        ("Started", run.get("started")),
        ("Duration", duration(run["seconds"]) if "seconds" in run else None),
        ("Device", run.get("device")),
        ("Plan SHA-256", run.get("plan_sha256")),
    ]
    facts += [
        (f"Weights {clean(file.get('file', ''))}".rstrip(), file.get("sha256"))
        for file in run.get("weights") or ()
    ]
    return [(term, clean(text)) for term, text in facts if text not in (None, "")]


def _status(run: Mapping[str, Any]) -> str | None:
    status, code = run.get("status"), run.get("exit_code")
    return f"{status}, exit code {code}" if status and code else status


def settings(values: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Names and values as terms and texts."""
    return [(clean(name), shown_value(value)) for name, value in (values or {}).items()]


def stage_times(run: Mapping[str, Any]) -> list[StageTime]:
    """Times of each stage."""
    stages: dict[str, list[float]] = {}
    for facts in run.get("cases", {}).values():
        for stage, seconds in (facts.get("seconds") or {}).items():
            known = finite(seconds)
            if known is not None:
                stages.setdefault(clean(stage), []).append(known)
    return [
        StageTime(stage, tuple(map(duration, (float(np.median(times)), max(times), sum(times)))))
        for stage, times in stages.items()
    ]


def verdict(content: Content) -> str:
    """Summary of the page in one sentence: mean score, lowest class, failures, flags."""
    parts = [_score_part(content) or _segmented_part(content)]
    if content.failures:
        parts.append(f"{counted(len(content.failures), 'case')} failed")
    if outcome := _outcome(content):
        parts.append(outcome)
    flagged = [case for case in content.cases if content.flags(case)]
    if content.run:
        total = sum(len(content.flags(case)) for case in flagged)
        flags = f"{counted(len(flagged), 'case')} with {counted(total, 'quality flag')}"
        parts.append(flags if flagged else "no quality flag")
    return "; ".join(parts) + "."


def _outcome(content: Content) -> str:
    """Outcome of an unfinished run; empty for a run that failed because of single cases, which are reported already."""
    status = content.run.get("status", "finished")
    if status == "finished" or (status == "failed" and content.failures):
        return ""
    told = {
        "failed": "the run failed",
        "stopped": "the run was stopped before its end",
        "running": "the run has not ended yet",
    }
    return told.get(status, f"status of the run: {clean(status)}")


def _score_part(content: Content) -> str:
    means = {name: finite(content.scores.get("mean", {}).get(name)) for name in content.scored}
    known = {name: mean for name, mean in means.items() if mean is not None}
    overall = finite(content.scores.get("mean_dice"))
    if not known or overall is None:
        return ""
    cases = counted(len(content.scores.get("cases", {})), "case")
    text = f"Mean Dice {overall:.3f} in {cases}"
    if len(known) == 1:
        return f"{text}, {next(iter(known))}"
    worst = min(known, key=lambda name: known[name])
    return f"{text} and {counted(len(known), 'class')}; lowest for {worst}, {known[worst]:.3f}"


def _segmented_part(content: Content) -> str:
    return f"{counted(len(content.cases) - len(content.failures), 'case')} segmented"

"""Tables of a report, scores by class and cases, and its verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynunet_bundle.errors import counted
from dynunet_bundle.inference.flags import UNUSABLE
from dynunet_bundle.report.agreement import agreements, bias_text
from dynunet_bundle.report.content import CASE_GRADES, Content
from dynunet_bundle.report.text import (
    MEASURES,
    Measure,
    clean,
    finite,
    measure_of,
    number,
)

CASE_MEASURES = (
    *("dice", "nsd", "hd95_mm", "hd95_px"),
    *("volume_ml", "reference_volume_ml", "area_px2", "reference_area_px2"),
)
CHART_MEASURES = ("dice", "nsd", "hd95_mm", "hd95_px")
SHORT_TITLES = {"reference_volume_ml": "Reference", "reference_area_px2": "Reference"}

SMALL_NUMBER = 10
"""Number of cases below which the page warns: the 95 % interval then contains the true mean in less than 90 % of
samples (docs/evaluation.md)."""


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
    """One case: its cells in column order, its number of flags, and its grade with its place for sorting."""

    name: str
    cells: tuple[Cell, ...]
    num_flags: int
    grade: str
    grade_key: int


@dataclass(frozen=True)
class CaseTable:
    """Cases as rows, the worst grade first; ``groups`` are the classes with their columns: title and measure."""

    groups: tuple[tuple[str, tuple[tuple[str, Measure], ...]], ...]
    rows: tuple[CaseRow, ...]


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
    columns = tuple(content.measure(key) for key in ordered)
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
                known.append((SHORT_TITLES.get(key, measure.title), measure))
                columns.append((name, measure))
        if known:
            groups.append((name, tuple(known)))
    rows = [
        CaseRow(
            case,
            tuple(
                cell(content.value(case, name, measure.key), measure.digits)
                for name, measure in columns
            ),
            len(content.flags(case)),
            content.grade(case),
            CASE_GRADES.index(content.grade(case)),
        )
        for case in content.by_grade
    ]
    return CaseTable(tuple(groups), tuple(rows))


def meanings(summary: SummaryTable | None) -> list[tuple[str, str]]:
    """Title and meaning of each measure of the summary."""
    return [(measure.title, measure.meaning) for measure in summary.columns] if summary else []


def caution(content: Content) -> str:
    """A warning about cases of the training, and about statistics over few cases; or empty."""
    number_of_cases = len(content.scores.get("cases", {}))
    trained = content.trained
    told = ""
    if trained:
        told = f"{len(trained)} of {counted(len(content.cases), 'case')} were in the training of this model: "
        told += "their masks and scores are better than those of new cases. "
    if not 0 < number_of_cases < SMALL_NUMBER:
        return told.strip()
    return told + (
        f"Caution: {counted(number_of_cases, 'case')} only. Means and limits of agreement of few cases are "
        "unreliable, and their 95 % intervals are too narrow."
    )


def verdict(content: Content) -> str:
    """Summary of the page in one sentence: mean score, lowest class, volume bias, failures, flags."""
    parts = [_score_part(content) or _segmented_part(content)]
    if bias := bias_text(agreements(content)):
        parts.append(bias)
    if content.failures:
        parts.append(f"{counted(len(content.failures), 'case')} failed")
    if outcome := _outcome(content):
        parts.append(outcome)
    flagged = [case for case in content.cases if content.flags(case)]
    if content.run:
        total = sum(len(content.flags(case)) for case in flagged)
        flags = f"{counted(len(flagged), 'case')} with {counted(total, 'quality flag')}"
        unusable = sum(content.flags(case)[0].grade == UNUSABLE for case in flagged)
        flags += f", {unusable} {UNUSABLE}" if unusable else ""
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

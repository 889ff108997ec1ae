"""All measures as text: means with their intervals for a terminal, and a CSV for a spreadsheet."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from dynunet_bundle.drawing.text_table import GAP, text_table
from dynunet_bundle.evaluation.statistics import MEASURES
from dynunet_bundle.report.text import counted

MAX_WIDTH = 100


def format_measures(summary: Mapping[str, Any]) -> str:
    """A row a measure, a column a class: the mean over cases and the 95 % interval of that mean.

    Args:
        summary: what ``summarize_measures`` gave.
    """
    statistics = summary["statistics"]
    columns = [(name, [_cell(rows[key]) for key in MEASURES]) for name, rows in statistics.items()]
    titles = [*MEASURES]
    titles[titles.index("nsd")] = f"nsd at {summary['nsd_tolerance_mm']:g} mm"
    text = [
        "mean over cases [95 % interval]",
        *columns_text(("measure", titles), columns),
        *_notes(statistics),
    ]
    return "\n".join(text)


def columns_text(
    first: tuple[str, Sequence[str]], columns: Sequence[tuple[str, Sequence[str]]]
) -> list[str]:
    """Columns side by side, in blocks below each other where a terminal is too narrow for all.

    Args:
        first: the head and the cells of the column that each block begins with.
        columns: likewise the others.
    """
    blocks: list[list[tuple[str, Sequence[str]]]] = []
    width = MAX_WIDTH
    for column in columns:
        if width + len(GAP) + _width(column) > MAX_WIDTH:
            blocks.append([])
            width = _width(first)
        blocks[-1].append(column)
        width += len(GAP) + _width(column)
    lines = []
    for block in blocks:
        columns_with_heads = [[head, *cells] for head, cells in (first, *block)]
        lines += text_table(list(zip(*columns_with_heads, strict=True)))
    return lines


def measures_csv(summary: Mapping[str, Any]) -> bytes:
    """One row a case and class, one column a measure; empty where it is undefined.

    Args:
        summary: what ``summarize_measures`` gave.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "class", *MEASURES])
    for case, rows in summary["measures"].items():
        for name, row in rows.items():
            # csv writes None as nothing
            writer.writerow([case, name, *(row[measure] for measure in MEASURES)])
    return text.getvalue().encode()


def interval_text(mean: float | None, interval: Sequence[float] | None) -> str:
    """``0.873 [0.850, 0.893]``; without an interval where there is none, a dash where there is no mean."""
    if mean is None:
        return "-"
    if interval is None:
        return f"{mean:.3f}"
    return f"{mean:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _cell(statistics: Mapping[str, Any]) -> str:
    return interval_text(statistics["mean"], statistics["ci95"])


def _notes(statistics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    undefined = {name: rows["hd95_mm"]["num_undefined"] for name, rows in statistics.items()}
    return [
        f"{name}: no distances in {count} of {counted(statistics[name]['dice']['num_cases'], 'case')}, "
        "where only one of the masks has it"
        for name, count in undefined.items()
        if count
    ]


def _width(column: tuple[str, Sequence[str]]) -> int:
    return max(len(cell) for cell in (column[0], *column[1]))

"""All measures as text: means with their intervals for a terminal, and a CSV for a spreadsheet."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from dynunet_bundle.drawing.text_table import GAP, text_table
from dynunet_bundle.errors import counted
from dynunet_bundle.evaluation.statistics import TOLERANCES, measures_of
from dynunet_bundle.terminal import printable

MAX_WIDTH = 100

FORMULA_STARTS = ("=", "+", "-", "@")
"""Characters by which spreadsheets tell a formula from a text."""


def format_measures(summary: Mapping[str, Any]) -> str:
    """One row per measure, one column per class: the mean over cases and its 95 % interval.

    Args:
        summary: result of ``summarize_measures``.
    """
    statistics = summary["statistics"]
    measures = list(next(iter(statistics.values()), {}))
    columns = [(name, [_cell(rows[key]) for key in measures]) for name, rows in statistics.items()]
    tolerances = [f"{summary[key]:g} {unit}" for key, unit in TOLERANCES.items() if key in summary]
    titles = [f"nsd at {tolerances[0]}" if key == "nsd" else key for key in measures]
    text = [
        "mean over cases [95 % interval]",
        *columns_text(("measure", titles), columns),
        *_notes(statistics),
    ]
    return "\n".join(text)


def columns_text(
    first: tuple[str, Sequence[str]], columns: Sequence[tuple[str, Sequence[str]]]
) -> list[str]:
    """Columns side by side, in several blocks if they are too wide for a terminal.

    Args:
        first: head and cells of the column that begins each block.
        columns: head and cells of each other column.
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
    """One row per case and class, one column per measure; undefined values are empty.

    A name that a spreadsheet would take for a formula begins with an apostrophe; control characters are escaped.

    Args:
        summary: result of ``summarize_measures``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = measures_of({case: [*rows.values()] for case, rows in summary["measures"].items()})
    writer.writerow(["case", "class", *measures])
    for case, rows in summary["measures"].items():
        for name, row in rows.items():
            # csv writes None as an empty cell
            writer.writerow(
                [_text_cell(case), _text_cell(name), *(row.get(measure) for measure in measures)]
            )
    return text.getvalue().encode()


def _text_cell(name: str) -> str:
    shown = printable(name)
    return f"'{shown}" if shown.startswith(FORMULA_STARTS) else shown


def interval_text(mean: float | None, interval: Sequence[float] | None) -> str:
    """``0.873 [0.850, 0.893]``; without brackets if there is no interval, a dash if there is no mean."""
    if mean is None:
        return "-"
    if interval is None:
        return f"{mean:.3f}"
    return f"{mean:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _cell(statistics: Mapping[str, Any]) -> str:
    return interval_text(statistics["mean"], statistics["ci95"])


def _notes(statistics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    undefined = {
        name: (rows.get("hd95_mm") or rows["hd95_px"])["num_undefined"]
        for name, rows in statistics.items()
    }
    return [
        f"{printable(name)}: no distances in {count} of {counted(statistics[name]['dice']['num_cases'], 'case')}, "
        "because only one of the masks has it"
        for name, count in undefined.items()
        if count
    ]


def _width(column: tuple[str, Sequence[str]]) -> int:
    return max(len(cell) for cell in (column[0], *column[1]))

"""Box plots of distributions, with one point per case: the values from which a template draws inline SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dynunet_bundle.report.text import Measure

WIDTH = 360
MARGIN = 14
ROW_HEIGHT, ROW_TEXT = 50, 15
AXIS_HEIGHT = 26
JITTER = 8.0
MAX_INTERVALS = 5
"""Largest number of tick intervals in the range of the values; the axis adds at most one at each end."""

MAX_POINTS = 3000
"""Above this many points only those outside the whiskers are drawn: more would enlarge the page, not inform."""

WHISKER_REACH = 1.5
GOLDEN_RATIO = 0.618034
"""Jitter of the points: the fractional parts of its multiples spread evenly over 0 to 1, so few points overlap."""


@dataclass(frozen=True)
class Point:
    """One case: its position in pixels, and its tooltip."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class StripRow:
    """One class; all positions in pixels.

    Attributes:
        name: of the class.
        note: number of cases with a value, and the median.
        y: centre line of the strip.
        box: first quartile, median, third quartile; None without values.
        whiskers: outermost cases within 1.5 box lengths of the box on either side; None without values.
        points: one per drawn case.
    """

    name: str
    note: str
    y: float
    box: tuple[float, float, float] | None
    whiskers: tuple[float, float] | None
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Strip:
    """One measure.

    Attributes:
        title: with its unit.
        height: pixels; all are ``WIDTH`` wide.
        base: y of the axis.
        ticks: x and text of each tick.
        rows: one per class.
    """

    title: str
    height: float
    base: float
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[StripRow, ...]
    width: int = WIDTH


def strip_chart(measure: Measure, values: Mapping[str, Mapping[str, float | None]]) -> Strip | None:
    """Lay out the distribution of one measure.

    Args:
        measure: the measure to show.
        values: by class and case.

    Returns:
        The chart, or None if no case has a value.
    """
    known = [value for cases in values.values() for value in cases.values() if value is not None]
    if not known:
        return None
    ticks, span = ticks_about(_ends(known, measure.best))
    all_points = len(known) <= MAX_POINTS
    rows = tuple(
        _row(name, cases, place, (measure, span, all_points))
        for place, (name, cases) in enumerate(values.items())
    )
    base = len(rows) * ROW_HEIGHT + 4
    unit = f" in {measure.unit}" if measure.unit else ""
    placed = tuple((round(_x(tick, span), 1), f"{tick:g}") for tick in ticks)
    return Strip(f"{measure.title}{unit}", base + AXIS_HEIGHT, base, placed, rows)


def _ends(known: Sequence[float], best: float | None) -> Sequence[float]:
    """Values that the axis must include: the perfect value, too; 0 and 1 if all values are perfect."""
    if best is None:
        return known
    return [*known, best] if any(value != best for value in known) else [0.0, 1.0]


def _row(
    name: str,
    cases: Mapping[str, float | None],
    place: int,
    scale: tuple[Measure, tuple[float, float], bool],
) -> StripRow:
    measure, span, all_points = scale
    top = place * ROW_HEIGHT
    y = top + ROW_TEXT + (ROW_HEIGHT - ROW_TEXT) / 2
    known = {case: value for case, value in cases.items() if value is not None}
    if not known:
        return StripRow(name, "no value", y, None, None, ())
    low, median, high = np.percentile(list(known.values()), (25, 50, 75)).tolist()
    reach = WHISKER_REACH * (high - low)
    inside = [value for value in known.values() if low - reach <= value <= high + reach]
    whiskers = (min([*inside, low]), max([*inside, high]))
    points = tuple(
        Point(
            round(_x(value, span), 1),
            round(y + JITTER * (2 * (number * GOLDEN_RATIO % 1) - 1), 1),
            f"{case}: {value:.{measure.digits}f}",
        )
        for number, (case, value) in enumerate(known.items())
        if all_points or not whiskers[0] <= value <= whiskers[1]
    )
    box = _pixels((low, median, high), span)
    note = f"median {median:.{measure.digits}f}, n = {len(known)}"
    ends = _pixels(whiskers, span)
    return StripRow(name, note, y, (box[0], box[1], box[2]), (ends[0], ends[1]), points)


def _pixels(values: Sequence[float], span: tuple[float, float]) -> list[float]:
    return [round(_x(value, span), 1) for value in values]


def _x(value: float, span: tuple[float, float]) -> float:
    return MARGIN + (value - span[0]) / (span[1] - span[0]) * (WIDTH - 2 * MARGIN)


def ticks_about(values: Sequence[float]) -> tuple[list[float], tuple[float, float]]:
    """Round tick values that enclose all values, and the range from the first to the last."""
    low, high = min(values), max(values)
    if low == high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    least = (high - low) / MAX_INTERVALS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999999)
    first, last = math.floor(low / step), math.ceil(high / step)
    # rounded products of integers, not sums of steps: 0.3, not 0.30000000000000004
    ticks = [float(f"{number * step:.12g}") for number in range(first, last + 1)]
    return ticks, (ticks[0], ticks[-1])

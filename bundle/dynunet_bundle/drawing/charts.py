"""Line charts by matplotlib, an optional dependency: ``pip install "dynunet-bundle[watch]"``."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import atomic_write, ensure_writable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100  # pixels per inch; matplotlib sizes are in inches
INK, GRID, MUTED = "#222222", "#e4e4e4", "#777777"
MARK_COLOUR = "#cc3311"
DOTS_UP_TO = 40
"""Number of points up to which each point gets a dot; a single point would not be visible as a line."""

LEGEND_CHARACTERS = 24  # longer names are cut
UNNAMED = "_nolegend_"
"""Label of a line that is not in the legend."""


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        points: ``(x, y)`` from left to right.
        colour: a colour of matplotlib.
        name: its text in the legend; a line without a name is not in the legend.
        width: line width in points.
        dashed: whether it is dashed, without dots.
    """

    points: Sequence[tuple[float, float]]
    colour: str
    name: str = ""
    width: float = 1.5
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """One chart over epochs.

    Attributes:
        title: the quantity with its unit.
        lines: the lines; later ones are drawn over earlier ones.
        is_log: whether the y axis is logarithmic, and linear between zero and the smallest positive value.
        from_zero: whether the y axis starts at zero.
        mark: a point to circle.
        mark_text: its text in the legend.
    """

    title: str
    lines: Sequence[Line] = field(default_factory=list)
    is_log: bool = False
    from_zero: bool = False
    mark: tuple[float, float] | None = None
    mark_text: str = ""


def draw_charts(
    heading: str, rows: Sequence[Sequence[Chart]], row_heights: Sequence[int], width: int
) -> "Figure":
    """Draw charts in rows under a heading; all have the same range of epochs.

    Args:
        heading: the line at the top.
        rows: charts by row; the charts of a row have equal widths.
        row_heights: height of each row in pixels.
        width: width of the picture in pixels.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    figure = new_figure(heading, width, sum(row_heights))
    bands = figure.subfigures(len(rows), 1, height_ratios=row_heights, squeeze=False)[:, 0]
    xs = [x for row in rows for chart in row for line in chart.lines for x, _ in line.points]
    for band, row in zip(bands, rows, strict=True):
        for axes, chart in zip(band.subplots(1, len(row), squeeze=False)[0], row, strict=True):
            _draw(axes, chart)
            if xs:
                # half an epoch of margin, so that a single point is centred
                axes.set_xlim(min(xs) - 0.5, max(xs) + 0.5)
    return figure


TICK_DIGITS = (1, 2, 5)
"""First digits of the ticks of a logarithmic axis of less than two decades."""

MIN_TICKS = 2
WIDE_RATIO = 100.0
"""Ratio of the largest to the smallest value from which powers of ten give two ticks."""

ROUNDING = 1e-9
"""Relative error of a tick."""


def new_figure(heading: str, width: int, height: int) -> "Figure":
    """An empty figure with a heading, drawn by Agg without a window or pyplot.

    Args:
        heading: the line at the top.
        width: width in pixels.
        height: height in pixels.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            'charts need matplotlib. Run pip install --constraint constraints.txt ".[watch]" in a clone of the '
            "repository, or pip install matplotlib."
        ) from error
    figure = Figure((width / DPI, height / DPI), dpi=DPI, layout="constrained")
    figure.suptitle(heading, x=0.01, ha="left", fontsize=12, color=INK).set_parse_math(False)
    return figure


def style(axes: "Axes", title: str, x_label: str, y_label: str = "") -> None:
    """Set title and axis labels, and a light grid behind the data."""
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.set_xlabel(x_label, fontsize=8, color=MUTED)
    axes.set_ylabel(y_label, fontsize=8, color=MUTED)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, labelcolor=MUTED, color=MUTED)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(MUTED)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a PNG file atomically; create its folder if needed.

    Raises:
        OutputError: if it cannot be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png")
    ensure_writable(path.parent)
    with atomic_write(path) as file:
        file.write(content.getvalue())


def _draw(axes: "Axes", chart: Chart) -> None:
    from matplotlib.ticker import MaxNLocator

    style(axes, chart.title, "epoch")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    points = [_plot(axes, line) for line in chart.lines]
    ys = [y for line in points for _, y in line]
    if not ys:
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", color=MUTED)
        return
    above_zero = [y for y in ys if y > 0]
    if chart.is_log and above_zero:
        _scale_by_log(axes, min(above_zero), max(above_zero), has_zero=min(ys) <= 0)
    if chart.from_zero:
        axes.set_ylim(bottom=0)
    if chart.mark is not None:
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": MARK_COLOUR, "zorder": 3}
        axes.scatter(*chart.mark, s=60, label=chart.mark_text, **ring)
    named = [one for one in (*axes.lines, *axes.collections) if one.get_label() != UNNAMED]
    if named:
        # pass the texts, too, since matplotlib omits names with a leading underscore
        texts = [str(one.get_label()) for one in named]
        for text in axes.legend(named, texts, fontsize=8, frameon=False, loc="best").get_texts():
            text.set_parse_math(False)


def _scale_by_log(axes: "Axes", low: float, high: float, has_zero: bool) -> None:
    """A logarithmic axis with at least two labelled ticks; a linear one if the values are nearly equal."""
    start = math.floor(math.log10(low))
    decades = range(start, math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in decades for digit in TICK_DIGITS]
    ticks = [tick for tick in ticks if low * (1 - ROUNDING) <= tick <= high * (1 + ROUNDING)]
    if len(ticks) < MIN_TICKS:
        axes.ticklabel_format(axis="y", useOffset=False)
        return
    axes.set_yscale("symlog", linthresh=low)
    if high < WIDE_RATIO * low:
        # powers of ten alone may be a single tick
        ticks = [0.0, *ticks] if has_zero else ticks
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def _plot(axes: "Axes", line: Line) -> list[tuple[float, float]]:
    """Draw the finite points of a line, and return them."""
    points = [(x, y) for x, y in line.points if math.isfinite(y)]
    if points:
        axes.plot(
            *zip(*points, strict=True),
            color=line.colour,
            linewidth=line.width,
            label=_shortened(line.name) or UNNAMED,
            linestyle="--" if line.dashed else "-",
            marker="o" if len(points) <= DOTS_UP_TO and not line.dashed else "",
            markersize=line.width + 2,
        )
    return points


def _shortened(name: str) -> str:
    if len(name) <= LEGEND_CHARACTERS:
        return name
    return f"{name[: LEGEND_CHARACTERS - 3]}..."

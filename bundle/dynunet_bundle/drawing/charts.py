"""Line charts with Pillow: axes with round numbers, a legend, a logarithmic axis; matplotlib is no dependency."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from dynunet_bundle.drawing.slices import INK, font
from dynunet_bundle.drawing.ticks import ticks_about, whole_ticks_within

SCALE = 2
"""Charts are drawn so many times larger and reduced at the end: Pillow's lines have no soft edges."""

GRID, MUTED = "#e4e4e4", "#777777"
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 39, 40
"""Pixels around the area of the lines: numbers, nothing, title, numbers and name of the axis."""

TITLE_SIZE, TEXT_SIZE = 16, 13
DOTS_UP_TO = 40
"""Points are marked where there are no more of them; a single one would be no line at all."""

MARK_COLOUR = "#cc3311"
LEGEND_CHARACTERS, LEGEND_ROW = 16, 17

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        points: ``(x, y)`` from left to right.
        colour: as Pillow takes it.
        name: its text in the legend; none where it is empty.
        width: pixels.
    """

    points: Sequence[tuple[float, float]]
    colour: str
    name: str = ""
    width: float = 2


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: what is shown, with its unit.
        lines: later ones over earlier ones.
        is_log: whether the y axis is logarithmic; values that are not above zero are left out.
        from_zero: whether the y axis begins at zero.
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
) -> Image.Image:
    """Draw charts in rows under a heading; those of a row are equally wide, and all share the range of x, epochs.

    Args:
        heading: the line at the top.
        rows: charts by row.
        row_heights: pixels of each row.
        width: pixels of the picture.
    """
    head = 44
    size = (width * SCALE, (head + sum(row_heights)) * SCALE)
    picture = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(picture)
    canvas.text((18 * SCALE, 14 * SCALE), heading, INK, font(18 * SCALE))
    xs = [x for row in rows for chart in row for line in chart.lines for x, _ in line.points]
    span = (min(xs), max(xs)) if xs else (0.0, 1.0)
    top = head
    for row, height in zip(rows, row_heights, strict=True):
        column = width / len(row)
        for place, chart in enumerate(row):
            box = (place * column, top, (place + 1) * column, top + height)
            _Painter(canvas, chart, box, span).draw()
        top += height
    return picture.reduce(SCALE)


class _Painter:
    """Draws one chart into its box, in pixels of the reduced picture."""

    def __init__(
        self, canvas: ImageDraw.ImageDraw, chart: Chart, box: Box, span: tuple[float, float]
    ) -> None:
        self.canvas = canvas
        self.chart = chart
        left, top, right, bottom = box
        self.corner = (left, top)
        self.legend, legend_rows = _place_legend(chart, right - RIGHT - left - LEFT)
        top += TOP + legend_rows * LEGEND_ROW
        self.area = (left + LEFT, top, right - RIGHT, bottom - BOTTOM)
        self.lines = [_usable(line, chart.is_log) for line in chart.lines]
        ys = [y for line in self.lines for _, y in line.points]
        self.is_empty = not ys
        # half an epoch of room, so that a single point lies in the middle
        self.x_range = (span[0] - 0.5, span[1] + 0.5) if span[0] == span[1] else span
        self.y_ticks, self.y_range = ticks_about(ys or [1.0], chart.is_log, chart.from_zero)

    def draw(self) -> None:
        left, top = self.corner
        self._text((left + 18, top + 8), self.chart.title, INK, TITLE_SIZE)
        if self.is_empty:
            middle = ((self.area[0] + self.area[2]) / 2, (self.area[1] + self.area[3]) / 2)
            self._text(middle, "nothing yet", MUTED, TEXT_SIZE, "mm")
            return
        self._axes()
        self._legend()
        for line in self.lines:
            self._line(line)
        if self.chart.mark is not None:
            self._circle(self._at(self.chart.mark), 6, outline=MARK_COLOUR)

    def _axes(self) -> None:
        left, top, right, bottom = self.area
        for value in self.y_ticks:
            y = self._at((self.x_range[0], value))[1]
            self._segments([(left, y), (right, y)], GRID, 1)
            self._text((left - 8, y), f"{value:g}", MUTED, TEXT_SIZE, "rm")
        for value in whole_ticks_within(*self.x_range):
            x = self._at((value, self.y_range[0]))[0]
            self._segments([(x, bottom), (x, bottom + 4)], MUTED, 1)
            self._text((x, bottom + 8), f"{value:.0f}", MUTED, TEXT_SIZE, "ma")
        self._segments([(left, top), (left, bottom), (right, bottom)], MUTED, 1)
        self._text((right, bottom + 23), "epoch", MUTED, TEXT_SIZE, "ra")

    def _legend(self) -> None:
        left, top = self.area[0], self.corner[1] + 40
        for x, row, text, line in self.legend:
            place = (left + x, top + row * LEGEND_ROW)
            if line is None:
                self._circle((place[0] + 8, place[1]), 5, outline=MARK_COLOUR)
            else:
                end = (place[0] + 16, place[1])
                self._segments([place, end], line.colour, max(line.width, 2))
            self._text((place[0] + 22, place[1]), text, INK, TEXT_SIZE, "lm")

    def _line(self, line: Line) -> None:
        points = [self._at(point) for point in line.points]
        if len(points) > 1:
            self._segments(points, line.colour, line.width)
        if len(points) <= DOTS_UP_TO:
            for point in points:
                self._circle(point, line.width + 0.5, fill=line.colour)

    def _at(self, point: tuple[float, float]) -> tuple[float, float]:
        """Pixels of a point."""
        left, top, right, bottom = self.area
        shares = []
        for value, (low, high), is_log in (
            (point[0], self.x_range, False),
            (point[1], self.y_range, self.chart.is_log),
        ):
            a, b, c = (math.log10(v) for v in (value, low, high)) if is_log else (value, low, high)
            shares.append((a - b) / (c - b))
        return left + shares[0] * (right - left), bottom - shares[1] * (bottom - top)

    def _segments(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        pixels = [(x * SCALE, y * SCALE) for x, y in points]
        self.canvas.line(pixels, colour, round(width * SCALE), joint="curve")

    def _circle(
        self,
        centre: tuple[float, float],
        radius: float,
        fill: str | None = None,
        outline: str | None = None,
    ) -> None:
        x, y, reach = centre[0] * SCALE, centre[1] * SCALE, radius * SCALE
        self.canvas.ellipse((x - reach, y - reach, x + reach, y + reach), fill, outline, 2 * SCALE)

    def _text(
        self,
        place: tuple[float, float],
        text: str,
        colour: str,
        size: int,
        anchor: str = "la",
    ) -> None:
        pixels = (place[0] * SCALE, place[1] * SCALE)
        self.canvas.text(pixels, text, colour, font(size * SCALE), anchor=anchor)


def _usable(line: Line, is_log: bool) -> Line:
    """Without what is no number, and without what a logarithmic axis cannot show."""
    points = [(x, y) for x, y in line.points if math.isfinite(y) and (y > 0 or not is_log)]
    return Line(points, line.colour, line.name, line.width)


def _place_legend(
    chart: Chart, width: float
) -> tuple[list[tuple[float, int, str, Line | None]], int]:
    """Offset, row and text of each entry and its line, or None for the mark; and the number of rows, at least one."""
    named: list[tuple[str, Line | None]] = [
        (_shortened(line.name), line) for line in chart.lines if line.name
    ]
    if chart.mark is not None:
        named.append((chart.mark_text, None))
    placed, x, row = [], 0.0, 0
    for text, line in named:
        needed = 22 + font(TEXT_SIZE).getlength(text)
        if x > 0 and x + needed > width:
            x, row = 0.0, row + 1
        placed.append((x, row, text, line))
        x += needed + 16
    return placed, row + 1


def _shortened(name: str) -> str:
    return name if len(name) <= LEGEND_CHARACTERS else f"{name[: LEGEND_CHARACTERS - 3]}..."

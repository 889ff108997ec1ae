"""Charts put points where they belong; what cannot be shown is left out."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from dynunet_bundle.drawing.charts import (
    BOTTOM,
    LEFT,
    LEGEND_ROW,
    MARK_COLOUR,
    RIGHT,
    TOP,
    Chart,
    Line,
    draw_charts,
)

RED = "#ee0000"
SIZE = (600, 400)
HEAD = 44


def draw(*charts: Chart) -> np.ndarray:
    return np.asarray(draw_charts("heading", [charts], [SIZE[1] - HEAD], SIZE[0]))


def where(picture: np.ndarray, colour: str) -> np.ndarray:
    """Rows and columns of the pixels of a colour, ``[n, 2]``."""
    return np.argwhere((picture == ImageColor.getrgb(colour)).all(axis=-1))


def at(x: float, y: float, rows: int = 1) -> tuple[float, float]:
    """Row and column of a point given by its shares of the axes, in a single chart."""
    top = HEAD + TOP + rows * LEGEND_ROW
    bottom, right = SIZE[1] - BOTTOM, SIZE[0] - RIGHT
    return bottom - y * (bottom - top), LEFT + x * (right - LEFT)


@pytest.mark.parametrize(
    ("points", "is_log", "shares"),
    [
        ([(1, 0.0), (5, 1.0)], False, [(0, 0), (1, 1)]),
        ([(1, 1.0), (2, 0.0), (5, 0.5)], False, [(0, 1), (0.25, 0), (1, 0.5)]),
        ([(1, 1.0), (3, 1e-2), (5, 1e-4)], True, [(0, 1), (0.5, 0.5), (1, 0)]),
    ],
)
def test_points_lie_where_the_axes_say(points, is_log, shares):
    picture = draw(Chart("chart", [Line(points, RED, width=6)], is_log=is_log))
    found = where(picture, RED)
    for share in shares:
        distance = np.abs(found - np.array(at(*share))).max(axis=1).min()
        assert distance <= 1, share


def test_values_that_are_no_numbers_break_no_chart():
    points = [(1, 1.0), (2, float("nan")), (3, float("inf")), (4, 0.0), (5, 2.0)]
    plain = draw(Chart("chart", [Line(points, RED)]))
    clean = draw(Chart("chart", [Line([points[0], *points[3:]], RED)]))
    assert np.array_equal(plain, clean)
    logarithmic = draw(Chart("chart", [Line(points, RED)], is_log=True))
    assert np.array_equal(
        logarithmic, draw(Chart("chart", [Line([points[0], points[4]], RED)], is_log=True))
    )


@pytest.mark.parametrize("lines", [[], [Line([], RED)], [Line([(1, float("nan"))], RED)]])
@pytest.mark.parametrize("is_log", [False, True])
def test_a_chart_of_nothing_says_so(lines, is_log):
    picture = draw(Chart("chart", lines, is_log=is_log))
    assert not len(where(picture, RED))
    assert not np.array_equal(picture, np.full_like(picture, 255))


def test_a_single_point_is_a_dot_in_the_middle():
    found = where(draw(Chart("chart", [Line([(7, 3.0)], RED, width=6)])), RED)
    assert np.abs(found.mean(axis=0) - np.array(at(0.5, 0.5))).max() < 1


def test_a_mark_is_circled_and_named_in_the_legend():
    line = Line([(1, 0.0), (3, 1.0), (5, 0.5)], "#000000")
    plain = draw(Chart("chart", [line]))
    marked = draw(Chart("chart", [line], mark=(3, 1.0), mark_text="best 1.0 at 3"))
    assert not len(where(plain, MARK_COLOUR))
    row, column = at(0.5, 1)
    found = where(marked, MARK_COLOUR)
    ring = found[np.hypot(*(found - [row, column]).T) < 10]
    assert len(ring) > 10
    assert len(found) > len(ring)


def test_a_long_legend_takes_more_rows_and_none_is_lost():
    lines = [Line([(1, 0.0), (2, 1.0)], "#000000", f"structure number {n}") for n in range(9)]
    one = draw(Chart("chart", [*lines[:1], Line([(1, 0.0), (2, 1.0)], RED, "last", 6)]))
    many = draw(Chart("chart", [*lines, Line([(1, 0.0), (2, 1.0)], RED, "last", 6)]))

    def highest(picture: np.ndarray) -> int:
        found = where(picture, RED)
        return int(found[found[:, 1] > SIZE[0] - RIGHT - 5][:, 0].min())

    assert (highest(many) - highest(one)) % LEGEND_ROW == 0
    assert highest(many) > highest(one)
    # the swatch of the last
    found = where(many, RED)
    assert (found[:, 0] < highest(many) - 5).any()


def test_charts_of_a_row_share_the_range_of_epochs():
    charts = [Chart("a", [Line([(1, 0.0), (9, 1.0)], RED, width=6)])]
    charts.append(Chart("b", [Line([(5, 0.0), (5, 1.0)], "#0000ee", width=6)]))
    picture = draw(*charts)
    blue = where(picture, "#0000ee")
    left, right = SIZE[0] / 2 + LEFT, SIZE[0] - RIGHT
    assert blue[:, 1].mean() == pytest.approx((left + right) / 2, abs=1)


def test_the_picture_has_the_size_that_was_asked_for():
    picture = draw_charts("heading", [[Chart("a")], [Chart("b"), Chart("c")]], [100, 200], 500)
    assert isinstance(picture, Image.Image) and picture.size == (500, 344)

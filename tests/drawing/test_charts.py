"""Charts show their points; points that cannot be drawn are left out."""

import io
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dynunet_bundle.drawing.charts import MARK_COLOUR, Chart, Line, draw_charts, save_figure
from dynunet_bundle.errors import ConfigError

RED = "#ee0000"


def axes_of(*charts: Chart) -> list[Any]:
    return draw_charts("heading", [charts], [400], 600).get_axes()


def shown(axes: Any, colour: str = RED) -> list[tuple[float, float]]:
    (line,) = (line for line in axes.get_lines() if line.get_color() == colour)
    return [tuple(map(float, point)) for point in line.get_xydata()]


def test_points_and_texts_are_those_of_the_chart() -> None:
    points = [(1.0, 0.5), (2.0, 0.25), (5.0, 1.0)]
    (axes,) = axes_of(Chart("Dice", [Line(points, RED, "Anterior")]))
    assert shown(axes) == points
    assert axes.get_title(loc="left") == "Dice" and axes.get_xlabel() == "epoch"
    assert axes.get_legend_handles_labels()[1] == ["Anterior"]
    assert axes.get_legend() is not None


def test_a_legend_has_every_name_unchanged() -> None:
    names = ["_liver", "$a_1$ and $b", ""]
    (axes,) = axes_of(Chart("chart", [Line([(1, 0.0), (2, 1.0)], RED, name) for name in names]))
    texts = axes.get_legend().get_texts()
    assert [text.get_text() for text in texts] == names[:2]
    assert not any(text.get_parse_math() for text in texts)


@pytest.mark.parametrize("is_log", [False, True])
def test_values_that_are_not_finite_are_left_out(is_log: bool) -> None:
    points = [(1, 1.0), (2, float("nan")), (3, float("inf")), (4, 0.0), (5, 2.0)]
    (axes,) = axes_of(Chart("chart", [Line(points, RED)], is_log=is_log))
    assert shown(axes) == [(1, 1.0), (4, 0.0), (5, 2.0)]


def test_zero_is_visible_on_a_logarithmic_axis() -> None:
    points = [(1, 1e-2), (2, 1e-5), (3, 0.0)]
    (axes,) = axes_of(Chart("learning rate", [Line(points, RED)], is_log=True))
    places = axes.transData.transform(shown(axes))[:, 1]
    assert np.isfinite(places).all() and places[0] > places[1] > places[2]
    # a factor of ten has the same height everywhere on the axis
    tenths = axes.transData.transform([(1, 1e-2), (1, 1e-3), (1, 1e-4)])[:, 1]
    assert tenths[0] - tenths[1] == pytest.approx(tenths[1] - tenths[2], rel=0.01)


@pytest.mark.parametrize(
    "values",
    [
        [0.01, 0.0085, 0.0068, 0.0053, 0.0037, 0.002],
        [0.01, 0.01, 0.01],
        [0.0101, 0.0102],
        [0.003, 0.0004],
        [0.01, 0.00001, 0.0],
        [0.05, 0.03, 0.0],
        [0.01],
        [0.01, 0.001],
    ],
)
def test_a_logarithmic_axis_has_two_readable_ticks(values: list[float]) -> None:
    points = [(float(epoch), value) for epoch, value in enumerate(values)]
    (axes,) = axes_of(Chart("learning rate", [Line(points, RED)], is_log=True))
    axes.figure.canvas.draw()
    low, high = axes.get_ylim()
    shown_ticks = [
        label.get_text()
        for place, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if low <= place <= high and label.get_text()
    ]
    assert len(set(shown_ticks)) >= 2, shown_ticks
    # a label is a whole number, not a difference from an offset
    assert not axes.yaxis.get_offset_text().get_text()


@pytest.mark.parametrize("lines", [[], [Line([], RED)], [Line([(1, float("nan"))], RED)]])
@pytest.mark.parametrize("is_log", [False, True])
def test_a_chart_without_values_says_so(lines: list[Line], is_log: bool) -> None:
    (axes,) = axes_of(Chart("chart", lines, is_log=is_log))
    assert not axes.get_lines()
    assert [text.get_text() for text in axes.texts] == ["nothing yet"]


def test_a_single_point_is_marked_in_the_middle() -> None:
    (axes,) = axes_of(Chart("chart", [Line([(7, 3.0)], RED)]))
    assert axes.get_lines()[0].get_marker() == "o"
    assert np.mean(axes.get_xlim()) == pytest.approx(7)


def test_many_points_have_no_markers() -> None:
    (axes,) = axes_of(Chart("chart", [Line([(x, 1.0) for x in range(100)], RED)]))
    assert axes.get_lines()[0].get_marker() in ("", "None", None)


def test_a_mark_is_circled_and_named_in_the_legend() -> None:
    line = Line([(1, 0.0), (3, 1.0), (5, 0.5)], "#000000")
    (plain,) = axes_of(Chart("chart", [line]))
    (marked,) = axes_of(Chart("chart", [line], mark=(3, 1.0), mark_text="best 1.0 at 3"))
    assert not plain.collections and plain.get_legend() is None
    (ring,) = marked.collections
    assert ring.get_offsets().tolist() == [[3, 1.0]]
    from matplotlib.colors import to_hex

    assert to_hex(ring.get_edgecolor()[0]) == MARK_COLOUR
    assert marked.get_legend_handles_labels()[1] == ["best 1.0 at 3"]


def test_long_names_are_shortened_and_none_is_lost() -> None:
    lines = [Line([(1, 0.0)], "#000000", f"{n} {'structure' * 9}") for n in range(9)]
    (axes,) = axes_of(Chart("chart", lines))
    labels = axes.get_legend_handles_labels()[1]
    assert len(labels) == 9 and all(len(label) == 24 for label in labels)


def test_charts_share_the_range_of_epochs() -> None:
    first, second = axes_of(
        Chart("a", [Line([(1, 0.0), (9, 1.0)], RED)]), Chart("b", [Line([(5, 0.0)], RED)])
    )
    assert first.get_xlim() == second.get_xlim() == (0.5, 9.5)


def test_an_axis_from_zero_begins_there() -> None:
    line = Line([(1, 5.0), (2, 6.0)], RED)
    (axes,) = axes_of(Chart("time", [line], from_zero=True))
    assert axes.get_ylim()[0] == 0
    (axes,) = axes_of(Chart("time", [line]))
    assert axes.get_ylim()[0] > 4


def test_the_picture_has_the_size_that_was_asked_for(tmp_path: Any) -> None:
    figure = draw_charts("heading", [[Chart("a")], [Chart("b"), Chart("c")]], [100, 200], 500)
    save_figure(figure, tmp_path / "new" / "chart.png")
    picture = Image.open(io.BytesIO((tmp_path / "new" / "chart.png").read_bytes()))
    assert picture.format == "PNG" and picture.size == (500, 300)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["chart.png"]


def test_without_matplotlib_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install --constraint constraints.txt"):
        draw_charts("heading", [[Chart("a")]], [100], 100)

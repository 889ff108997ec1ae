"""Numbers and texts: rounding, dashes, no folders; box plots with numpy's quartiles."""

import numpy as np
import pytest

from dynunet_bundle.errors import counted
from dynunet_bundle.report.charts import MARGIN, MAX_POINTS, WIDTH, strip_chart
from dynunet_bundle.report.text import (
    DASH,
    clean,
    duration,
    measure_of,
    number,
    shown_value,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot read /data/Jane Doe/x y.nii (OSError)", "cannot read x y.nii (OSError)"),
        ("/a/b.nii", "b.nii"),
        ("~/scans/b.nii", "b.nii"),
        (r"C:\Users\Jane\b.nii: bad", "b.nii: bad"),
        (r"\\server\share\b.nii", "b.nii"),
        ("'/a/b c/d.nii' and '/e/f.nii'", "'f.nii'"),
        ("3 ml / 5 ml, mm/voxel, 1/2", "3 ml / 5 ml, mm/voxel, 1/2"),
        ("/a/b\nplain", "b\nplain"),
        ("a\x00\x1b\ud800b\u202e\r", r"a\x00\x1b\ud800b\u202e\r"),
        ("", ""),
    ],
)
def test_folders_and_control_characters_are_not_shown(text: str, expected: str):
    assert clean(text) == expected


def test_settings_are_json_and_cut_where_they_are_long():
    assert shown_value("gaussian") == "gaussian"
    assert shown_value([1, None, {"/a/b": "/c/d e/f.pt"}]) == '[1, null, {"b": "f.pt"}]'
    assert shown_value(list(range(999))).endswith("...")


def test_numbers_have_their_decimals_and_a_dash_where_there_are_none():
    assert number(0.12349, 3) == "0.123" and number(7, 0) == "7"
    assert [number(value) for value in (None, float("nan"), float("inf"), "x", True)] == [DASH] * 5


def test_durations_and_counts():
    cases = {0.4567: "0.46 s", 12.34: "12.3 s", 205: "3 min 25 s", 7500: "2 h 05 min", None: DASH}
    assert {value: duration(value) for value in cases} == cases
    assert [counted(1, "class"), counted(2, "class"), counted(0, "case")] == [
        "1 class",
        "2 classes",
        "0 cases",
    ]


def test_unknown_measures_go_by_their_key():
    assert measure_of("boundary_iou").title == "boundary iou"
    assert measure_of("nsd", 1.5).title == "NSD at 1.5 mm"


def test_boxes_and_whiskers_are_those_of_tukey():
    values = [*np.random.default_rng(0).normal(5, 1, 40).tolist(), 30.0]
    cases = {f"c{place}": value for place, value in enumerate(values)}
    chart = strip_chart(measure_of("hd95_mm"), {"head": cases, "tail": {"c0": None}})
    assert chart is not None
    (zero_x, zero), (last_x, last) = chart.ticks[0], chart.ticks[-1]
    assert zero == "0" and (zero_x, last_x) == (MARGIN, WIDTH - MARGIN)
    head, tail = chart.rows
    assert head.box and head.whiskers and tail.box is None and tail.note == "no value"
    scale = (last_x - zero_x) / float(last)
    quartiles = np.percentile(values, (25, 50, 75))
    assert [(x - zero_x) / scale for x in head.box] == pytest.approx(quartiles.tolist(), abs=0.01)
    high = max(v for v in values if v <= quartiles[2] + 1.5 * (quartiles[2] - quartiles[0]))
    assert (head.whiskers[1] - zero_x) / scale == pytest.approx(high, abs=0.01)
    places = {point.text.split(":")[0]: (point.x - zero_x) / scale for point in head.points}
    assert places == pytest.approx(cases, abs=0.01)


def test_axes_of_scores_end_at_the_perfect_value():
    for values in ([0.91, 0.95], [1.0, 1.0], [0.2]):
        cases = {str(place): value for place, value in enumerate(values)}
        chart = strip_chart(measure_of("dice"), {"head": cases})
        assert chart is not None and chart.ticks[-1] == (WIDTH - MARGIN, "1")
    assert strip_chart(measure_of("dice"), {"head": {"a": None}}) is None


def test_of_very_many_cases_only_outliers_are_dots():
    values = np.append(np.random.default_rng(0).normal(0.9, 0.01, MAX_POINTS), 0.1)
    cases = {str(place): float(value) for place, value in enumerate(values)}
    chart = strip_chart(measure_of("dice"), {"head": cases})
    assert chart is not None
    texts = {point.text for point in chart.rows[0].points}
    assert f"{MAX_POINTS}: 0.100" in texts and len(texts) < MAX_POINTS / 20

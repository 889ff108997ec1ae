"""Statistics over all cases, means, intervals and counts, and their tables."""

import csv
import io

import numpy as np
import pytest

from dynunet_bundle.evaluation.scores import summarize_measures
from dynunet_bundle.evaluation.statistics import MEASURES, bootstrap_interval, measure_statistics
from dynunet_bundle.evaluation.text_tables import columns_text, format_measures, measures_csv


def row(**values):
    return {**dict.fromkeys(MEASURES), "volume_ml": 0.0, **values}


BOTH = {"dice": 0.5, "hd95_mm": 4.0, "sensitivity": 0.4, "volume_ml": 2.0}
CASES = {
    "a": [row(**BOTH), row()],
    "b": [row(**BOTH | {"dice": 0.9, "hd95_mm": 1.0}), row(dice=0.0, nsd=0.0, precision=0.0)],
    "c": [row(dice=0.0, nsd=0.0, sensitivity=0.0), row()],
}
NAMES = ["liver", "tumour"]


# --- statistics


def test_means_and_medians_are_of_the_cases_that_have_a_value():
    liver = measure_statistics(CASES, NAMES)["liver"]
    assert liver["dice"]["mean"] == pytest.approx(1.4 / 3)
    assert (liver["dice"]["median"], liver["dice"]["num_cases"]) == (0.5, 3)
    assert (liver["hd95_mm"]["mean"], liver["hd95_mm"]["num_cases"]) == (2.5, 2)
    assert liver["volume_ml"]["mean"] == pytest.approx(4 / 3)


def test_what_is_undefined_is_counted_where_the_class_is_somewhere():
    statistics = measure_statistics(CASES, NAMES)
    assert statistics["liver"]["hd95_mm"]["num_undefined"] == 1
    assert statistics["liver"]["dice"]["num_undefined"] == 0
    # two of three cases do not have it; in the third, only the prediction has it
    tumour = statistics["tumour"]
    assert (tumour["dice"]["num_cases"], tumour["dice"]["num_undefined"]) == (1, 0)
    assert (tumour["sensitivity"]["num_cases"], tumour["sensitivity"]["num_undefined"]) == (0, 1)
    assert tumour["sensitivity"]["mean"] is tumour["sensitivity"]["median"] is None
    assert tumour["dice"]["ci95"] is tumour["sensitivity"]["ci95"] is None
    assert tumour["volume_ml"]["num_cases"] == 3


def test_the_interval_of_a_few_values_is_known():
    # of two values the means of resamples are 0, 1/2 or 1, the ends in a quarter of them each
    assert bootstrap_interval([0.0, 1.0]) == [0, 1]
    assert bootstrap_interval([0.7] * 5) == pytest.approx([0.7, 0.7])
    assert bootstrap_interval([3.0]) is bootstrap_interval([]) is None


def test_the_interval_of_many_values_is_that_of_the_mean():
    values = np.random.default_rng(1).gamma(2, 3, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.12 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.12 * half)


def test_the_same_values_give_the_same_interval():
    values = np.random.default_rng(2).random(20)
    np.random.default_rng(3).random()
    assert bootstrap_interval(values) == bootstrap_interval(values.tolist())
    assert bootstrap_interval(values + 1) == pytest.approx(np.add(bootstrap_interval(values), 1))


# --- scores.json


def test_the_summary_keeps_what_it_had():
    summary = summarize_measures(CASES, ["background", *NAMES], 2.0)
    assert summary["cases"]["b"] == {"liver": 0.9, "tumour": 0.0}
    assert summary["num_cases"] == {"liver": 3, "tumour": 1}
    assert summary["mean"] == {"liver": pytest.approx(1.4 / 3), "tumour": 0}
    assert summary["metric"] == "Dice"
    assert summary["nsd_tolerance_mm"] == 2
    assert summary["measures"]["a"]["liver"] == CASES["a"][0]
    assert summary["statistics"]["liver"]["dice"]["mean"] == summary["mean"]["liver"]
    assert set(summary["statistics"]["tumour"]) == set(MEASURES)


# --- text


def test_the_table_shows_means_and_intervals():
    lines = format_measures(summarize_measures(CASES, ["background", *NAMES], 0.5)).splitlines()
    cells = {line.split("  ")[0].strip(): line for line in lines}
    assert lines[1].split() == ["measure", "liver", "tumour"]
    assert "0.467 [0.000, 0.900]" in cells["dice"] and cells["dice"].endswith("  0.000")
    assert "2.500 [1.000, 4.000]" in cells["hd95_mm"] and cells["hd95_mm"].endswith("  -")
    assert "nsd at 0.5 mm" in cells
    assert lines[-2:] == [
        "liver: no distances in 1 of 3 cases, because only one of the masks has it",
        "tumour: no distances in 1 of 1 case, because only one of the masks has it",
    ]


def test_many_classes_are_shown_below_each_other():
    names = [f"class {number}" for number in range(30)]
    summary = summarize_measures({"a": [row(**BOTH)] * 30}, ["background", *names], 1.0)
    lines = format_measures(summary).splitlines()
    assert max(map(len, lines)) <= 100
    assert all(
        sum(name in line.split("  ") or f" {name}" in line for line in lines) for name in names
    )
    assert sum(line.startswith("dice") for line in lines) == lines.count(lines[0]) * 4


def test_a_column_that_is_too_wide_stands_alone():
    wide = [("x" * 120, ["1"]), ("y", ["2"])]
    assert columns_text(("m", ["dice"]), wide) == [
        f"m     {'x' * 120}",
        f"dice  {'1'.rjust(120)}",
        "m     y",
        "dice  2",
    ]


def test_the_csv_has_a_row_a_case_and_class():
    names = ["background", 'liver, "all"', "tumour"]
    content = measures_csv(summarize_measures(CASES, names, 1.0)).decode()
    rows = list(csv.DictReader(io.StringIO(content)))
    assert list(rows[0]) == ["case", "class", *MEASURES]
    assert [(line["case"], line["class"]) for line in rows] == [
        (case, name) for case in "abc" for name in names[1:]
    ]
    assert (rows[2]["dice"], rows[2]["hd95_mm"]) == ("0.9", "1.0")
    # a dash or "None" would make a spreadsheet's column text
    assert rows[4]["hd95_mm"] == rows[1]["dice"] == ""
    assert content.endswith("\n") and "\r" not in content

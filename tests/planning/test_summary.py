"""The plan in words names what was found, what was decided, and by which rule."""

from dataclasses import replace

import numpy as np
import pytest

from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.planning.fingerprint import Fingerprint
from dynunet_bundle.planning.planner import make_plan, planned_configurations, seed_plan
from dynunet_bundle.planning.summary import (
    MAX_VALUE_WIDTH,
    PlanRow,
    decided_rows,
    format_rows,
    found_rows,
    preset_rows,
    spacing_rule,
)

CELLS = DatasetDescription(
    "Cells", ("CT", "PET"), LabelScheme(("background", "body", "nucleus"), (0, 128, 255)), (), ()
)
STATISTICS = {
    "mean": 99.29,
    "std": 39.47,
    "min": -1024.0,
    "max": 3000.0,
    "percentile_00_5": -41.0,
    "median": 101.0,
    "percentile_99_5": 176.5,
}


def fingerprint(**changes: object) -> Fingerprint:
    found = Fingerprint(
        "SAR",
        np.array([[3.0, 0.8, 0.8], [2.5, 0.8, 0.8], [5.0, 0.8, 0.8]]),
        np.array([[100, 300, 280], [120, 310, 280], [90, 305, 270]]),
        0.6,
        [STATISTICS, {**STATISTICS, "mean": 5.0}],
        {0: 900, 128: 75, 255: 25},
    )
    return replace(found, **changes)


def decided(planner: str, configuration: str = "3d_fullres", **changes: object) -> list[PlanRow]:
    found = fingerprint(**changes)
    configurations = planned_configurations(found, 3, planner=planner)
    plan = make_plan(CELLS, found, configuration, planner=planner)
    return decided_rows(plan, configurations[configuration], configurations, planner)


def value_of(rows: list[PlanRow], subject: str) -> str:
    (row,) = (row for row in rows if row[0] == subject)
    return row[1]


def rule_of(rows: list[PlanRow], subject: str) -> str:
    (row,) = (row for row in rows if row[0] == subject)
    return row[2]


def test_what_was_found():
    rows = found_rows(CELLS, fingerprint())
    assert value_of(rows, "cases") == "3"
    assert value_of(rows, "shape") == "100x305x280 voxels (90x300x270 to 120x310x280)"
    assert "keeps 60%" in rule_of(rows, "shape")
    assert value_of(rows, "spacing") == "3x0.8x0.8 mm (2.5x0.8x0.8 to 5x0.8x0.8)"
    assert value_of(rows, "channel CT") == "-41 to 176.5, mean 99.29, std 39.47"
    assert value_of(rows, "channel PET") == "-41 to 176.5, mean 5, std 39.47"
    # by the values of the files
    labels = [row for row in rows if row[0].startswith("label")]
    assert labels == [
        ("label 0", "background", "900 voxels, 90.00%"),
        ("label 128", "body", "75 voxels, 7.50%"),
        ("label 255", "nucleus", "25 voxels, 2.50%"),
    ]


def test_a_label_that_never_occurs_shows():
    rows = found_rows(CELLS, fingerprint(label_voxels={0: 900, 128: 100}))
    assert rule_of(rows, "label 255") == "0 voxels, 0.00%"


def test_facts_without_intensities_and_labels():
    rows = found_rows(CELLS, fingerprint(intensities=[], label_voxels={}))
    assert [subject for subject, _, _ in rows] == ["cases", "shape", "spacing"]


def test_equal_cases_have_no_range():
    same = fingerprint(spacings_mm=np.ones((3, 3)))
    assert value_of(found_rows(CELLS, same), "spacing") == "1x1x1 mm (all)"


def test_what_was_decided():
    rows = decided("plain")
    assert value_of(rows, "array axes") == "SAR"
    assert value_of(rows, "normalization") == "CT ct, PET zscore_nonzero"
    assert "keeps less than 75%" in rule_of(rows, "normalization")
    plan = make_plan(CELLS, fingerprint())
    assert value_of(rows, "patch") == "{}x{}x{} voxels".format(*plan.patch_size)
    assert value_of(rows, "batch") == str(plan.batch_size)
    levels = f"{len(plan.strides)} levels 32-64-128-256-320"
    assert value_of(rows, "network").startswith(f"plain, {levels}")
    assert value_of(rows, "strides").split()[:2] == ["1x1x1", "1x2x2"]
    assert value_of(rows, "kernels").split()[0] == "1x3x3"
    assert value_of(rows, "Dice") == "over each patch"


def test_a_residual_network_is_named():
    assert value_of(decided("resenc_m"), "network").startswith("residual encoder, ")


def test_the_rule_of_an_unmasked_normalisation_is_shorter():
    assert rule_of(decided("plain", median_relative_size=0.9), "normalization") == (
        "by the channel's name"
    )


def test_a_large_set_has_a_cascade():
    large = {"shapes_after_crop": np.array([[400, 512, 512]] * 3)}
    rows = decided("plain", "3d_lowres", **large)
    names, cascade = value_of(rows, "configurations").split(", and ")
    assert names == "2d, 3d_fullres, 3d_lowres"
    assert cascade == "3d_cascade_fullres after 3d_lowres"
    assert value_of(decided("plain", **large), "Dice") == "over the batch"
    small = {"shapes_after_crop": np.array([[40, 50, 60]] * 3)}
    assert value_of(decided("plain", **small), "configurations") == "2d, 3d_fullres"


@pytest.mark.parametrize(
    ("planner", "shape", "rule"),
    [
        ("plain", [100, 300, 280], "at least two"),
        ("plain", [400, 512, 512], "as many as fit into memory"),
        ("plain", [40, 56, 40], "at least two"),
        ("resenc_m", [40, 56, 40], "at most 100% of all voxels per batch"),
    ],
)
def test_which_rule_limits_the_batch(planner: str, shape: list[int], rule: str):
    rows = decided(planner, shapes_after_crop=np.array([shape] * 3))
    assert rule_of(rows, "batch") == rule


@pytest.mark.parametrize(
    ("spacing", "configuration", "rule"),
    [
        ([3.0, 0.8, 0.8], "3d_fullres", "median of the cases"),
        ([0.8, 0.8], "2d", "median of the cases"),
        ([2.6, 0.8, 0.8], "3d_fullres", "10th percentile"),
        ([4.0, 1.6, 1.6], "3d_lowres", "coarsened until"),
    ],
)
def test_which_rule_gave_the_spacing(spacing: list[float], configuration: str, rule: str):
    assert rule in spacing_rule(fingerprint(), spacing, configuration)


def test_a_preset_names_its_tables():
    spleen = DatasetDescription(
        "Task09_Spleen", ("CT",), LabelScheme(("background", "spleen")), (), ()
    )
    rows = preset_rows(seed_plan(spleen))
    assert value_of(rows, "patch") == "64x192x160 voxels"
    assert rule_of(rows, "patch") == "the seed's table"
    assert value_of(rows, "batch") == "2"
    assert value_of(rows, "normalization") == "CT ct"
    assert value_of(rows, "network") == "plain, 6 levels 32-64-128-256-320-320"
    assert value_of(rows, "kernels").startswith("1x3x3 3x3x3")


# --- the table


def test_rows_line_up():
    text = format_rows("heading", [("a", "1", "rule"), ("longer", "22", ""), ("c", "", "other")])
    assert text.splitlines() == [
        "heading",
        "  a       1   rule",
        "  longer  22",
        "  c           other",
    ]


def test_a_rule_beside_a_long_value_goes_to_the_next_line():
    long = "x" * (MAX_VALUE_WIDTH + 1)
    lines = format_rows("heading", [("a", long, "rule"), ("b", "1", "other")]).splitlines()
    assert lines[1] == f"  a  {long}"
    assert lines[2].strip() == "rule"
    assert lines[2].index("rule") == lines[3].index("other") == 5 + MAX_VALUE_WIDTH + 2
    # without a rule there is no next line
    assert format_rows("heading", [("a", long, "")]).splitlines() == ["heading", f"  a  {long}"]

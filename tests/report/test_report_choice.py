"""The cases that a page shows, the names and colours of its classes, and the outcome of the run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_picture
from report_data import made_run, parsed, save_cases, text_of

from dynunet_bundle.drawing.colours import COLOURS
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.report.choice import chosen_cases, ranks_of
from dynunet_bundle.report.content import Content
from dynunet_bundle.report.page import write_report

CASES = [f"case_{number}" for number in range(9)]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return save_cases(tmp_path, CASES)


def test_no_message_is_told_twice(tmp_path: Path, folders: dict[str, Path]):
    page = write_report(tmp_path / "r.html", **folders, run=made_run(CASES))
    content = page.read_text(encoding="utf-8")
    for message in ("3 parts, not 1", "darker than the training", "cannot read"):
        assert content.count(message) == 1
    # the flags of a case stand in its card; those of a case without pictures in a table
    (card,) = (card for card in parsed(page).findall(".//article") if card.find("ul") is not None)
    assert text_of(card[0]) == "case_1 look"
    told = [text_of(item) for item in card.iter("li")]
    assert told == ["look 3 parts, not 1", "look darker than the training"]
    assert parsed(page).find(".//section[@id='flags']") is None
    del folders["images"]
    page = write_report(tmp_path / "r.html", **folders, run=made_run(CASES))
    assert len(parsed(page).findall(".//section[@id='flags']//tbody/tr")) == 2
    assert page.read_text(encoding="utf-8").count("3 parts, not 1") == 1


@pytest.mark.parametrize(
    ("count", "ranks"),
    [
        (1, [""]),
        (2, ["", ""]),
        (3, ["worst", "", "best"]),
        (5, ["worst", "", "", "", "best"]),
        (6, ["worst", "worst", "", "", "best", "best"]),
        (12, ["worst"] * 4 + ["best"] * 2),
    ],
)
def test_at_most_a_third_is_called_worst_and_a_third_best(count: int, ranks: list[str]):
    dice = {f"case_{number:02d}": {"a": number / count} for number in range(count)}
    masks = {case: Path(case) for case in dice}
    found = chosen_cases(Content({"cases": dice, "mean": {"a": 0.5}}, {}, masks))
    assert list(found.values()) == ranks
    assert list(found)[0] == "case_00" and list(found)[-1] == f"case_{count - 1:02d}"


def test_of_equal_cases_none_is_the_worst():
    assert set(ranks_of(dict.fromkeys(CASES, 1.0)).values()) == {""}


GRADED = {
    "case_2": {"kind": "volume", "value": 3.5, "range": [1.0, 3.0]},
    "case_5": {"kind": "volume", "value": 9.5, "range": [1.0, 3.0]},
    "case_7": {"kind": "empty"},
}
"""Flags of an older version, without a grade."""


def graded_content() -> Content:
    """Nine cases whose Dice falls with their number, three of them flagged, one failed."""
    run = made_run(CASES)
    run["cases"]["case_1"]["flags"] = []
    for case, flag in GRADED.items():
        run["cases"][case]["flags"] = [{"label": "head", "message": case, **flag}]
    dice = {case: {"head": 1 - number / 10} for number, case in enumerate(CASES)}
    return Content(
        {"cases": dice, "mean": {"head": 0.5}}, run, {case: Path(case) for case in CASES[:8]}
    )


def test_cases_are_sorted_by_grade_then_by_dice():
    content = graded_content()
    found = list(chosen_cases(content))
    assert found == ["case_7", "case_5", "case_2", "case_6", "case_4", "case_0"]
    assert content.by_grade[:4] == ["case_8", "case_5", "case_7", "case_2"]
    assert [content.grade(case) for case in content.by_grade[:5]] == [
        "failed",
        "probably unusable",
        "probably unusable",
        "look",
        "",
    ]


def test_the_number_and_the_names_of_the_cases_can_be_chosen():
    content = graded_content()
    assert list(chosen_cases(content, ["2"])) == ["case_7", "case_5"]
    assert len(chosen_cases(content, ["all"])) == len(chosen_cases(content, ["99"])) == 8
    assert list(chosen_cases(content, ["case_3", "case_5"])) == ["case_5", "case_3"]
    assert not chosen_cases(content, ["0"])
    for wanted in (["case_9"], ["case_1", "2"], ["-1"], ["1.5"], ["case_8"]):
        with pytest.raises(ConfigError, match="Pass names of cases, a number, or all"):
            chosen_cases(content, wanted)


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("finished", "8 cases segmented; no quality flag."),
        ("failed", "8 cases segmented; the run failed; no quality flag."),
        ("stopped", "8 cases segmented; the run was stopped before its end; no quality flag."),
        ("running", "8 cases segmented; the run has not ended yet; no quality flag."),
    ],
)
def test_how_a_run_ended_is_told_in_plain_words(
    tmp_path: Path, folders: dict[str, Path], status: str, told: str
):
    run = made_run(CASES)
    run["cases"] = {case: {"status": "done"} for case in CASES[:8]}
    run |= {"status": status, "error": "the disk is full"}
    page = write_report(tmp_path / "r.html", folders["predictions"], run=run)
    assert parsed(page).findtext(".//p[@class='verdict']") == told
    assert "<dd>the disk is full</dd>" in page.read_text(encoding="utf-8")
    assert 'id="failures"' not in page.read_text(encoding="utf-8")


def test_the_legend_names_the_classes_that_are_drawn(tmp_path: Path, folders: dict[str, Path]):
    run = made_run(CASES)
    run |= {"label_names": ["background", "tail", "arm", "head"], "label_values": [0, 2, 3, 1]}

    def legend(**given: Any) -> dict[str, str]:
        page = write_report(tmp_path / "r.html", **folders, **given)
        entries = parsed(page).findall(".//p[@class='legend']/span[@class='class']")
        return {text_of(span): span[0].attrib["style"].split()[-1] for span in entries}

    assert legend(run=run) == {"tail": COLOURS[0], "head": COLOURS[2]}
    names = {0: "background", 1: "Kopf", 2: "Schwanz"}
    assert legend(class_names=names) == {"Kopf": COLOURS[0], "Schwanz": COLOURS[1]}
    assert legend() == {"1": COLOURS[0], "2": COLOURS[1]}


def test_the_page_of_pictures_has_no_terms_of_scanners_and_no_heading_twice(tmp_path: Path):
    colours = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    mask = np.zeros((24, 20), np.uint8)
    mask[4:12, 5:15] = 1
    folders = {name: tmp_path / name for name in ("predictions", "images", "labels")}
    cells = ["cell_1", "cell_2", "cell_3"]
    for folder in folders.values():
        for cell in cells:
            save_picture(folder / f"{cell}.png", colours if folder.name == "images" else mask)
    run = made_run(cells)
    for cell, facts in run["cases"].items():
        areas = {"areas_px2": {"organ": 80}, "volumes_ml": None}
        facts |= {**areas, "status": "done", "error": None, "mask": f"{cell}.png", "flags": []}
    run["plan"] = {"spatial_dims": 2, "axcodes": "SAR", "patch_size": [16, 16], "spacing": [1, 1]}
    page = write_report(tmp_path / "r.html", **folders, run=run)
    content = page.read_text(encoding="utf-8")
    assert "(black)" not in content and "axes SAR" not in content
    headings = [text_of(heading) for heading in parsed(page).iter("h2")]
    assert len(headings) == len(set(headings)) and "Cases" in headings
    assert any(heading.startswith("Pictures") for heading in headings)
    assert not any("Quality flags" in heading for heading in headings)
    assert parsed(page).find(".//article//img") is not None

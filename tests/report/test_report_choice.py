"""The cases that a page shows, the names and colours of its classes, and the outcome of the run."""

from pathlib import Path
from typing import Any

import pytest
from report_data import made_run, parsed, save_cases, text_of

from dynunet_bundle.drawing.colours import COLOURS
from dynunet_bundle.report.page import _ranked, write_report

CASES = [f"case_{number}" for number in range(9)]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return save_cases(tmp_path, CASES)


def test_no_message_is_told_twice(tmp_path: Path, folders: dict[str, Path]):
    page = write_report(tmp_path / "r.html", **folders, run=made_run(CASES))
    content = page.read_text(encoding="utf-8")
    for message in ("3 parts, not 1", "darker than the training", "cannot read"):
        assert content.count(message) == 1
    links = {link.attrib["href"] for link in parsed(page).findall(".//article/h3/a")}
    assert links == {"#flags"}


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
    found = _ranked({f"case_{number}": number / count for number in range(count)})
    assert list(found.values()) == ranks
    assert list(found)[0] == "case_0" and list(found)[-1] == f"case_{count - 1}"


def test_of_equal_cases_none_is_the_worst():
    assert set(_ranked(dict.fromkeys(CASES, 1.0)).values()) == {""}


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

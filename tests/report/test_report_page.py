"""The page as a file: well-formed, self-contained, escaped, and with the numbers of scores.json and run.json."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BUNDLE, save_nifti
from report_data import (
    NAMES,
    body,
    data_pictures,
    made_run,
    made_scores,
    parsed,
    save_cases,
    table_rows,
    text_of,
)

from dynunet_bundle.errors import OutputError
from dynunet_bundle.report.page import write_report
from dynunet_bundle.report.text import MEASURES

CASES = [f"case_{number}" for number in range(9)]
EVIL = """<img src=x onerror="alert('1')">&amp;<\x1b{{ 7 * 7 }}"""


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return save_cases(tmp_path, CASES)


def test_the_page_stands_alone(tmp_path: Path, folders: dict[str, Path]):
    page = tmp_path / "report.html"
    assert write_report(page, **folders, scores=made_scores(CASES), run=made_run(CASES)) == page
    parsed(page)
    content = re.sub(r"base64,[^\"']*", "", page.read_text(encoding="utf-8"))
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<link [^>]*stylesheet", content)
    assert all(
        value.startswith(("data:", "#"))
        for value in re.findall(r'\b(?:src|href)="([^"]*)', content)
    )
    assert len(data_pictures(page)) == (4 + 2) * 3 * 3
    assert content.count("Research software. Not a medical device.") == 2
    (script,) = re.findall(r"<script>(.*?)</script>", content, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in content


def test_the_summary_holds_the_statistics(tmp_path: Path, folders: dict[str, Path]):
    scores = made_scores(CASES)
    page = write_report(tmp_path / "report.html", folders["predictions"], scores=scores)
    keys = [measure.key for measure in MEASURES if measure.key in scores["statistics"]["head"]]
    headings = parsed(page).findall(".//section[@id='scores']//thead//th")
    assert [text_of(heading) for heading in headings[1:4]] == ["Dice", "NSD at 2 mm", "HD95 mm"]
    rows = table_rows(page, "scores")
    assert [text_of(row[0]) for row in rows] == list(NAMES)
    digits = {measure.key: measure.digits for measure in MEASURES}
    for name, row in zip(NAMES, rows, strict=True):
        for key, cell in zip(keys, row[1:], strict=True):
            expected = scores["statistics"][name][key]
            assert float(cell.attrib["data-key"]) == expected["mean"]
            shown = {part.attrib["class"]: text_of(part) for part in cell}
            low, high = (f"{value:.{digits[key]}f}" for value in expected["ci95"])
            assert shown == {
                "mean": f"{expected['mean']:.{digits[key]}f}",
                "median": f"{expected['median']:.{digits[key]}f}",
                "interval": f"{low} to {high}",
                "count": f"n = {expected['num_cases']}",
            }


def test_the_case_table_holds_scores_volumes_and_flags(tmp_path: Path, folders: dict[str, Path]):
    scores, run = made_scores(CASES), made_run(CASES)
    scores["measures"]["case_4"]["head"]["nsd"] = None
    page = write_report(tmp_path / "r.html", folders["predictions"], scores=scores, run=run)
    rows = table_rows(page, "cases")
    # by grade: failed, flagged, others
    order = [CASES[-1], CASES[1], CASES[0], *CASES[2:-1]]
    assert [text_of(row[0]) for row in rows] == order
    keys = ("dice", "nsd", "hd95_mm", "volume_ml", "reference_volume_ml")
    for case, row in zip(order, rows, strict=True):
        expected = [scores["measures"][case][name][key] for name in NAMES for key in keys]
        found = [cell.attrib["data-key"] for cell in row[1:-2]]
        assert [float(text) if text else None for text in found] == expected
    assert text_of(rows[order.index("case_4")][2]) == "\N{EN DASH}"
    assert text_of(rows[1][-2]) == rows[1][-2].attrib["data-key"] == "2"
    assert [text_of(row[-1]) for row in rows[:3]] == ["failed", "look", ""]
    assert text_of(rows[2][-2]) == ""


def test_worst_cases_come_before_best_and_the_verdict_is_one_sentence(
    tmp_path: Path, folders: dict[str, Path]
):
    scores = made_scores(CASES)
    means = {case: np.mean(list(dice.values())) for case, dice in scores["cases"].items()}
    ranked = sorted(means, key=lambda case: means[case])
    page = write_report(tmp_path / "r.html", **folders, scores=scores, run=made_run(CASES))
    shown = [text_of(heading) for heading in parsed(page).findall(".//article/h3")]
    ranks = dict(zip(ranked, [" worst"] * 3 + [""] * 4 + [" best"] * 2, strict=True))
    # the flagged case, then four with the lowest and one with the highest Dice of the others
    others = [case for case in ranked if case != "case_1"]
    assert shown == [
        f"case_1 look{ranks['case_1']}",
        *(
            f"{case}{' failed' if case == CASES[-1] else ''}{ranks[case]}"
            for case in [*others[:4], others[-1]]
        ),
    ]
    worst = min(NAMES, key=lambda name: scores["mean"][name])
    verdict = parsed(page).find(".//p[@class='verdict']")
    assert verdict is not None
    sizes = {
        name: np.array(
            [
                [row[name][key] for key in ("volume_ml", "reference_volume_ml")]
                for row in scores["measures"].values()
            ]
        ).mean(axis=0)
        for name in NAMES
    }
    bias = ", ".join(
        f"{name} {100 * (ours - theirs) / theirs:+.1f} % ({ours - theirs:+.2f} ml)"
        for name, (ours, theirs) in sizes.items()
    )
    assert text_of(verdict) == (
        f"Mean Dice {scores['mean_dice']:.3f} in 9 cases and 2 classes; lowest for {worst}, "
        f"{scores['mean'][worst]:.3f}; volume bias: {bias}; 1 case failed; 1 case with 2 quality flags."
    )


def test_predictions_without_labels_show_those_with_most_flags_first(
    tmp_path: Path, folders: dict[str, Path]
):
    run = made_run(CASES)
    images, predictions = folders["images"], folders["predictions"]
    page = write_report(tmp_path / "r.html", predictions, images=images, run=run)
    shown = [text_of(heading) for heading in parsed(page).findall(".//article/h3")]
    assert shown[:3] == ["case_1 look", "case_0", "case_2"]
    assert len(shown) == 6
    content = page.read_text(encoding="utf-8")
    assert 'id="scores"' not in content and 'id="distributions"' not in content
    assert "swatch reference" not in content
    assert "8 cases segmented; 1 case failed; 1 case with 2 quality flags." in content
    volumes = [float(row[1].attrib["data-key"]) for row in table_rows(page, "cases")]
    assert volumes == [1.25 + number for number in (8, 1, 0, *range(2, 8))]


def test_the_facts_of_the_run_are_there(tmp_path: Path, folders: dict[str, Path]):
    run = made_run(CASES)
    page = write_report(tmp_path / "r.html", folders["predictions"], run=run)
    terms = {
        text_of(term): text_of(text)
        for group in parsed(page).findall(".//dl")
        for term, text in zip(group.findall("dt"), group.findall("dd"), strict=True)
    }
    assert terms["SHA-256 of model.pt"] == run["weights"][0]["sha256"]
    assert terms["SHA-256 of the plan"] == run["plan_sha256"]
    assert terms["Duration"] == "3 min 25 s"
    assert terms["patch_size"] == "[16, 16, 16]"
    assert terms["members"] == '["a.pt"]'
    assert {"torch": "2.13.0", "overlap": "0.5", "Device": "cpu"}.items() <= terms.items()
    times = [[text_of(cell) for cell in row] for row in table_rows(page, "run")]
    assert times == [
        ["load", "0.50 s", "0.50 s", "4.5 s"],
        ["network", "8.0 s", "12.0 s", "1 min 12 s"],
    ]
    assert (terms["Patch"], terms["Predicted"]) == ("16 \u00d7 16 \u00d7 16", run["started"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", terms["Page written"])
    flags = [[text_of(cell) for cell in row] for row in table_rows(page, "flags")]
    assert flags[0] == ["case_1", "components", "head", "3 parts, not 1", "look"]
    assert [row[0] for row in flags] == ["case_1"] * 2
    failures = [[text_of(cell) for cell in row] for row in table_rows(page, "failures")]
    assert failures == [["case_8", "cannot read x.nii (OSError)"]]


def test_names_are_escaped_wherever_they_stand(tmp_path: Path):
    name = EVIL.replace("/", "")
    folders = save_cases(tmp_path, [name, "plain"])
    scores, run = made_scores([name, "plain"]), made_run([name, "plain"])
    for part in (scores["mean"], scores["statistics"], *scores["measures"].values()):
        part[name] = part.pop("head")
    for dice in scores["cases"].values():
        dice[name] = dice.pop("head")
    run["versions"][name] = name
    run["cases"]["plain"]["flags"] = [{"kind": name, "label": name, "message": name}]
    run["task_name"] = name
    page = write_report(tmp_path / "r.html", **folders, scores=scores, run=run)
    root = parsed(page)
    assert len(root.findall(".//script")) == 1
    assert all(image.attrib["src"].startswith("data:") for image in root.iter("img"))
    assert not any("on" == key[:2] for element in root.iter() for key in element.attrib)
    shown = name.replace("\x1b", r"\x1b")
    assert text_of(root.findall(".//section[@id='scores']//tbody//th")[-1]) in {shown, "tail"}
    assert root.findtext(".//h1") == shown
    assert "49" not in "".join(root.find(".//header").itertext())  # type: ignore[union-attr]


def test_no_folder_reaches_the_page(tmp_path: Path, folders: dict[str, Path]):
    (folders["images"] / "case_3.nii.gz").write_bytes(b"damaged")
    run = made_run(CASES)
    page = write_report(tmp_path / "r.html", **folders, run=run)
    content = page.read_text(encoding="utf-8")
    assert "Jane" not in content and "/home" not in content
    assert str(tmp_path) not in content


def test_scores_of_older_versions_and_undefined_values_are_fine(
    tmp_path: Path, folders: dict[str, Path]
):
    scores = {
        "metric": "Dice",
        "cases": {case: {"head": 0.5, "tail": None} for case in CASES},
        "mean": {"head": 0.5, "tail": None},
        "num_cases": {"head": 9, "tail": 0},
        "mean_dice": 0.5,
    }
    page = write_report(tmp_path / "r.html", **folders, scores=scores)
    rows = table_rows(page, "scores")
    assert text_of(rows[0][1]).startswith("0.500") and "n = 9" in text_of(rows[0][1])
    assert text_of(rows[1][1]).startswith("\N{EN DASH}")
    assert "no value" in page.read_text(encoding="utf-8")


def test_a_folder_of_masks_is_enough(tmp_path: Path, folders: dict[str, Path]):
    page = write_report(tmp_path / "r.html", folders["predictions"], title="Only masks")
    assert "9 cases segmented." in page.read_text(encoding="utf-8")
    assert parsed(page).findtext(".//h1") == "Only masks"
    empty = tmp_path / "empty"
    empty.mkdir()
    parsed(write_report(tmp_path / "e.html", empty, run={}, scores={}))


def test_images_are_found_by_channel_by_file_and_by_case(tmp_path: Path):
    folders = save_cases(tmp_path, ["a"])
    (folders["images"] / "a.nii.gz").rename(folders["images"] / "a_0000.nii.gz")
    file = folders["images"] / "a_0000.nii.gz"
    pages = [
        write_report(tmp_path / "r.html", folders["predictions"], images=images).read_text(
            encoding="utf-8"
        )
        for images in (folders["images"], file, {"a": str(file)}, {"a": [file, file]})
    ]
    assert all(page.count('class="base" src="data:image/jpeg') == 9 for page in pages)


def test_a_run_cannot_lead_out_of_its_folder(tmp_path: Path, folders: dict[str, Path]):
    secret = save_nifti(tmp_path / "secret.nii.gz", body())
    run = {"cases": {"x": {"status": "done", "mask": "../secret.nii.gz"}}}
    page = write_report(tmp_path / "r.html", folders["predictions"], images={"x": secret}, run=run)
    assert not data_pictures(page)


def test_a_page_that_cannot_be_written_is_a_user_error(tmp_path: Path, folders: dict[str, Path]):
    with pytest.raises(OutputError, match="cannot write"):
        write_report(tmp_path / "missing" / "r.html", folders["predictions"])
    assert not list(tmp_path.glob("*.part"))


def test_sixty_cases_stay_below_five_megabytes(tmp_path: Path):
    names = [f"case_{number:02d}" for number in range(60)]
    folders = {kind: tmp_path / kind for kind in ("images", "labels", "predictions")}
    shape = (130, 130, 130)
    mask = np.zeros(shape, np.uint8)
    mask[20:110, 20:110, 20:110] = 1
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for name in names[:6]:
        for kind, array in (("images", noise), ("labels", mask), ("predictions", mask)):
            save_nifti(folders[kind] / f"{name}.nii", array)
    scores = made_scores(names)
    for place, name in enumerate(names):
        value = place / 4 if place < 4 else 1.5 - place / 100
        scores["measures"][name] = {label: {"dice": value} for label in NAMES}
    page = write_report(tmp_path / "r.html", **folders, scores=scores, run=made_run(names))
    assert len(data_pictures(page)) == 6 * 9
    assert page.stat().st_size < 5e6


def test_a_copied_bundle_writes_the_page_without_torch(tmp_path: Path, folders: dict[str, Path]):
    shutil.copytree(
        BUNDLE / "dynunet_bundle",
        tmp_path / "copy" / "dynunet_bundle",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (tmp_path / "scores.json").write_text(json.dumps(made_scores(CASES)))
    program = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from dynunet_bundle.report import page as report
root = pathlib.Path(sys.argv[2])
assert pathlib.Path(report.__file__).is_relative_to(sys.argv[1])
scores = json.loads((root / "scores.json").read_text(encoding="utf-8"))
report.write_report(root / "r.html", root / "predictions", images=root / "images", scores=scores)
print([name for name in ("torch", "monai", "ignite", "SimpleITK") if name in sys.modules])
"""
    arguments: list[Any] = [tmp_path / "copy", tmp_path]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert len(data_pictures(tmp_path / "r.html")) == 6 * 9

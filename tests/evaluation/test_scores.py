"""Summaries of the scores of all cases, by the script and by the handler of evaluate.json."""

import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.evaluation.output import Outputs, write_outputs
from dynunet_bundle.evaluation.scores import (
    ScoreHandler,
    format_dice,
    mean_of,
    summarize,
    summarize_measures,
)
from dynunet_bundle.files import write_json
from dynunet_bundle.labels.scheme import LabelScheme

NAMES = ["background", "head", "tail"]
SCORES = {"a": [0.5, None], "b": [1.0, 0.25]}


def test_means_leave_out_what_is_not_there():
    summary = summarize(SCORES, NAMES)
    assert summary["mean"] == {"head": 0.75, "tail": 0.25}
    assert summary["num_cases"] == {"head": 2, "tail": 1}
    assert summary["mean_dice"] == 0.5
    assert mean_of([None, None]) is None


def test_the_table_has_a_row_a_case_and_the_means():
    lines = format_dice(summarize(SCORES, NAMES)).splitlines()
    assert lines[0].split() == ["case", "head", "tail", "mean"]
    assert lines[1].split() == ["a", "0.5000", "-", "0.5000"]
    assert lines[3].split() == ["mean", "of", "2", "cases", "0.7500", "0.2500", "0.5000"]
    assert len({len(line) for line in lines}) == 1


def test_the_handler_scores_by_the_name_of_the_case(tmp_path):
    reference = torch.zeros(1, 4, 4, 4)
    reference[0, 0], reference[0, 1] = 1, 2
    mask = MetaTensor(reference.clone(), meta={"filename_or_obj": "images/a_0000.nii.gz"})
    mask[0, 1, :2] = 0
    outputs = [
        [{"pred": mask, "label": reference, "name": "a"}],
        [{"pred": mask, "label": reference}],
    ]

    def step(engine, batch):
        engine.state.output = batch
        return batch

    engine = Engine(step)
    ScoreHandler(str(tmp_path / "out"), LabelScheme(NAMES)).attach(engine)
    engine.run(outputs)
    saved = json.loads((tmp_path / "out" / "scores.json").read_text())
    expected = {"head": 1.0, "tail": 2 / 3}
    assert saved["cases"] == {"a": expected, "a_0000": expected}


def run_handler(out, mask, reference, **settings):
    engine = Engine(lambda _, batch: batch)
    ScoreHandler(str(out), LabelScheme(NAMES), **settings).attach(engine)
    engine.run([[{"pred": mask, "label": reference}]])
    return json.loads((out / "scores.json").read_text())


def test_the_handler_measures_in_the_millimetres_of_the_file(tmp_path):
    reference = torch.zeros(1, 9, 9, 9, dtype=torch.uint8)
    reference[0, 4, 4, 2] = 1
    # the second axis is stored from left to right, the first from top to bottom, 3 mm apart
    affine = torch.tensor([[0.0, -0.5, 0, 0], [0, 0, 2, 0], [-3, 0, 0, 0], [0, 0, 0, 1]])
    mask = MetaTensor(torch.roll(reference, (2, 1), (1, 2)).float(), affine=affine)
    saved = run_handler(tmp_path, mask, reference, nsd_tolerance_mm=2.0)
    found = saved["measures"]["unnamed"]["head"]
    assert found["hd95_mm"] == pytest.approx(np.hypot(6, 0.5))
    assert found["reference_volume_ml"] == pytest.approx(3 * 0.5 * 2 / 1000)
    assert found["dice"] == saved["cases"]["unnamed"]["head"] == 0
    assert saved["nsd_tolerance_mm"] == 2
    assert saved["statistics"]["head"]["hd95_mm"]["num_cases"] == 1
    # the nearest corners are 3 mm apart, the others 3 more
    assert found["nsd"] == 0
    within = run_handler(tmp_path, mask, reference, nsd_tolerance_mm=4.0)["statistics"]
    assert within["head"]["nsd"]["mean"] == pytest.approx(0.5)


def test_the_handler_refuses_a_tolerance_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match="nsd_tolerance_mm"):
        ScoreHandler(str(tmp_path), LabelScheme(NAMES), nsd_tolerance_mm=-1)


def test_the_handler_scores_regions_and_leaves_out_what_is_ignored(tmp_path):
    reference = torch.zeros(1, 4, 4, 4)
    reference[0, 0], reference[0, 1], reference[0, 2] = 1, 2, 255
    mask = MetaTensor(torch.zeros_like(reference), meta={"filename_or_obj": "images/a.nii.gz"})
    mask[0, 0], mask[0, 1:3] = 2, 1
    engine = Engine(lambda _, batch: batch)
    labels = LabelScheme(NAMES, [0, 3, 9], None, {"body": [3, 9], "end": [9]}, [3, 9])
    ScoreHandler(str(tmp_path), labels).attach(engine)
    engine.run([[{"pred": mask, "label": reference}]])
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert saved["cases"] == {"a": {"body": 1.0, "end": 0.0}}
    assert saved["mean_dice"] == 0.5


# --- what is written


@pytest.fixture
def page(monkeypatch):
    """Record the arguments of ``write_report``."""
    seen = {}
    monkeypatch.setattr(
        "dynunet_bundle.report.page.write_report",
        lambda path, predictions, **given: seen.update(given, path=path, predictions=predictions),
    )
    return seen


def test_the_page_gets_scores_and_run(page, tmp_path):
    summary = summarize_measures({"x": []}, ["background"], 1.0)
    masks, labels = tmp_path / "masks", tmp_path / "labels"
    masks.mkdir()
    outputs = Outputs(report=tmp_path / "new" / "page.html", images=tmp_path)
    assert write_outputs(summary, masks, labels, outputs) == [masks / "scores.json", outputs.report]
    assert page == {
        **{"path": outputs.report, "predictions": masks, "images": tmp_path, "labels": labels},
        **{"scores": summary, "run": None, "class_names": {}},
    }
    assert outputs.report.parent.is_dir()
    write_json(masks / "run.json", {"format": 1})
    write_outputs(summary, masks, labels, outputs)
    assert page["run"] == {"format": 1}


def test_no_page_is_made_unless_asked_for(page, tmp_path):
    summary = summarize_measures({"x": []}, ["background"], 1.0)
    assert write_outputs(summary, tmp_path, tmp_path, Outputs()) == [tmp_path / "scores.json"]
    assert page == {}


def test_images_of_a_page_are_in_a_folder(page, tmp_path):
    summary = summarize_measures({"x": []}, ["background"], 1.0)
    outputs = Outputs(report=tmp_path / "page.html", images=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"none is not a folder.*--input"):
        write_outputs(summary, tmp_path, tmp_path, outputs)

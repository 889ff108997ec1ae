"""A run of inference.json: failures, resuming, and its record in run.json."""

import hashlib
import json
import logging
import signal
import traceback
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import run_script, save_nifti
from helpers.predictions import AFFINE, prediction, run_of, save_cases, threshold_weights

from dynunet_bundle import __version__
from dynunet_bundle.dataset.case_marks import image_mark
from dynunet_bundle.errors import CaseError, OutputError, PredictionError, WeightsError
from dynunet_bundle.inference.save_mask import SaveMaskd
from dynunet_bundle.preprocessing.recipe import image_recipe


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def weights(tmp_path):
    return threshold_weights(tmp_path / "model.pt")


def test_run_json_tells_what_masks_were_made_of(tmp_path, weights):
    arrays = save_cases(tmp_path / "in", "a", "b")
    prediction(tmp_path / "in", tmp_path / "out", weights).run()
    run = run_of(tmp_path / "out")
    assert (run["status"], run["exit_code"], run["format"]) == ("finished", 0, 1)
    assert run["weights"] == [{"file": "model.pt", "sha256": digest(weights)}]
    assert run["versions"]["dynunet_bundle"] == __version__
    assert run["parameters"]["mirror_axes"] == [] and run["parameters"]["precision"] == "float32"
    assert run["plan"]["patch_size"] == [24, 24, 24] and list(run["cases"]) == ["a", "b"]
    case = run["cases"]["b"]
    source, mask = tmp_path / "in" / "b.nii.gz", tmp_path / "out" / "b.nii.gz"
    assert case["inputs"] == [
        {"file": "b.nii.gz", "bytes": source.stat().st_size, "sha256": digest(source)}
    ]
    assert case["mask"] == "b.nii.gz" and case["mask_sha256"] == digest(mask)
    assert case["shape"] == [20, 18, 16] and np.allclose(case["spacing_mm"], [1, 1.2, 1.6])
    found = np.asarray(nib.load(mask).dataobj)
    expected = (arrays["b"] > 35).astype(int) + (arrays["b"] > 90)
    # the plan's spacing is 1 mm: only the border of the boxes may differ
    assert (found == expected).mean() > 0.97
    voxel_ml = 1 * 1.2 * 1.6 / 1000
    for value, name in ((1, "Anterior"), (2, "Posterior")):
        assert case["volumes_ml"][name] == pytest.approx((found == value).sum() * voxel_ml)
        assert case["components"][name] == 1
    assert set(case["seconds"]) == {"load", "network", "restore", "save"}
    assert min(case["seconds"].values()) >= 0
    assert str(tmp_path) not in (tmp_path / "out" / "run.json").read_text()


def test_one_bad_case_does_not_stop_the_others(tmp_path, weights):
    save_cases(tmp_path / "in", "a", "c")
    save_nifti(tmp_path / "in" / "b.nii.gz", np.full((9, 9, 9), np.nan, np.float32), AFFINE)
    with pytest.raises(PredictionError, match="1 of 3 cases failed") as caught:
        prediction(tmp_path / "in", tmp_path / "out", weights).run()
    assert caught.value.exit_code == 1 and "case b: " in str(caught.value)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.nii.gz", "c.nii.gz", "run.json"}
    run = run_of(tmp_path / "out")
    assert (run["status"], run["exit_code"]) == ("failed", 1)
    assert [case["status"] for case in run["cases"].values()] == ["done", "failed", "done"]
    assert "NaN" in run["cases"]["b"]["error"]


def test_a_single_bad_case_is_bad_input(tmp_path, weights):
    save_nifti(tmp_path / "in" / "b.nii.gz", np.full((9, 9, 9), np.nan, np.float32), AFFINE)
    with pytest.raises(CaseError, match="case b") as caught:
        prediction(tmp_path / "in", tmp_path / "out", weights).run()
    assert caught.value.exit_code == 2
    run = run_of(tmp_path / "out")
    assert (run["status"], run["exit_code"]) == ("failed", 2)
    assert run["cases"]["b"]["status"] == "failed" and run["error"] == str(caught.value)


def test_all_cases_bad_leaves_no_others(tmp_path, weights, told):
    for name in "ab":
        save_nifti(
            tmp_path / "in" / f"{name}.nii.gz", np.full((9, 9, 9), np.nan, np.float32), AFFINE
        )
    with pytest.raises(PredictionError, match="2 of 2 cases failed:") as raised:
        prediction(tmp_path / "in", tmp_path / "out", weights).run()
    # each reason once
    assert str(raised.value).count("NaN") == 2
    failed = [line for line in told("evaluator") if "failed" in line]
    assert failed == ["a failed", "b failed"]


def test_a_listed_file_that_is_not_there_is_not_called_damaged(tmp_path, weights):
    save_cases(tmp_path, "a")
    (tmp_path / "list.json").write_text('["a.nii.gz", "b.nii.gz"]')
    with pytest.raises(PredictionError, match="case b: cannot find b.nii.gz"):
        prediction(tmp_path / "list.json", tmp_path / "out", weights).run()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_cannot_begin_leaves_the_record_of_the_one_before(tmp_path, weights, resume):
    save_cases(tmp_path / "in", "a")
    out = tmp_path / "out"
    prediction(tmp_path / "in", out, weights).run()
    before = (out / "run.json").read_bytes()
    with pytest.raises(WeightsError, match="no weights at"):
        prediction(tmp_path / "in", out, tmp_path / "nix.pt", resume=resume).run()
    (tmp_path / "broken.pt").write_bytes(b"x")
    with pytest.raises(WeightsError, match="not a file of weights"):
        prediction(tmp_path / "in", out, tmp_path / "broken.pt", resume=resume).run()
    assert (out / "run.json").read_bytes() == before
    workflow = prediction(tmp_path / "in", out, weights, resume=True)
    assert workflow.parser.get_parsed_content("record").remaining() == []


def test_too_little_memory_for_one_case_leaves_the_others(tmp_path, weights, monkeypatch):
    save_cases(tmp_path / "in", "a", "b")
    workflow = prediction(tmp_path / "in", tmp_path / "out", weights)
    inferer = workflow.parser.get_parsed_content("inferer")
    original, calls = type(inferer).__call__, []

    def call(self, inputs, network):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, inputs, network)

    monkeypatch.setattr(type(inferer), "__call__", call)
    with pytest.raises(PredictionError, match="case a: there is not enough memory"):
        workflow.run()
    assert (tmp_path / "out" / "b.nii.gz").is_file()


def test_a_fault_of_ours_is_not_hidden(tmp_path, weights, monkeypatch):
    save_cases(tmp_path / "in", "a", "b")
    monkeypatch.setattr(SaveMaskd, "__call__", lambda self, data: data["nothing"])
    # its text may name a patient, its type and place do not
    with pytest.raises(PredictionError, match="2 of 2 .*") as told:
        prediction(tmp_path / "in", tmp_path / "out", weights).run()
    assert "case a: SaveMaskd failed (KeyError in test_run.py, line " in str(told.value)
    assert told.value.exit_code == 1
    assert run_of(tmp_path / "out")["status"] == "failed"
    monkeypatch.setenv("MONAI_DEBUG", "1")
    with pytest.raises(RuntimeError) as caught:
        prediction(tmp_path / "in", tmp_path / "out", weights).run()
    assert "KeyError: 'nothing'" in "".join(traceback.format_exception(caught.value))
    assert run_of(tmp_path / "out")["status"] == "failed"


def test_what_cannot_be_written_stops_the_run(tmp_path, weights):
    save_cases(tmp_path / "in", "a", "b")
    # the mask of a would replace a
    with pytest.raises(OutputError, match="would replace"):
        prediction(tmp_path / "in", tmp_path / "in", weights).run()


def test_a_run_goes_on_behind_what_is_done(tmp_path, weights, log):
    save_cases(tmp_path / "in", "a", "b", "c")
    out = tmp_path / "out"
    prediction(tmp_path / "in", out, weights).run()
    whole = {name: digest(out / f"{name}.nii.gz") for name in "abc"}
    (out / "b.nii.gz").unlink()
    (out / "c.nii.gz").write_bytes(b"another mask")
    before = (out / "a.nii.gz").stat().st_mtime_ns
    prediction(tmp_path / "in", out, weights, resume=True).run()
    assert "1 of 3 cases are already done" in log.text
    assert {name: digest(out / f"{name}.nii.gz") for name in "abc"} == whole
    assert (out / "a.nii.gz").stat().st_mtime_ns == before
    assert {case["status"] for case in run_of(out)["cases"].values()} == {"done"}
    log.clear()
    prediction(tmp_path / "in", out, weights, resume=True).run()
    assert "there are no cases to predict" in log.text


@pytest.mark.parametrize("change", ["weights", "parameter", "image", "plan"])
def test_masks_of_something_else_are_made_again(tmp_path, weights, change):
    save_cases(tmp_path / "in", "a", "b")
    prediction(tmp_path / "in", tmp_path / "out", weights).run()
    overrides = {"parameter": {"overlap": 0.25}, "plan": {"spacing": [1.5, 1.5, 1.5]}}
    if change == "weights":
        threshold_weights(weights, low=50)
    if change == "image":
        save_nifti(tmp_path / "in" / "a.nii.gz", np.ones((9, 9, 9), np.float32) * 60, AFFINE)
    workflow = prediction(
        tmp_path / "in", tmp_path / "out", weights, resume=True, **overrides.get(change, {})
    )
    remaining = workflow.parser.get_parsed_content("record").remaining()
    assert len(remaining) == (1 if change == "image" else 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_between_two_cases_and_nothing_is_half_written(
    tmp_path, weights, number, monkeypatch
):
    save_cases(tmp_path / "in", "a", "b")
    original = SaveMaskd.__call__

    def save(self, data):
        saved = original(self, data)
        signal.raise_signal(number)
        return saved

    monkeypatch.setattr(SaveMaskd, "__call__", save)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        prediction(tmp_path / "in", tmp_path / "out", weights).run()
    assert caught.value.code == 75 and signal.getsignal(number) == before
    run = run_of(tmp_path / "out")
    assert (run["status"], run["exit_code"]) == ("stopped", 75)
    assert nib.load(tmp_path / "out" / "a.nii.gz").shape == (20, 18, 16)
    monkeypatch.undo()
    prediction(tmp_path / "in", tmp_path / "out", weights, resume=True).run()
    assert run_of(tmp_path / "out")["status"] == "finished"


def test_workers_that_load_give_the_same_masks(tmp_path, weights):
    save_cases(tmp_path / "in", "a", "b")
    save_nifti(tmp_path / "in" / "bad.nii.gz", np.full((9, 9, 9), np.nan, np.float32), AFFINE)
    for workers in (0, 1):
        with pytest.raises(PredictionError, match="case bad"):
            prediction(
                tmp_path / "in",
                tmp_path / str(workers),
                weights,
                **{"dataloader#num_workers": workers},
            ).run()
    for name in ("a.nii.gz", "b.nii.gz"):
        assert digest(tmp_path / "0" / name) == digest(tmp_path / "1" / name)


@pytest.fixture
def told(caplog):
    """Messages of the room of predictions; the logging of a bundle replaces the handlers of the root logger."""
    room = logging.getLogger("dynunet_bundle.inference")
    room.addHandler(caplog.handler)
    yield lambda name: [
        record.getMessage() for record in caplog.records if record.name == f"{room.name}.{name}"
    ]
    room.removeHandler(caplog.handler)


def test_flags_compare_with_the_training(tmp_path, weights, told):
    save_cases(tmp_path / "in", "a")
    facts = {
        "sha256": digest(weights),
        "training": {
            "num_cases": 2,
            "volumes_ml": {"Anterior": [0.001, 0.002]},
            "components": {"Posterior": [1, 1]},
        },
    }
    weights.with_suffix(".json").write_text(json.dumps(facts))
    prediction(tmp_path / "in", tmp_path / "out", weights, max_entropy=1e-9).run()
    flags = run_of(tmp_path / "out")["cases"]["a"]["flags"]
    assert {(flag["kind"], flag["label"]) for flag in flags} >= {("volume", "Anterior")}
    assert all(flag["message"] for flag in flags)
    # one line for the case, and the total
    assert len(flags) > 1
    case, total = told("run_record")
    assert case.startswith("a: ") and all(flag["message"] in case for flag in flags)
    assert total.startswith("1 of 1 case flagged") and total.endswith("; see run.json")


def test_a_case_of_the_training_is_marked_by_its_image(tmp_path, weights):
    save_cases(tmp_path / "in", "a", "b")
    case = {"image": str(tmp_path / "in" / "a.nii.gz")}
    marks = {"0123": image_mark(case)}
    steps = prediction(tmp_path / "in", tmp_path / "out", weights).parser
    recipe = image_recipe(steps.get_parsed_content("preprocessing"))
    learnt = {"fold": 0, "trained": marks, "held_out": {}, "preprocessing": recipe}
    facts = {"sha256": digest(weights), "learnt_from": learnt}
    weights.with_suffix(".json").write_text(json.dumps(facts))
    prediction(tmp_path / "in", tmp_path / "out", weights).run()
    cases = run_of(tmp_path / "out")["cases"]
    assert cases["a"]["in_training"] is True and "in_training" not in cases["b"]


def test_mirroring_that_was_not_learnt_is_refused(tmp_path, weights):
    save_cases(tmp_path / "in", "a")
    facts = {"sha256": digest(weights), "mirror_axes": [0, 1]}
    weights.with_suffix(".json").write_text(json.dumps(facts))
    mirroring = {"displayable_configs#mirroring": True}
    with pytest.raises(WeightsError, match=r"over the axes \[0, 1\].*mirror_axes is \[0, 1, 2\]"):
        prediction(tmp_path / "in", tmp_path / "out", weights, **mirroring).run()
    prediction(tmp_path / "in", tmp_path / "out", weights, mirror_axes=[1]).run()
    assert run_of(tmp_path / "out")["parameters"]["mirror_axes"] == [1]


def test_the_script_tells_of_a_run_that_cannot_begin_in_one_line(tmp_path, weights):
    save_cases(tmp_path / "in", "a")
    arguments = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--device", "cpu")
    report = tmp_path / "report.html"
    done = run_script("predict", *arguments, "--model", tmp_path / "nix.pt", "--report", report)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr and not report.exists()
    (tmp_path / "file").write_text("")
    done = run_script("predict", *arguments, "--report", tmp_path / "file" / "report.html")
    assert done.returncode == 2 and "cannot write to" in done.stderr
    assert not (tmp_path / "out" / "run.json").exists()

"""Too little memory for one case is the error of that case: the others are predicted, prepared, surveyed, evaluated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import BUNDLE, TINY, save_nifti
from helpers.predictions import run_of, save_cases, threshold_weights

from dynunet_bundle.configs.workflow import BundleWorkflow
from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.errors import CaseError, PredictionError
from dynunet_bundle.evaluation.mask_folders import find_masks, measure_masks
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.machine import limits
from dynunet_bundle.preprocessing.store import PreparedDataset
from dynunet_bundle.survey.survey import survey_dataset

TESTS = Path(__file__).parents[1]
SPARE_MIB = 400

LIMITED = """
import resource, sys
from pathlib import Path
import torch
from helpers.predictions import prediction
torch.set_num_threads(1)
folder = Path(sys.argv[1])
prediction(folder / "in" / "a.nii.gz", folder / "first", folder / "model.pt").run()
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (int(sys.argv[2]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
"""
"""Once everything is loaded, memory to spare is limited."""

PREDICT = f"""{LIMITED}
from dynunet_bundle.errors import user_errors_exit
with user_errors_exit():
    prediction(folder / "in", folder / "out", folder / "model.pt").run()
"""


def limited(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with some memory to spare."""
    path = os.pathsep.join([str(BUNDLE), str(TESTS)])
    return subprocess.run(
        [sys.executable, "-c", code, str(folder), str(SPARE_MIB)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, **variables},
    )


LARGE = {"file": (600, 1.0), "resampled": (50, 10.0), "logits": (32, 10.0)}
"""Voxels along an axis and their mm, by what takes more memory than there is."""


def save_large(path: Path, kind: str) -> None:
    side, mm = LARGE[kind]
    array = np.zeros((side, side, side), np.int16)
    array[0, 0, 0] = array[-1, -1, -1] = 50
    nib.save(nib.Nifti1Image(array, np.diag([mm, mm, mm, 1])), path)


@pytest.mark.parametrize("unchecked", [False, True])
def test_large_cases_do_not_end_a_prediction(tmp_path, unchecked):
    threshold_weights(tmp_path / "model.pt")
    save_cases(tmp_path / "in", "a", "z")
    for kind in LARGE:
        save_large(tmp_path / "in" / f"{kind}.nii.gz", kind)
    # with the variable set, memory is not compared before it is taken: the libraries fail
    variables = {"DYNUNET_MAX_IMAGE_GIB": "8"} if unchecked else {}
    done = limited(PREDICT, tmp_path, **variables)
    assert done.returncode == 1, done.stderr[-3000:]
    cases = run_of(tmp_path / "out")["cases"]
    expected = {"a": "done", "z": "done", **dict.fromkeys(LARGE, "failed")}
    assert {name: case["status"] for name, case in cases.items()} == expected
    for name in LARGE:
        assert f"case {name}: there is not enough memory for" in done.stderr
        assert "Use a machine with more memory" in cases[name]["error"]
        assert unchecked or "are available" in cases[name]["error"]
    assert "Traceback" not in done.stderr


@pytest.fixture
def little_memory(monkeypatch):
    """Less memory than a case of 40 x 40 x 40 voxels takes."""
    monkeypatch.setattr(limits, "available_bytes", lambda: 60_000)


def labelled(folder: Path, *names: str) -> list[dict[str, str]]:
    """Cases of 20 x 20 x 20 voxels, those whose names begin with b of 40 x 40 x 40."""
    cases = []
    for name in names:
        side = 40 if name.startswith("b") else 20
        image = np.arange(side**3, dtype=np.float32).reshape(side, side, side)
        label = (image > image.mean()).astype(np.uint8)
        label[0, 0, :2] = 0, 2
        paths = {key: folder / key / f"{name}.nii.gz" for key in ("image", "label")}
        save_nifti(paths["image"], image)
        save_nifti(paths["label"], label)
        cases.append({key: str(path) for key, path in paths.items()})
    return cases


def test_a_large_case_does_not_end_a_preparation(tmp_path, train_workflow, little_memory):
    cases = labelled(tmp_path, "a", "b", "c")
    transform = train_workflow().parser.get_parsed_content("preprocessing")
    with pytest.raises(CaseError, match="case b: there is not enough memory for it .reading it"):
        PreparedDataset(cases, transform, str(tmp_path / "store"), 3, num_workers=1).cases()
    prepared = {path.name[0] for path in (tmp_path / "store").iterdir()}
    assert prepared == {"a", "c"}
    cases += labelled(tmp_path, "b2")
    with pytest.raises(
        PredictionError, match="2 of 4 cases failed, the others are done:\n  case b: "
    ):
        PreparedDataset(cases, transform, str(tmp_path / "store"), 3).cases()


def test_a_large_case_does_not_end_a_survey(tmp_path, little_memory):
    cases = labelled(tmp_path, "a", "b", "c")
    scheme = LabelScheme(("background", "one", "two"))
    surveys = survey_dataset(DatasetDescription("Own", ("MRI",), scheme, tuple(cases), ()))
    assert [survey.facts is not None for survey in surveys] == [True, False, True]
    assert "there is not enough memory" in surveys[1].findings[0].problem


def test_a_large_case_does_not_end_the_scores_of_two_folders(tmp_path, little_memory):
    labelled(tmp_path, "a", "b", "c")
    masks = find_masks(str(tmp_path / "label"), str(tmp_path / "label"))
    assert set(measure_masks(masks)) == {"a", "c"}
    with pytest.raises(
        PredictionError, match="1 of 3 cases failed, the others are done:\n  case b"
    ):
        masks.require_all()


def test_a_bad_case_does_not_end_an_evaluation(train_workflow, own_phantom, tmp_path):
    settings = {"dataset_dir": own_phantom, "epochs": 1}
    workflow = train_workflow(**settings)
    workflow.run()
    validation = workflow.parser.get_parsed_content("cases").validation
    names = [name_of(case) for case in validation]
    assert len(names) > 1
    (tmp_path / "run" / "scores.json").unlink(missing_ok=True)
    Path(validation[0]["image"]).write_bytes(b"")
    message = (
        f"1 of {len(names)} cases failed, the others are done:\n  case {names[0]}: cannot read"
    )
    with pytest.raises(PredictionError, match=message):
        evaluation(workflow).run()
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert list(scores["cases"]) == names[1:]
    for case in validation:
        Path(case["image"]).write_bytes(b"")
    with pytest.raises(PredictionError, match=f"{len(names)} of {len(names)} cases failed:"):
        evaluation(workflow).run()


def evaluation(training: BundleWorkflow) -> BundleWorkflow:
    """evaluate.json over train.json with the plan and the folders of a training."""
    configs = [str(BUNDLE / "configs" / name) for name in ("train.json", "evaluate.json")]
    ids = {*TINY, "dataset_dir", "device", "ckpt_dir", "output_dir", "prepared_dir", "bundle_root"}
    given = {name: training.parser.config[name] for name in ids}
    workflow = BundleWorkflow(
        config_file=configs, workflow_type="train", run_id="evaluating", **given
    )
    workflow.initialize()
    return workflow

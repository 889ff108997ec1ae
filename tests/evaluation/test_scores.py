import json

import numpy as np
import pytest
from conftest import run_script, save_nifti

from dynunet_bundle.errors import CaseError, DatasetError
from dynunet_bundle.evaluation.folder import score_folders
from dynunet_bundle.evaluation.scores import format_table, mean_of, summarize

NAMES = ["background", "head", "tail"]
SCORES = {"a": [0.5, None], "b": [1.0, 0.25]}


def test_means_leave_out_what_is_not_there():
    summary = summarize(SCORES, NAMES)
    assert summary["mean"] == {"head": 0.75, "tail": 0.25}
    assert summary["num_cases"] == {"head": 2, "tail": 1}
    assert summary["mean_dice"] == 0.5
    assert mean_of([None, None]) is None


def test_the_table_has_a_row_a_case_and_the_means():
    lines = format_table(summarize(SCORES, NAMES)).splitlines()
    assert lines[0].split() == ["case", "head", "tail", "mean"]
    assert lines[1].split() == ["a", "0.5000", "-", "0.5000"]
    assert lines[3].split() == ["mean", "of", "2", "cases", "0.7500", "0.2500", "0.5000"]
    assert len({len(line) for line in lines}) == 1


@pytest.fixture
def folders(tmp_path):
    reference = np.zeros((5, 5, 5), np.uint8)
    reference[1:3] = 1
    reference[4] = 2
    prediction = reference.copy()
    prediction[2] = 0
    for name in ("x", "y"):
        save_nifti(tmp_path / "labels" / f"{name}.nii.gz", reference)
    save_nifti(tmp_path / "predictions" / "x.nii.gz", prediction)
    return tmp_path


def test_folders_are_paired_by_name(folders):
    scores, names = score_folders(str(folders / "predictions"), str(folders / "labels"), NAMES)
    assert scores == {"x": [2 / 3, 1.0]}
    assert names == NAMES


def test_classes_without_names_are_named_by_their_values(folders):
    _, names = score_folders(str(folders / "predictions"), str(folders / "labels"))
    assert names == ["background", "1", "2"]


def test_a_prediction_without_label_is_an_error(folders):
    (folders / "labels" / "x.nii.gz").unlink()
    with pytest.raises(DatasetError, match="has no label for x"):
        score_folders(str(folders / "predictions"), str(folders / "labels"))


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([1, 1, 2, 1])], ids=["shape", "affine"])
def test_different_grids_are_an_error(folders, affine):
    shape = (5, 5, 6) if np.array_equal(affine, np.eye(4)) else (5, 5, 5)
    save_nifti(folders / "predictions" / "x.nii.gz", np.ones(shape, np.uint8), affine)
    with pytest.raises(CaseError, match="case x: prediction and label lie on different grids"):
        score_folders(str(folders / "predictions"), str(folders / "labels"))


def test_values_without_a_name_are_an_error(folders):
    with pytest.raises(DatasetError, match="values up to 2"):
        score_folders(str(folders / "predictions"), str(folders / "labels"), NAMES[:2])


def test_the_script_prints_and_saves(folders):
    arguments = ("--predictions", folders / "predictions", "--labels", folders / "labels")
    result = run_script("evaluate", *arguments, "--label_names", *NAMES)
    assert result.returncode == 0, result.stderr
    assert "0.6667  1.0000" in result.stdout
    saved = json.loads((folders / "predictions" / "scores.json").read_text())
    assert saved["cases"]["x"]["tail"] == 1.0


def test_the_script_answers_bad_input_in_one_line(folders):
    result = run_script("evaluate", "--predictions", folders / "none", "--labels", folders)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and "does not exist" in result.stderr
    assert "Traceback" not in result.stderr

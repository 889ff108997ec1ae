"""Bad input gives one line with the case and the remedy, exit code 2, and no partial files."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import run_script, save_nifti
from test_commands import run_bundle


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace_image(path: Path, change) -> None:
    image = nib.load(path)
    save_nifti(path, change(np.asarray(image.dataobj).copy()), image.affine)


def set_nan(array: np.ndarray) -> np.ndarray:
    array[3, 4, 5] = np.nan
    return array


def set_value_7(array: np.ndarray) -> np.ndarray:
    array[0, 0, :4] = 7
    return array


def train(data: Path, tmp_path: Path, **overrides: object):
    return run_bundle(
        "training",
        "--config_file",
        "configs/train.json",
        dataset_dir=data,
        **{"ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "run", **overrides},
    )


def assert_refused(done, *words: str) -> None:
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), done.stderr[-3000:]
    for word in words:
        assert word in last, last
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


def assert_nothing_half_written(tmp_path: Path, case: str) -> None:
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in files if path.name.endswith(".part") or path.name.startswith(case)]
    assert not (tmp_path / "models" / "model.pt").exists()


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("images", set_nan, ("NaN", "Repair")),
        ("labels", set_value_7, ("7 (4 voxels)", "dataset.json")),
        ("labels", lambda array: array[:, :-1], ("different shapes", "Pair")),
        ("images", lambda array: array[:, :, 4], ("different shapes", "Pair")),
    ],
    ids=["NaN", "label value", "shapes", "2D"],
)
def test_a_bad_case_stops_the_training(file, change, words, own_phantom, tmp_path):
    replace_image(own_phantom / f"{file}Tr" / "phantom_002.nii.gz", change)
    done = train(own_phantom, tmp_path)
    assert_refused(done, "case phantom_002", *words)
    assert_nothing_half_written(tmp_path, "phantom_002")


def test_a_damaged_file_is_named(own_phantom, tmp_path):
    path = own_phantom / "imagesTr" / "phantom_001.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    done = train(own_phantom, tmp_path)
    assert_refused(done, "case phantom_001", "cannot read", "Replace the damaged file")
    assert_nothing_half_written(tmp_path, "phantom_001")


def test_a_misspelt_override_is_refused(phantom, tmp_path):
    done = train(phantom, tmp_path, epocs=3)
    assert_refused(done, '"epocs"', 'did you mean "epochs"')


def test_a_folder_that_cannot_be_written_is_refused_first(phantom, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    done = train(phantom, tmp_path, output_dir=blocker / "run")
    assert_refused(done, "cannot write to", "--output_dir")
    assert not (tmp_path / "models" / "model.pt").exists()


def test_a_plan_of_another_data_set_is_refused(phantom, tmp_path):
    done = train(phantom, tmp_path, label_names="['background','liver']", label_values="[0, 1]")
    assert_refused(done, "liver", "dynunet-bundle plan")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: (data / "dataset.json").unlink(), ("no dataset.json",)),
        (lambda data: (data / "dataset.json").write_text('{"labels": '), ("not valid JSON",)),
        (lambda data: edit_json(data / "dataset.json", labels={"1": "a"}), ("background",)),
        (
            lambda data: (data / "imagesTr" / "phantom_003.nii.gz").unlink(),
            ("case phantom_003", "1 missing file"),
        ),
        (
            lambda data: replace_image(data / "imagesTr" / "phantom_003.nii.gz", lambda a: a[0]),
            ("case phantom_003", "different shapes"),
        ),
    ],
    ids=["absent", "malformed", "no background", "missing file", "2D"],
)
def test_plan_py_refuses_a_bad_data_set(spoil, words, own_phantom, tmp_path):
    spoil(own_phantom)
    done = run_script("plan", "--dataset_dir", own_phantom, "--output", tmp_path / "overlay.json")
    assert_refused(done, *words)
    assert not (tmp_path / "overlay.json").exists()


def test_real_misfits_are_refused(real_data, phantom, tmp_path):
    """An image with the label of another patient, or of another task."""
    spoiled = real_data / "spoiled"
    for label in ("hippocampus_010", "hippocampus_281"):
        pair = {
            "image": str(spoiled / "images" / "hippocampus_118.nii.gz"),
            "label": str(spoiled / "labels" / f"{label}.nii.gz"),
        }
        done = train(phantom, tmp_path, **{"train#dataset#data": str([pair])})
        assert_refused(done, "case hippocampus_118", "different shapes")


def test_predict_py_refuses_a_nan_and_keeps_what_was_done(own_phantom, tmp_path):
    train(own_phantom, tmp_path)
    replace_image(own_phantom / "imagesTs" / "phantom_007.nii.gz", set_nan)
    done = run_script(
        "predict",
        *("--input", own_phantom / "imagesTs", "--output_dir", tmp_path / "out"),
        *("--model", tmp_path / "models" / "model.pt"),
    )
    # the other case is finished
    assert done.returncode == 1
    assert "error: 1 of 2 cases failed" in done.stderr and "case phantom_007" in done.stderr
    assert "NaN" in done.stderr and "Traceback" not in done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"phantom_006.nii.gz", "run.json"}

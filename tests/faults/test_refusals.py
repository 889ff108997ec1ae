"""What does not belong together is refused in one line that shows the difference, and nothing is changed."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT, TINY, save_nifti
from fault_checks import LAST, PREVIOUS, Done, assert_error, load, names
from fault_runs import (  # noqa: F401 - the_runs is a fixture
    LARGER,
    Runs,
    Training,
    as_flags,
    started,
    the_runs,
)

pytestmark = pytest.mark.fault

FILES = {LAST, PREVIOUS, "model.pt", "model.json"}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def finished(runs: Runs, tmp_path: Path) -> Training:
    """A training of three epochs that has ended, in a folder of its own."""
    training = runs.training(tmp_path / "finished")
    shutil.copytree(runs.whole(), training.models)
    return training


@pytest.mark.slow
def test_another_plan(finished: Training) -> None:
    before = content(finished.models)
    done = finished.run(filters=[8, 16, 24])
    difference = "filters: [8, 16, 32] against [8, 16, 24]"
    assert_error(done, 2, str(finished.models), "another plan", difference, "--restart True")
    assert content(finished.models) == before
    assert names(finished.models) == FILES


def remove_case(data: Path) -> None:
    description = json.loads((data / "dataset.json").read_text())
    left = [case for case in description["training"] if "phantom_002" not in case["image"]]
    edit_json(data / "dataset.json", training=left, numTraining=len(left))


def edit_label(data: Path) -> None:
    path = data / "labelsTr" / "phantom_002.nii.gz"
    label = nib.load(path)
    array = np.asarray(label.dataobj).copy()
    # a part of the object
    middle = array.shape[1] // 2
    assert array[:, middle - 3 : middle + 3].any()
    array[:, middle - 3 : middle + 3] = 0
    save_nifti(path, array, label.affine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "difference"),
    [(remove_case, r"gone: [^;]*phantom_002"), (edit_label, r"\(changed: phantom_002\)")],
    ids=["removed", "edited"],
)
def test_another_data_set(
    finished: Training, own_phantom: Path, tmp_path: Path, change: Any, difference: str
) -> None:
    change(own_phantom)
    before = content(finished.models)
    done = finished.run(dataset_dir=own_phantom, prepared_dir=tmp_path / "store")
    line = assert_error(done, 2, str(finished.models), "other cases", "--restart True")
    assert re.search(difference, line), line
    assert content(finished.models) == before
    assert names(finished.models) == FILES


@pytest.mark.slow
def test_starting_over_keeps_the_old_training_aside(finished: Training) -> None:
    old = content(finished.models)
    done = finished.finish(restart=True, learning_rate=0.02)
    aside = finished.models / "earlier_run_1"
    assert f"the earlier training was moved to {aside}" in done.text
    assert content(aside) == old
    new = content(finished.models)
    assert new.keys() == old.keys()
    assert all(new[name] != old[name] for name in FILES)
    assert load(finished.models / LAST)["epoch"] == 3


@pytest.mark.slow
def test_weights_of_another_plan_are_not_evaluated(finished: Training) -> None:
    """Their plan is in model.json; the network would fit."""
    plan = json.loads((finished.models / "model.json").read_text())["plan"]
    edit_json(finished.models / "model.json", plan={**plan, "spacing": [1.0, 1.0, 1.0]})
    with started(evaluating(finished), finished.folder / "evaluate") as running:
        done = running.wait()
    assert_error(done, 2, "another plan", "spacing: [1.0, 1.0, 1.0] against [2.0, 2.0, 2.0]")
    assert not (finished.run_dir / "scores.json").exists()


def evaluating(training: Training) -> list[str]:
    settings = {
        **TINY,
        **LARGER,
        "device": "cpu",
        "dataset_dir": training.data,
        "prepared_dir": training.store,
        "ckpt_dir": training.models,
        "output_dir": training.run_dir,
    }
    files = json.dumps(["configs/train.json", "configs/evaluate.json"])
    command = [sys.executable, "-m", "monai.bundle", "run", "evaluating", "--config_file", files]
    return [*command, *as_flags(settings)]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["another plan", "other weights"])
def test_weights_that_do_not_belong_are_not_predicted_with(
    finished: Training, tmp_path: Path, damage: str
) -> None:
    plan = json.loads((finished.models / "model.json").read_text())["plan"]
    if damage == "another plan":
        plan["filters"] = [8, 16, 24]
        needed = ("another plan", "filters: [8, 16, 32] against [8, 16, 24]")
    else:
        with (finished.models / "model.pt").open("ab") as file:
            file.write(b"\0")
        needed = ("model.json", "SHA-256 differs")
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    done = predict(finished, tmp_path)
    assert_error(done, 2, *needed)
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def predict(training: Training, folder: Path) -> Done:
    command = [sys.executable, str(ROOT / "scripts" / "predict.py"), "--input"]
    command += [str(training.data / "imagesTs"), "--output", str(folder / "out")]
    command += ["--weights", str(training.models / "model.pt")]
    command += ["--config_file", str(folder / "plan.json")]
    with started(command, folder / "predict") as running:
        return running.wait()


@pytest.mark.parametrize("where", ["overlay", pytest.param("command line", marks=pytest.mark.slow)])
def test_a_misspelt_id(runs: Runs, tmp_path: Path, where: str) -> None:
    training = runs.training(tmp_path)
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"learning_rat": 0.1}))
    done = (
        training.run(configs=[str(overlay)]) if where == "overlay" else training.run(learning_rat=1)
    )
    source = str(overlay) if where == "overlay" else "the command line"
    assert_error(done, 2, f'{source} sets "learning_rat"', 'did you mean "learning_rate"?')
    assert not training.models.exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"num_folds": 7}, ("6 cases", "7 folds", "--num_folds"), id="few"),
        pytest.param({"fold": 3}, ("no fold 3", "from 0 to 2"), marks=pytest.mark.slow, id="fold"),
        pytest.param({"cases": 1}, ("1 case ", "--num_folds"), marks=pytest.mark.slow, id="one"),
        pytest.param(
            {"splits": [{"train": ["phantom_000"], "val": []}]},
            ("splits.json", '"val"'),
            marks=pytest.mark.slow,
            id="empty",
        ),
    ],
)
def test_folds_that_cannot_be(
    own_phantom: Path, tmp_path: Path, settings: dict[str, Any], words: tuple[str, ...]
) -> None:
    settings = dict(settings)
    training = Training(tmp_path / "own", own_phantom, tmp_path / "store")
    if "cases" in settings:
        description = json.loads((own_phantom / "dataset.json").read_text())
        kept = description["training"][: settings.pop("cases")]
        edit_json(own_phantom / "dataset.json", training=kept, numTraining=len(kept))
    if "splits" in settings:
        splits = tmp_path / "splits.json"
        splits.write_text(json.dumps(settings.pop("splits")))
        settings["splits_file"] = splits
    done = training.run(**settings)
    assert_error(done, 2, *words)
    assert not list(training.folder.rglob("*.pt"))

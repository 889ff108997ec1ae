"""scripts/train.py as called by users and clusters: stop, resume, skip, summarise."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, run_script

PLAN = ("filters", "kernel_sizes", "strides", "patch_size", "spacing", "label_names")
FLAGS = {
    "num_folds": 2,
    "device": "cpu",
    "epochs": 2,
    "iterations_per_epoch": 30,
    "val_interval": 1,
    "num_workers": 1,
}
STOP_AFTER_S = 120
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


class Run:
    """A run folder and the command that trains into it."""

    def __init__(self, folder: Path, dataset: Path) -> None:
        self.out = folder / "my run"
        self.dataset = dataset
        overlay = folder / "tiny.json"
        overlay.write_text(json.dumps({name: TINY[name] for name in PLAN}))
        flags = [text for name, value in FLAGS.items() for text in (f"--{name}", str(value))]
        self.arguments = [
            *("--task_config", overlay, "--dataset_dir", dataset, "--out", self.out),
            *flags,
        ]

    def __call__(self, *more: str) -> subprocess.CompletedProcess[str]:
        return run_script("train", *self.arguments, *more, env=ONE_THREAD)

    def start(self) -> subprocess.Popen[str]:
        script = ROOT / "scripts" / "train.py"
        command = [sys.executable, str(script), *map(str, self.arguments)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ONE_THREAD
        )

    def json(self, name: str) -> Any:
        return json.loads((self.out / name).read_text())

    def times(self) -> dict[str, int]:
        """Modification time of each file, except locks and the summary."""
        files = (path for path in self.out.rglob("*") if path.is_file())
        names = {str(path.relative_to(self.out)): path.stat().st_mtime_ns for path in files}
        return {name: at for name, at in names.items() if not name.endswith("summary.json")}


@pytest.fixture(scope="module")
def stopped(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, int, str]:
    """A run that was signalled to stop during the training of its first fold: its exit code and output."""
    run = Run(tmp_path_factory.mktemp("folds"), phantom)
    process = run.start()
    # in its second epoch; before the first iteration there would be nothing to save
    saved = run.out / "fold_0" / "models" / "checkpoint_last.pt"
    deadline = time.monotonic() + STOP_AFTER_S
    while not saved.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=STOP_AFTER_S)[0]
    return run, process.returncode, text


@pytest.fixture(scope="module")
def finished(stopped: tuple[Run, int, str]) -> tuple[Run, subprocess.CompletedProcess[str]]:
    """The same command again, to the end."""
    run = stopped[0]
    # the state after the stop, before the next run changes it
    assert not (run.out / "fold_1").exists()
    assert not (run.out / "cross_validation" / "summary.json").exists()
    return run, run()


def test_a_signal_stops_the_fold_and_the_next_ones(stopped: tuple[Run, int, str]) -> None:
    run, code, text = stopped
    assert code == 75, text
    assert "stopped by SIGTERM" in text
    assert (run.out / "fold_0" / "models" / "checkpoint_last.pt").is_file()


def test_the_same_command_goes_on_and_trains_all_folds(
    finished: tuple[Run, subprocess.CompletedProcess[str]],
) -> None:
    run, done = finished
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming after" in done.stderr
    for fold in (0, 1):
        assert run.json(f"fold_{fold}/run/status.json")["state"] == "finished"
        assert torch.load(run.out / f"fold_{fold}/models/model.pt", weights_only=True)
    assert len(list((run.out / "prepared").glob("*.image.npy"))) == 6
    assert re.search(r"^all cases +6 ", done.stdout, re.MULTILINE)


def test_every_case_is_predicted_by_the_model_that_has_not_seen_it(
    finished: tuple[Run, subprocess.CompletedProcess[str]],
) -> None:
    run = finished[0]
    masks = run.out / "cross_validation" / "predictions"
    images = sorted(path.name for path in (run.dataset / "imagesTr").iterdir())
    assert sorted(path.name for path in masks.iterdir()) == images
    for name in images:
        mask, image = nib.load(masks / name), nib.load(run.dataset / "imagesTr" / name)
        assert mask.shape == image.shape
        assert np.array_equal(mask.affine, image.affine)
    summary = run.json("cross_validation/summary.json")
    assert summary["missing_folds"] == []
    for fold in (0, 1):
        # the scores are those of the training itself
        facts = run.json(f"fold_{fold}/models/model.json")
        scores = run.json(f"cross_validation/fold_{fold}.json")
        assert scores["basis"]["weights_sha256"] == facts["sha256"]
        assert summary["by_fold"][str(fold)]["mean_dice"] == scores["mean_dice"]
        own = [name for name, case in summary["cases"].items() if case["fold"] == fold]
        assert sorted(own) == sorted(scores["held_out"][fold])


def test_the_masks_are_those_that_were_scored(
    finished: tuple[Run, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    run = finished[0]
    done = run_script(
        "evaluate",
        *("--predictions", run.out / "cross_validation" / "predictions"),
        *("--labels", run.dataset / "labelsTr", "--label_names", *TINY["label_names"]),
        *("--output", tmp_path / "scores.json"),
    )
    assert done.returncode == 0, done.stderr
    summary = run.json("cross_validation/summary.json")
    again = json.loads((tmp_path / "scores.json").read_text())
    assert again["cases"] == {name: case["dice"] for name, case in summary["cases"].items()}
    assert again["mean"] == pytest.approx(summary["mean"])


def test_what_is_done_is_not_done_again(
    finished: tuple[Run, subprocess.CompletedProcess[str]],
) -> None:
    run = finished[0]
    before = run.times()
    done = run()
    assert done.returncode == 0, done.stderr
    assert "monai.bundle run" not in done.stderr
    assert run.times() == before
    # one fold of a job array, and its part of the table
    (run.out / "cross_validation" / "fold_0.json").rename(run.out / "aside")
    done = run("--fold", "1")
    (run.out / "aside").rename(run.out / "cross_validation" / "fold_0.json")
    assert done.returncode == 0, done.stderr
    assert "incomplete: of 2 folds these are missing: 0" in done.stdout
    done = run("--collect")
    assert done.returncode == 0, done.stderr
    assert "missing" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fold", "2"], "there is no fold 2, only 2 folds"),
        (["--epocs", "3"], 'did you mean "epochs"'),
        (["--spacing", "[3.0, 3.0, 3.0]"], "is of another plan (spacing: [2.0, 2.0, 2.0]"),
        (["--num_folds", "3"], "is of another split: 2 folds against 3"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    finished: tuple[Run, subprocess.CompletedProcess[str]], arguments: list[str], message: str
) -> None:
    run = finished[0]
    before = run.times()
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert run.times() == before


def test_a_training_that_fails_ends_the_run_with_its_code(phantom: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, phantom)
    done = run("--pretrained", str(tmp_path / "none.pt"))
    assert done.returncode == 2, done.stdout
    assert "none.pt" in done.stderr
    assert not (run.out / "fold_1").exists()


@pytest.mark.parametrize("script", ["train", "slurm"])
def test_the_scripts_explain_themselves(script: str) -> None:
    done = run_script(script, "--help")
    assert done.returncode == 0
    assert f"dynunet-bundle {script} " in done.stdout

"""Whatever happens while a state is saved, a good one is left, and the same command goes on from it."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from conftest import BUNDLE, ROOT
from fault_checks import LAST, PREVIOUS, Done, assert_error, assert_same_end, load, names
from fault_runs import (  # noqa: F401 - the_runs is a fixture
    TIMEOUT_S,
    Runs,
    probe,
    the_runs,
)

pytestmark = pytest.mark.fault

KILLED = -9
LIMIT = 700_000
"""Bytes: more than the weights take, less than the state of the training."""


@pytest.mark.parametrize("number", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_in_the_middle_of_a_save(runs: Runs, tmp_path: Path, number: int) -> None:
    training = runs.training(tmp_path)
    done = training.run(probe("KillInSave", number=number))
    assert done.code == KILLED, done.text
    (half,) = training.models.glob(".*.part")
    whole_size = (runs.whole() / LAST).stat().st_size
    assert half.stat().st_size == pytest.approx(whole_size / 2, rel=0.05)
    if number > 1:
        # the file is whole, and of the state before
        assert load(training.models / LAST)["epoch"] == number - 1
    else:
        assert names(training.models) == {half.name, "model.pt", "model.json"}
    training.finish()
    assert_same_end(training.models, runs.whole())


def test_a_damaged_state_gives_way_to_the_generation_before(
    runs: Runs,
    tmp_path: Path,
) -> None:
    training = runs.training(tmp_path)
    shutil.copytree(runs.whole(), training.models)
    last = training.models / LAST
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    done = training.finish()
    assert f"{last} is damaged" in done.text
    assert "loading the previous state instead" in done.text
    assert f"resuming after epoch 2 of {last}" in done.text
    for name in (LAST, PREVIOUS):
        assert load(training.models / name)["epoch"] == {LAST: 3, PREVIOUS: 2}[name]
    # what was damaged is kept for those who want to know
    last.with_suffix(".damaged").unlink()
    assert_same_end(training.models, runs.whole())


def test_a_quota_that_is_used_up(runs: Runs, tmp_path: Path) -> None:
    training = runs.training(tmp_path)
    done = training.run(probe("LimitFiles", num_bytes=LIMIT, at=3))
    last = training.models / LAST
    line = assert_error(done, 2, f"cannot write {last}", "File too large", "Free space")
    assert "It needs more than 0." in line
    assert names(training.models) == {LAST, "model.pt", "model.json"}
    assert load(last)["epoch"] == 1
    assert training.status()["state"] == "failed"
    assert "File too large" in training.status()["message"]
    training.finish()
    assert_same_end(training.models, runs.whole())


def test_a_disk_that_is_full_before_the_start(runs: Runs, tmp_path: Path) -> None:
    """Not a single byte can be written; the output goes to pipes, which have no such limit."""
    training = runs.training(tmp_path)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    ended = subprocess.run(
        training.command(),
        cwd=BUNDLE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    done = Done(ended.returncode, ended.stdout, ended.stderr)
    assert_error(done, 2, f"cannot write to {training.models}: File too large")
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_disk_that_is_full_for_a_thread_of_tensorboard(runs: Runs, tmp_path: Path) -> None:
    training = runs.training(tmp_path)
    done = training.run(probe("FullForTensorBoard", at=3))
    assert_error(done, 2, f"cannot write {training.run_dir}: No space left", "Free space")
    assert load(training.models / LAST)["epoch"] == 1
    assert training.status()["state"] == "failed"


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; skips where it may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full(runs: Runs, tmp_path: Path) -> None:
    """Nothing at all can be written any more: neither the state nor a word about it."""
    with small_disk(tmp_path / "disk", "5m") as disk:
        folders = {"ckpt_dir": disk / "models", "output_dir": disk / "run"}
        training = runs.training(tmp_path, **folders)
        models = disk / "models"
        filler = disk / "filler"
        done = training.run(probe("FillDisk", path=str(filler), at=3))
        # whichever comes first
        assert_error(done, 2, f"cannot write {disk}", "No space left on device", "Free space")
        assert names(models) == {LAST, "model.pt", "model.json"}
        assert load(models / LAST)["epoch"] == 1
        filler.unlink()
        training.finish()
        assert_same_end(models, runs.whole())


@pytest.mark.slow
def test_a_disk_that_is_full_for_predictions(runs: Runs, tmp_path: Path) -> None:
    model = runs.whole() / "model.pt"
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(json.loads(model.with_suffix(".json").read_text())["plan"]))
    command = [sys.executable, str(ROOT / "scripts" / "predict.py"), "--weights", str(model)]
    command += ["--input", str(runs.data / "imagesTs"), "--output", str(tmp_path / "out")]
    command += ["--config_file", str(plan)]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
    # its output goes to a pipe, which has no such limit
    done = subprocess.run(
        command, preexec_fn=limit, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    # what is written first: which cases there are
    words = (f"cannot write {tmp_path / 'out' / 'run.json'}", "File too large")
    assert_error(Done(done.returncode, done.stdout, done.stderr), 2, *words)
    assert names(tmp_path / "out") == set()

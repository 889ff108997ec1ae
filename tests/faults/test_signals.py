"""A training that is told to stop saves, exits with 75, and goes on as if nothing had happened."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from fault_checks import LAST, assert_same_end, load, names
from fault_runs import (  # noqa: F401 - the_runs is a fixture
    Runs,
    probe,
    the_runs,
    wait_until_gone,
)

pytestmark = pytest.mark.fault

TORCHRUN_GRACE_S = 30.0
"""What torchrun gives its processes before it kills them."""


def pause(folder: Path, at: int, *, validating: bool = False, **settings: Any) -> dict[str, Any]:
    evaluator = {"evaluator": "@validate#evaluator"} if validating else {}
    return probe("Pause", folder=str(folder), at=at, rank="@rank", **evaluator, **settings)


def pids(folder: Path) -> list[int]:
    return [int((folder / f"pid_{rank}").read_text()) for rank in (0, 1)]


def test_sigterm_stops_one_process_with_code_75(runs: Runs, tmp_path: Path) -> None:
    training = runs.training(tmp_path)
    with training.running(pause(tmp_path, 3, until="signal")) as running:
        running.wait_for(tmp_path / "paused_0")
        running.send(signal.SIGTERM)
        done = running.wait()
    assert done.code == 75, done.text
    assert "stopped by SIGTERM; run the same command again to resume" in done.text
    assert "Traceback" not in done.errors
    state = load(training.models / LAST)
    assert (state["epoch"], state["iteration"], state["is_unfinished"]) == (1, 3, False)
    assert training.status()["state"] == "stopped"
    training.finish()
    assert_same_end(training.models, runs.whole())
    assert training.status()["state"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("validating", [False, True], ids=["iteration", "validation"])
def test_sigterm_to_torchrun_stops_all_processes_together(
    runs: Runs,
    tmp_path: Path,
    validating: bool,
) -> None:
    training = runs.training(tmp_path, processes=2)
    at = 2 if validating else 3
    probes = [
        pause(tmp_path, at, until="signal", validating=validating),
        probe("ExitCode", folder=str(tmp_path), rank="@rank"),
    ]
    with training.running(*probes) as running:
        running.wait_for(tmp_path / "paused_0")
        sent = running.send(signal.SIGTERM)
        done = running.wait()
    # beyond this torchrun kills
    assert time.monotonic() - sent < TORCHRUN_GRACE_S
    assert done.code == 1, done.text
    assert [(tmp_path / f"exit_{rank}").read_text() for rank in (0, 1)] == ["75", "75"]
    assert "run the same command again to resume" in done.text
    wait_until_gone(pids(tmp_path), 5)
    state = load(training.models / LAST)
    assert (state["epoch"], state["iteration"]) == (0 if validating else 1, at)
    assert (state["is_unfinished"], state["world_size"]) == (validating, 2)
    assert training.status()["state"] == "stopped"
    training.finish()
    assert_same_end(training.models, runs.whole(processes=2))


@pytest.mark.slow
def test_a_signal_to_one_process_stops_the_other_too(runs: Runs, tmp_path: Path) -> None:
    """torchrun's report names the code 75, by which a scheduler's script can tell a stop from a failure."""
    training = runs.training(tmp_path, processes=2)
    with training.running(pause(tmp_path, 3, until="signal", only=1)) as running:
        running.wait_for(tmp_path / "paused_1")
        os.kill(int((tmp_path / "paused_1").read_text()), signal.SIGUSR1)
        done = running.wait()
    assert done.code == 1
    assert "exitcode  : 75" in done.errors
    assert load(training.models / LAST)["iteration"] == 3
    assert training.status()["state"] == "stopped"
    assert "a signal to another process" in training.status()["message"]
    training.finish()
    assert_same_end(training.models, runs.whole(processes=2))


@pytest.mark.slow
@pytest.mark.parametrize("validating", [False, True], ids=["iteration", "validation"])
def test_a_process_that_dies_takes_the_others_along(
    runs: Runs,
    tmp_path: Path,
    validating: bool,
) -> None:
    training = runs.training(tmp_path, processes=2)
    with training.running(pause(tmp_path, 4, until="file", only=1, validating=validating)) as run:
        run.wait_for(tmp_path / "paused_1")
        first, second = pids(tmp_path)
        os.kill(second, signal.SIGKILL)
        done = run.wait(60)
        wait_until_gone([first], 5)
    assert done.code != 0
    assert f"exitcode  : -9 (pid: {second})" in done.errors
    state = load(training.models / LAST)
    if not validating:
        assert (state["epoch"], state["iteration"]) == (1, 2)
        assert names(training.models) == {LAST, "model.pt", "model.json"}
    training.finish()
    assert_same_end(training.models, runs.whole(processes=2))

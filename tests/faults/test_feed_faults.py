"""A process that reads for the feed dies, or finds a damaged file: the training ends with the reason, and soon."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from fault_checks import LAST, assert_error, assert_same_end, load
from fault_runs import (  # noqa: F401 - the_runs is a fixture
    Running,
    Runs,
    Training,
    children,
    probe,
    the_runs,
)

pytestmark = pytest.mark.fault

SECONDS = 60
OVERRIDES = {"feed_workers": 1}


def pause(folder: Path) -> dict[str, Any]:
    return probe("Pause", folder=str(folder), at=3, until="file")


def workers(running: Running) -> list[int]:
    lines = children(running.process.pid)
    return [pid for pid, line in lines.items() if "multiprocessing.spawn" in line]


@pytest.mark.slow
def test_a_worker_that_is_killed(runs: Runs, tmp_path: Path) -> None:
    training = runs.training(tmp_path, **OVERRIDES)
    with training.running(pause(tmp_path)) as running:
        running.wait_for(tmp_path / "paused_0")
        (worker,) = workers(running)
        os.kill(worker, signal.SIGKILL)
        # at once: DALI waits for ever for a worker that dies while it is handed work
        (tmp_path / "go_on").touch()
        done = running.wait(SECONDS)
    assert_error(done, 1, "a worker process of the feed was killed", "feed_workers")
    assert load(training.models / LAST)["epoch"] == 1
    assert training.status()["state"] == "failed"
    # the number of workers changes nothing
    training.finish()
    assert_same_end(training.models, runs.whole())


@pytest.mark.slow
@pytest.mark.parametrize("feed_workers", [0, 1])
def test_a_store_that_is_damaged_during_the_training(
    runs: Runs,
    tmp_path: Path,
    feed_workers: int,
) -> None:
    runs.whole()
    store = Path(shutil.copytree(runs.root / "prepared", tmp_path / "store"))
    training = Training(tmp_path, runs.data, store, overrides=(("feed_workers", feed_workers),))
    # before the first batch is asked for, after all cases were found whole
    with training.running(
        probe("DamageStore", store=str(store), dataset="@train#dataset")
    ) as running:
        done = running.wait(SECONDS + 60)
    line = assert_error(
        done, 2, "its prepared file", "missing or damaged", "prepares the case again"
    )
    assert "case phantom_" in line
    training.finish()
    assert_same_end(training.models, runs.whole())

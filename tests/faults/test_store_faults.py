"""The store is complete, or only its damaged cases are prepared again."""

import json
import re
import resource
import shutil
import signal
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from fault_checks import Done, assert_error, names
from fault_runs import (  # noqa: F401 - the_runs is a fixture
    LARGER,
    Running,
    Runs,
    Training,
    started,
    the_runs,
)

pytestmark = pytest.mark.fault

LIMIT = 20_000
"""Bytes: less than the image of a case."""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """The plan of the trainings as an overlay."""
    ids = ("filters", "kernel_sizes", "strides", "patch_size", "spacing", "label_names")
    path = tmp_path / "plan.json"
    settings = {name: {**TINY, **LARGER}[name] for name in (*ids, "num_folds", "num_workers")}
    path.write_text(json.dumps(settings))
    return path


def preparation(data: Path, store: Path, plan: Path) -> AbstractContextManager[Running]:
    command = [sys.executable, str(ROOT / "scripts" / "prepare.py"), "--dataset_dir", str(data)]
    command += ["--config_file", str(plan), "--prepared_dir", str(store)]
    return started(command, store.with_name(f"log_{time.monotonic_ns()}"))


def prepare(data: Path, store: Path, plan: Path) -> Done:
    with preparation(data, store, plan) as running:
        done = running.wait()
    assert done.code == 0, done.text
    return done


def content(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir() if path.suffix != ".lock"}


@pytest.fixture
def whole(runs: Runs) -> Path:
    """The store of the trainings; not to be changed."""
    runs.whole()
    return runs.root / "prepared"


def test_damaged_cases_are_prepared_again_alone(
    runs: Runs,
    whole: Path,
    plan: Path,
    tmp_path: Path,
) -> None:
    store = Path(shutil.copytree(whole, tmp_path / "store"))
    ages = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    stems = sorted(path.stem for path in store.glob("*.json"))
    image, label = store / f"{stems[0]}.image.npy", store / f"{stems[1]}.label.npy"
    image.write_bytes(image.read_bytes()[:-1000])
    label.write_bytes(bytes(label.stat().st_size))
    (store / f"{stems[2]}.json").write_text("garbage")
    (store / f"{stems[3]}.positions.npy").unlink()
    done = prepare(runs.data, store, plan)
    for damaged in (image, label):
        case = damaged.name.split("-")[0]
        assert f"{damaged.name} is damaged; preparing {case} again" in done.text
    # what is damaged is spread over both parts of the fold
    counts = re.findall(r" preparing (\d+) of ", done.text)
    assert sum(map(int, counts)) == 4
    assert content(store) == content(whole)
    kept = {name for name, age in ages.items() if (store / name).stat().st_mtime_ns == age}
    assert {name for name in ages if name.startswith((stems[4], stems[5]))} == kept


@pytest.mark.slow
def test_two_that_prepare_the_same_store_at_once(
    runs: Runs,
    whole: Path,
    plan: Path,
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    places = (runs.data, store, plan)
    with preparation(*places) as first, preparation(*places) as second:
        for running in (first, second):
            done = running.wait()
            assert done.code == 0, done.text
    assert content(store) == content(whole)


@pytest.mark.slow
def test_a_preparation_that_is_killed_goes_on(
    runs: Runs,
    whole: Path,
    plan: Path,
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    with preparation(runs.data, store, plan) as running:
        while not list(store.glob("*.npy")):
            assert running.process.poll() is None
            time.sleep(0.002)
        running.send(signal.SIGKILL)
        assert running.wait().code == -signal.SIGKILL
    assert len(list(store.glob("*.json"))) < 6
    prepare(runs.data, store, plan)
    assert content(store) == content(whole)


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))


def test_a_disk_that_is_too_small_for_the_store(runs: Runs, tmp_path: Path) -> None:
    training = Training(tmp_path, runs.data, tmp_path / "store")
    done = training.run(before=limit_files)
    line = assert_error(done, 2, f"cannot write {training.store}", ".image.npy", "Free space")
    assert "MB free" in line
    assert names(training.store) - {".lock"} == set()
    assert names(training.models) == set()

"""Two processes that want one folder: the second is refused and told who works there; the dead hold nothing."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import BUNDLE, ROOT, TINY
from fault_checks import Done, assert_error, assert_same_end
from fault_runs import (  # noqa: F401 - the_runs is a fixture
    TIMEOUT_S,
    Runs,
    Training,
    probe,
    the_runs,
)
from helpers.package_cases import NAME, request_for
from helpers.predictions import run_of, save_cases, threshold_weights

from dynunet_bundle.delivery.package.make import make_package
from dynunet_bundle.errors import BusyError, OutputError
from dynunet_bundle.files import writer
from dynunet_bundle.machine import locks
from dynunet_bundle.machine.locks import ProcessLock, claim, exclusive, release_claims

pytestmark = pytest.mark.fault

HOLDER = """
import errno, fcntl, os, sys, time
from pathlib import Path
mode, path = sys.argv[1], Path(sys.argv[2])
if "nfs" in mode:
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = refuse
from dynunet_bundle.machine.locks import ProcessLock
lock = ProcessLock(path, path.name.split(".")[1])
if "race" in mode:
    while not path.with_name("go").exists():
        pass
try:
    lock.acquire()
except OSError as error:
    raise SystemExit(3) from error
except ValueError as error:
    print(error)
    raise SystemExit(2) from error
print("held", flush=True)
if "fork" in mode and os.fork() == 0:
    time.sleep(60)
sys.stdin.read()
if "end" in mode:
    lock.release()
"""
"""Holds a lock until its input ends. Modes: nfs, race, fork, end."""

BOTH = pytest.mark.parametrize("mode", ["flock", "nfs"])


def start_holder(mode: str, path: Path) -> subprocess.Popen[str]:
    # a process group of its own, so that what it forks ends with it
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, mode, str(path)],
        env={**os.environ, "PYTHONPATH": str(BUNDLE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def holding(mode: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock; it is gone when the block ends."""
    holder = start_holder(mode, path)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        yield holder
    finally:
        end(holder)


def end(holder: subprocess.Popen[str]) -> None:
    """Kill it and what it forked."""
    with suppress(ProcessLookupError):
        os.killpg(holder.pid, signal.SIGKILL)
    holder.wait()
    for pipe in (holder.stdin, holder.stdout):
        if pipe is not None:
            pipe.close()


@pytest.fixture(name="use")
def use_of_flock(monkeypatch: pytest.MonkeyPatch) -> object:
    """``use("nfs")``: this process works on a file system without flock."""

    def use(mode: str) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        if mode == "nfs":
            monkeypatch.setattr(fcntl, "flock", refuse)

    yield use
    release_claims()


def names(folder: Path) -> set[str]:
    """Names of all files in a folder, lock files included."""
    return {path.name for path in folder.iterdir()}


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Names, sizes and times of all that is in a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in found}


@BOTH
def test_the_second_is_refused_and_told_who_holds_the_folder(tmp_path, use, mode) -> None:
    use(mode)
    path = tmp_path / ".training.lock"
    with holding(mode, path) as holder:
        before = state_of(tmp_path)
        with pytest.raises(BusyError) as caught:
            claim(tmp_path, "training")
        text = str(caught.value)
        assert f"{tmp_path} is in use by a training: process {holder.pid} of this machine" in text
        assert "Wait until it ends, stop it, or choose another folder." in text
        # by hand it need not be removed while its process is there to be seen
        assert (f"remove {path}" in text) == (mode == "nfs")
        assert state_of(tmp_path) == before
        claim(tmp_path, "prediction")


@BOTH
def test_a_holder_that_ends_leaves_nothing(tmp_path, mode) -> None:
    with holding(f"{mode} end", tmp_path / ".training.lock") as holder:
        holder.communicate()
        assert holder.returncode == 0
    assert names(tmp_path) == set()


@BOTH
def test_a_holder_that_was_killed_holds_nothing(tmp_path, use, mode) -> None:
    use(mode)
    path = tmp_path / ".training.lock"
    with holding(mode, path) as holder:
        holder.send_signal(signal.SIGKILL)
        # a zombie until it is waited for, as in a container without an init
        deadline = time.monotonic() + 30
        while Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline
        claim(tmp_path, "training")
    assert path.read_text().split("\t")[0] == writer()
    release_claims()
    assert names(tmp_path) == set()


def test_a_worker_that_outlives_its_killed_parent_holds_nothing(tmp_path) -> None:
    with holding("flock fork", tmp_path / ".training.lock") as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        claim(tmp_path, "training")
    release_claims()


def test_a_fork_of_the_holder_neither_holds_nor_releases(tmp_path) -> None:
    claim(tmp_path, "training")
    child = os.fork()
    if child == 0:
        release_claims()
        os._exit(0)
    os.waitpid(child, 0)
    other = start_holder("flock", tmp_path / ".training.lock")
    assert f"process {os.getpid()} of this machine" in other.communicate(timeout=60)[0]
    assert other.returncode == 2
    release_claims()


def test_of_another_machine_nothing_is_known(tmp_path, use) -> None:
    use("nfs")
    path = tmp_path / ".training.lock"
    path.write_text("00c0ffee-1-1\t2026-01-01 00:00 UTC\ttraining\n")
    text = rf"process 1 of another machine \(00c0ffee\), since 2026.*remove {path}"
    with pytest.raises(BusyError, match=text):
        claim(tmp_path, "training")
    path.unlink()
    claim(tmp_path, "training")


@pytest.mark.parametrize("content", ["", "garbage", "\t\t\n", "00c0ffee-1-1\t\x1b[31m\tx\n", "ü"])
def test_a_file_that_says_nothing_is_somebodys(tmp_path, use, content) -> None:
    path = tmp_path / ".training.lock"
    path.write_text(content)
    claim(tmp_path, "training")
    release_claims()
    use("nfs")
    path.write_text(content)
    with pytest.raises(BusyError, match="in use by a training: another run. Wait"):
        claim(tmp_path, "training")


def test_a_process_number_that_was_given_again_is_another_process(tmp_path, use) -> None:
    use("nfs")
    host, number, start = writer().split("-")
    other = f"{host}-{number}-{int(start) + 1}"
    (tmp_path / ".training.lock").write_text(f"{other}\t2026-01-01 00:00 UTC\ttraining\n")
    claim(tmp_path, "training")


@BOTH
def test_of_many_that_find_a_dead_holder_one_takes_over(tmp_path, mode) -> None:
    path = tmp_path / ".training.lock"
    with holding(mode, path) as dead:
        pass
    assert path.exists() and dead.returncode == -signal.SIGKILL
    others = [start_holder(f"{mode} race", path) for _ in range(6)]
    time.sleep(1)
    (tmp_path / "go").touch()
    said = [other.stdout.readline() for other in others if other.stdout is not None]
    for other in others:
        end(other)
    assert said.count("held\n") == 1, said
    winner = others[said.index("held\n")]
    refused = [line for line in said if line != "held\n"]
    # one that asks before the winner has written its name does not learn it
    assert all(f"process {winner.pid}" in line or "another run" in line for line in refused), said


@BOTH
def test_who_may_wait_gets_the_lock_when_it_is_free(tmp_path, use, log, mode) -> None:
    use(mode)
    path = tmp_path / ".lock"
    with holding(f"{mode} end", path) as holder:
        killed = False

        def poll(_: float) -> None:
            nonlocal killed
            killed = True
            holder.kill()
            holder.wait()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(locks.time, "sleep", poll)
            with exclusive(path, "preparation"):
                assert killed
    assert f"process {holder.pid} of this machine" in log.text and "waiting for it" in log.text
    assert names(tmp_path) == set()


def test_a_lock_that_cannot_be_written_is_an_output_error(tmp_path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / ".training.lock").symlink_to(tmp_path / "target")
    with pytest.raises(OutputError, match="cannot write .*training.lock"):
        claim(tmp_path, "training")
    with pytest.raises(OutputError, match="cannot write .*nowhere"):
        ProcessLock(tmp_path / "nowhere" / ".lock", "training").acquire()


# --- real commands


def test_a_second_training_is_refused_and_one_after_a_kill_goes_on(
    runs: Runs, tmp_path: Path
) -> None:
    training = runs.training(tmp_path)
    pause = probe("Pause", folder=str(tmp_path), at=3, until="signal", rank="@rank")
    with training.running(pause) as first:
        first.wait_for(tmp_path / "paused_0")
        number = int((tmp_path / "paused_0").read_text())
        before = {**state_of(training.models), **state_of(training.run_dir)}
        done = Training(tmp_path, runs.data, tmp_path / "own store").run()
        assert_error(done, 2, f"in use by a training: process {number} of this machine")
        assert {**state_of(training.models), **state_of(training.run_dir)} == before
        assert names(tmp_path / "own store") == set()
        first.send(signal.SIGKILL)
        first.wait()
    training.finish()
    assert_same_end(training.models, runs.whole())
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize("shared", ["ckpt_dir", "output_dir"])
def test_one_folder_in_common_is_enough(tmp_path: Path, train_workflow, shared: str) -> None:
    folders = {"ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "run"}
    folders[shared].mkdir()
    with holding("flock", folders[shared] / ".training.lock") as holder:
        text = f"{folders[shared]} is in use by a training: process {holder.pid} of this machine"
        with pytest.raises(BusyError, match=text):
            train_workflow().run()
        assert names(folders[shared]) == {".training.lock"}
    assert not list(tmp_path.rglob("*.tfevents*"))
    # what it had taken it has given back
    train_workflow(epochs=1).run()
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.slow
def test_torchrun_is_refused_too(runs: Runs, tmp_path: Path) -> None:
    training = runs.training(tmp_path, processes=2)
    training.models.mkdir()
    with holding("flock", training.models / ".training.lock") as holder:
        done = training.run()
        assert done.code != 0
        assert f"in use by a training: process {holder.pid} of this machine" in done.errors
        assert names(training.models) == {".training.lock"}
        assert names(training.run_dir) == set()


def test_a_second_prediction_is_refused(tmp_path: Path) -> None:
    save_cases(tmp_path / "images", "a")
    weights = threshold_weights(tmp_path / "model.pt")
    overlay = tmp_path / "overlay.json"
    network = {"in_channels": 1, "out_channels": 3, "kernel_size": 1}
    network_def = {"_target_": "torch.nn.Conv3d", **network}
    overlay.write_text(json.dumps({"patch_size": [24] * 3, "network_def": network_def}))
    out, report = tmp_path / "out", tmp_path / "report.html"
    out.mkdir()
    command = [sys.executable, str(ROOT / "scripts" / "predict.py"), "--weights", str(weights)]
    command += ["--input", str(tmp_path / "images"), "--output", str(out), "--device", "cpu"]
    command += ["--config_file", str(overlay), "--report", str(report), "--json"]
    command += ["--trust"]

    def predict() -> Done:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(BUNDLE)},
            capture_output=True,
            text=True,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    with holding("flock", out / ".prediction.lock") as holder:
        done = predict()
        assert_error(done, 2, f"in use by a prediction: process {holder.pid} of this machine")
        assert names(out) == {".prediction.lock"} and not report.exists()
        assert "status" not in done.output
    assert predict().code == 0
    assert run_of(out)["status"] == "finished"
    assert names(out) == {"a.nii.gz", "run.json"}


def test_a_second_package_of_a_name_is_refused(tmp_path: Path) -> None:
    request = request_for(tmp_path)
    request.output.mkdir()
    path = request.output / f".{NAME}.lock"
    with holding("flock", path) as holder:
        with pytest.raises(BusyError, match=f"process {holder.pid} of this machine"):
            make_package(request)
        assert names(request.output) == {path.name}
    package = make_package(request)
    assert names(request.output) == {package.folder.name, package.archive.name}


def test_a_store_that_was_prepared_meanwhile_is_not_prepared_again(
    runs: Runs, tmp_path: Path, train_workflow, log
) -> None:
    runs.whole()
    store = runs.root / "prepared"
    settings = {**TINY, "dataset_dir": runs.data, "prepared_dir": str(tmp_path / "store")}
    dataset = train_workflow(**settings).parser.get_parsed_content("train#dataset")
    (tmp_path / "store").mkdir()
    with holding("flock", tmp_path / "store" / ".lock") as holder:

        def meanwhile(_: float) -> None:
            for file in store.iterdir():
                (tmp_path / "store" / file.name).write_bytes(file.read_bytes())
            holder.kill()
            holder.wait()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(locks.time, "sleep", meanwhile)
            cases = dataset.cases()
    assert len(cases) == len(dataset) and "waiting for it" in log.text
    assert "preparing" not in log.text
    assert all(np.load(case.image).size for case in cases)


def test_a_holder_that_has_not_written_its_name_yet_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".package.lock"
    name = f"{writer()}\t2026-01-01 00:00 UTC\tpackage\n"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def write() -> None:
            file.write(name)
            file.flush()

        threading.Timer(0.3, write).start()
        with pytest.raises(BusyError, match=rf"process {os.getpid()} of this machine"):
            ProcessLock(path, "package").acquire()

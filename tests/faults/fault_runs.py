"""Trainings that tests start as users do, in processes of their own, and damage while they run."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE, TINY, fork_server
from fault_checks import Done

LARGER = {"epochs": 3, "filters": [8, 16, 32]}
"""Two epochs and two generations to lose; a state larger than all other files together."""

TRAIN = "configs/train.json"
SEVERAL = "configs/multi_gpu_train.json"
TIMEOUT_S = 240.0
"""Far beyond what any of these takes; a process that hangs is ended, and the test fails."""

Probe = dict[str, Any]


class Running:
    """A process with its output in files, so that no pipe can fill and block it."""

    def __init__(self, command: Sequence[str], log: Path, **settings: Any) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.files = (log.with_suffix(".out"), log.with_suffix(".err"))
        with self.files[0].open("wb") as output, self.files[1].open("wb") as errors:
            self.process = subprocess.Popen(
                command, cwd=BUNDLE, stdout=output, stderr=errors, **settings
            )

    def wait_for(self, path: Path) -> None:
        """Until the process, or one that it started, has written a file."""
        deadline = time.monotonic() + TIMEOUT_S
        while not path.exists():
            assert self.process.poll() is None, f"it ended before {path.name}: {self._text()}"
            assert time.monotonic() < deadline, f"no {path.name}: {self._text()}"
            time.sleep(0.05)

    def wait(self, timeout: float = TIMEOUT_S) -> Done:
        """Until it ends by itself."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it hangs: {self._text()}")
        output, errors = (file.read_text(errors="replace") for file in self.files)
        return Done(code, output, errors)

    def send(self, number: int) -> float:
        """Send a signal; the time it was sent."""
        self.process.send_signal(number)
        return time.monotonic()

    def end(self) -> None:
        """Make sure that it is gone, and what it started."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(40)
            self.process.kill()
            self.process.wait()

    def _text(self) -> str:
        return "".join(file.read_text(errors="replace")[-3000:] for file in self.files)


@dataclass(frozen=True)
class Training:
    """A tiny training with a folder of its own.

    Attributes:
        folder: its files go to ``models`` and ``run`` in here.
        data: the data set.
        store: folder of the prepared cases.
        processes: how many train together.
        overrides: ids that differ from the tiny plan, of every start.
    """

    folder: Path
    data: Path
    store: Path
    processes: int = 1
    overrides: tuple[tuple[str, Any], ...] = ()

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def command(self, *probes: Probe, configs: Sequence[str] = (), **overrides: Any) -> list[str]:
        """The command line, with probes among the handlers."""
        files = [TRAIN, *([SEVERAL] if self.processes > 1 else []), *configs]
        if probes:
            overlay = self.folder / "probes.json"
            overlay.parent.mkdir(parents=True, exist_ok=True)
            overlay.write_text(json.dumps({"+train#handlers": list(probes)}))
            files.append(str(overlay))
        settings = {
            **TINY,
            **LARGER,
            "device": "cpu" if self.processes == 1 else None,
            "dataset_dir": self.data,
            "prepared_dir": self.store,
            "ckpt_dir": self.models,
            "output_dir": self.run_dir,
            # the probes are code of the tests
            "trust": True if probes else None,
            **dict(self.overrides),
            **overrides,
        }
        several = [
            *("-m", "torch.distributed.run", "--standalone"),
            f"--nproc_per_node={self.processes}",
        ]
        return [
            sys.executable,
            *(several if self.processes > 1 else []),
            *("-m", "monai.bundle", "run", "training", "--config_file", json.dumps(files)),
            *as_flags(settings),
        ]

    @contextmanager
    def running(
        self,
        *probes: Probe,
        before: Callable[[], None] | None = None,
        env: dict[str, str] | None = None,
        **overrides: Any,
    ) -> Iterator[Running]:
        """Start it; when the block ends it is gone in any case.

        Args:
            probes: handlers of ``fault_probes``, see ``probe``.
            before: what the new process does to itself first, such as setting a limit.
            env: environment variables.
            overrides: further ids; ``configs``: further config files.
        """
        command = self.command(*probes, **overrides)
        with started(command, self.folder / "log", preexec_fn=before, **(env or {})) as running:
            yield running

    def run(self, *probes: Probe, timeout: float = TIMEOUT_S, **settings: Any) -> Done:
        """Start it and wait for its end; in a fork, unless it needs settings of its own or starts processes."""
        if self.processes == 1 and not {"before", "env"} & settings.keys():
            ended = fork_server.run(self.command(*probes, **settings)[1:], BUNDLE, environment())
            return Done(ended.returncode, ended.stdout, ended.stderr)
        with self.running(*probes, **settings) as running:
            return running.wait(timeout)

    def finish(self, *probes: Probe, **settings: Any) -> Done:
        """Run it to a good end."""
        done = self.run(*probes, **settings)
        assert done.code == 0, done.text[-4000:]
        return done

    def status(self) -> dict[str, Any]:
        """What ``status.json`` says."""
        return json.loads((self.run_dir / "status.json").read_text())


def environment(**env: str) -> dict[str, str]:
    """The environment of a process that can import the probes."""
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **env}


@contextmanager
def started(
    command: Sequence[str], log: Path, preexec_fn: Callable[[], None] | None = None, **env: str
) -> Iterator[Running]:
    """A process that can import the probes; when the block ends it is gone in any case.

    Args:
        command: program and arguments.
        log: where its output goes, but for the suffix.
        preexec_fn: what it does to itself first.
        env: environment variables.
    """
    running = Running(command, log, env=environment(**env), preexec_fn=preexec_fn)
    try:
        yield running
    finally:
        running.end()


def as_flags(settings: dict[str, Any]) -> list[str]:
    """``{"epochs": 2}`` -> ``["--epochs", "2"]``; None is left out."""
    given = {name: value for name, value in settings.items() if value is not None}
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


def probe(name: str, **arguments: Any) -> Probe:
    """A handler of ``fault_probes`` as an overlay declares it."""
    return {"_target_": f"fault_probes.{name}", **arguments}


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not just waiting to be forgotten."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pids: Sequence[int], timeout: float) -> None:
    """Until none of some processes is left; else kill them and fail."""
    deadline = time.monotonic() + timeout
    while any(map(is_alive, pids)):
        if time.monotonic() > deadline:
            left = [pid for pid in pids if is_alive(pid)]
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"{len(left)} of {len(pids)} processes were left after {timeout} s")
        time.sleep(0.05)


def children(pid: int) -> dict[int, str]:
    """The command lines of the processes that a process has started, by process id."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == pid:
                line = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(stat.parent.name)] = line
    return found


@functools.cache
def _whole(root: Path, data: Path, processes: int, overrides: tuple[tuple[str, Any], ...]) -> Path:
    """Run a training once a session, whichever module asks."""
    name = "_".join(["whole", str(processes), *(f"{key}_{value}" for key, value in overrides)])
    training = Training(root / name, data, root / "prepared", processes, overrides)
    training.finish()
    return training.folder


class Runs:
    """Gives trainings on the phantom, with prepared cases that all share."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data = root, data

    def whole(self, processes: int = 1, **overrides: Any) -> Path:
        """``models`` of a training that nothing disturbed; not to be changed."""
        return _whole(self.root, self.data, processes, tuple(overrides.items())) / "models"

    def training(self, folder: Path, processes: int = 1, **overrides: Any) -> Training:
        """A training like that, still to be started, in a folder of its own."""
        return Training(
            folder, self.data, self.root / "prepared", processes, tuple(overrides.items())
        )


@pytest.fixture(scope="session", name="runs")
def the_runs(tmp_path_factory: pytest.TempPathFactory, phantom: Path) -> Runs:
    """To be imported by the test modules; they share what it has run."""
    root = tmp_path_factory.getbasetemp() / "faults"
    root.mkdir(exist_ok=True)
    return Runs(root, phantom)

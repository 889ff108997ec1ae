"""Command lines of the bundle, and how they are run: in processes of their own, which get the signals of this one.

A process for each training frees its memory for the next one, and ends with the exit code of a training.
"""

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from dynunet_bundle.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_STOPPED,
    STOP_SIGNALS,
    ConfigError,
)

WITHOUT_SLURM = ("env", "-u", "SLURM_JOB_ID")
"""Where it finds a job of SLURM, Ignite takes the number of the task for that of the process and overwrites LOCAL_RANK
(native.py of pytorch-ignite 0.5.5); under torchrun there is one task a machine."""

logger = logging.getLogger(__name__)


def bundle_command(
    verb: str,
    bundle: Path,
    configs: Sequence[str | Path],
    settings: Mapping[str, Any],
    overrides: Sequence[str] = (),
    launcher: Sequence[str] = (sys.executable,),
) -> list[str]:
    """``python -m monai.bundle run VERB ...`` that works from any folder.

    Args:
        verb: id of the run list, e.g. ``training``.
        bundle: the bundle folder.
        configs: names of configs of the bundle, or paths of overlays; later ones win.
        settings: overrides by id.
        overrides: more of them, as they were on a command line; they come last.
        launcher: Python, or what starts several.
    """
    files = [str(bundle / "configs" / name if isinstance(name, str) else name) for name in configs]
    values = {"config_file": json.dumps(files), "bundle_root": bundle, **settings}
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return [*launcher, "-m", "monai.bundle", "run", verb, *flags, *overrides]


def training_command(
    bundle: Path,
    overlays: Sequence[Path],
    settings: Mapping[str, Any],
    overrides: Sequence[str] = (),
    torchrun: Sequence[str] | None = None,
) -> list[str]:
    """The command of a training.

    Args:
        bundle: the bundle folder.
        overlays: task overlay and recipes, later ones over earlier ones.
        settings: overrides by id.
        overrides: more of them, as on a command line.
        torchrun: its options, for several processes that train as one; None for one process.
    """
    configs: list[str | Path] = ["train.json", *overlays]
    launcher = [sys.executable]
    if torchrun is not None:
        configs.append("multi_gpu_train.json")
        launcher = [*WITHOUT_SLURM, sys.executable, "-m", "torch.distributed.run", *torchrun]
    return bundle_command("training", bundle, configs, settings, overrides, launcher)


def numa_options(binding: str | None) -> list[str]:
    """Options of torchrun that keep each process on cores near its GPU.

    Args:
        binding: a mode of torchrun's ``--numa-binding``, or None.

    Raises:
        ConfigError: if numactl, which torchrun starts the processes with, is not installed.
    """
    if binding is None:
        return []
    if shutil.which("numactl") is None:
        raise ConfigError(
            "--numa_binding needs the program numactl, which is not installed. Install the package numactl."
        )
    return [f"--numa-binding={binding}"]


class ProcessRunner:
    """Run one command after the other, and pass on the signals that ask this process to stop.

    A command gets a session of its own: else Ctrl-C would reach it twice, from the terminal and from here, and a
    training takes the second one for impatience. SIGUSR1 is passed on as SIGTERM, which torchrun knows, too. While no
    command runs, a signal ends this process with code 75.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_busy = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "ProcessRunner":
        """Listen to signals."""
        for name in STOP_SIGNALS:
            number = getattr(signal, name)
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave signals as they were."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str], status: Path | None = None) -> int:
        """Run a command to its end.

        Args:
            command: program and arguments.
            status: the ``status.json`` of a training; torchrun ends with 1 when its processes end with 75, and only
                this file tells the one from the other.

        Returns:
            0, 1, 2 or 75, as trainings end.
        """
        logger.info("$ %s", shlex.join(command))
        before = _age(status)
        sys.stdout.flush()
        self._is_busy = True
        self._process = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - ours
        if self.signal is not None:  # it came while the process was being made
            self._send(signal.SIGTERM)
        code = self._process.wait()
        self._process, self._is_busy = None, False
        if code in (0, EXIT_BAD_INPUT):
            return code
        was_stopped = _age(status) != before and _state(status) == "stopped"
        if code == EXIT_STOPPED or self.signal is not None or was_stopped:
            return EXIT_STOPPED
        return EXIT_FAILED

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        if not self._is_busy:
            raise SystemExit(EXIT_STOPPED)
        self._send(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def _send(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def status_content(path: Path) -> dict[str, Any]:
    """What ``status.json`` says, or nothing where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _state(status: Path | None) -> str | None:
    return None if status is None else status_content(status).get("state")


def _age(status: Path | None) -> tuple[int, int] | None:
    """What tells a file from the one that takes its place."""
    try:
        facts = None if status is None else status.stat()
    except FileNotFoundError:
        return None
    return None if facts is None else (facts.st_mtime_ns, facts.st_ino)

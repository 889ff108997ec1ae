"""Command lines of the bundle, run as subprocesses to which signals are forwarded.

A process per training frees its memory for the next one and returns the exit code of the training.
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

from dynunet_bundle.configs.literals import literal
from dynunet_bundle.configs.quiet import TOLD, VERBOSE
from dynunet_bundle.configs.values import monai_text
from dynunet_bundle.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_STOPPED,
    STOP_SIGNALS,
    ConfigError,
)
from dynunet_bundle.training.watching.status import read_status_file

WITHOUT_SLURM = ("env", "-u", "SLURM_JOB_ID")
"""Command prefix that hides the SLURM job from Ignite. Inside a job, Ignite uses the task number as the rank and
overwrites LOCAL_RANK (native.py of pytorch-ignite 0.5.5); with torchrun there is only one task per machine."""

QUIET = "dynunet_bundle.configs.quiet"
"""Module that runs ``monai.bundle`` without messages that need no action."""

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
        settings: overrides by id; they reach the configs as literals.
        overrides: further overrides in command-line form; they come last.
        launcher: Python, or a launcher of several processes.
    """
    files = [str(bundle / "configs" / name if isinstance(name, str) else name) for name in configs]
    values = {"bundle_root": bundle, **settings}
    texts = {"config_file": json.dumps(files)} | {
        name: monai_text(literal(value)) for name, value in values.items()
    }
    flags = [text for name, value in texts.items() for text in (f"--{name}", value)]
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
        overlays: task overlay and recipes; later ones override earlier ones.
        settings: overrides by id.
        overrides: further overrides in command-line form.
        torchrun: options of torchrun, for several processes that train one model; None for one process.
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
        ConfigError: if numactl, with which torchrun starts the processes, is not installed.
    """
    if binding is None:
        return []
    if shutil.which("numactl") is None:
        raise ConfigError(
            "--numa_binding needs the program numactl, which is not installed. Install the numactl package."
        )
    return [f"--numa-binding={binding}"]


class ProcessRunner:
    """Run one command after the other, and forward stop signals to it.

    Each command runs in a new session. Otherwise Ctrl-C would reach it twice, from the terminal and from here, and a
    training stops at once on the second signal. SIGUSR1 is forwarded as SIGTERM, which torchrun also handles. While no
    command runs, a signal ends this process with exit code 75.
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
        """Restore the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str], status: Path | None = None) -> int:
        """Run a command to its end.

        Args:
            command: program and arguments.
            status: the ``status.json`` of a training: torchrun exits with 1 if its processes exit with 75, and only
                this file shows that the training was stopped.

        Returns:
            The exit code: 0, 1, 2 or 75.
        """
        level = logging.INFO if os.environ.get(VERBOSE) else logging.DEBUG
        logger.log(level, "$ %s", shlex.join(command))
        before = _age(status)
        sys.stdout.flush()
        self._is_busy = True
        quiet = [QUIET if word == "monai.bundle" else word for word in command]
        # the same package as here, also if another one is installed
        package = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(  # noqa: S603 - ours
            quiet, start_new_session=True, env={**os.environ, "PYTHONPATH": paths, TOLD: "1"}
        )
        if self.signal is not None:  # it arrived while the process was starting
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
    """Content of ``status.json``; empty if the file is missing or malformed."""
    try:
        return read_status_file(path)
    except ConfigError:
        return {}


def _state(status: Path | None) -> str | None:
    return None if status is None else status_content(status).get("state")


def _age(status: Path | None) -> tuple[int, int] | None:
    """Modification time and inode, by which a replaced file is recognised; None if the file is missing."""
    try:
        facts = None if status is None else status.stat()
    except FileNotFoundError:
        return None
    return None if facts is None else (facts.st_mtime_ns, facts.st_ino)

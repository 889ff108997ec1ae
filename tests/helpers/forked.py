"""Commands in forks of one process that has imported the large libraries, for which each process takes 5 s.

A fork runs ``python SCRIPT`` or ``python -m MODULE`` to its end. Its exit code, output, working folder, umask and
environment are its own. A library that reads the environment when it is loaded sees that of the session, one thread.
"""

import atexit
import faulthandler
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("torch", "monai.bundle", "monai.transforms", "monai.inferers", "monai.handlers", "ignite"),
    *("nibabel", "scipy.ndimage", "scipy.stats", "jsonschema"),
)

MAX_S = 900
"""Far more than any of these takes; a fork that hangs is ended, and the test fails."""


class ForkServer:
    """The process that forks; it starts with the first command, and ends with the session."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, command: Sequence[str], cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of Python to its end.

        Args:
            command: path of a script, or ``-m`` and a module, and arguments.
            cwd: its working folder; that of this process by default.
            env: its environment; that of this process by default.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            atexit.register(self._process.stdin.close)
        with tempfile.TemporaryDirectory() as folder:
            files = [os.path.join(folder, name) for name in ("stdout", "stderr")]
            os.umask(umask := os.umask(0))
            place = str(cwd or os.getcwd())
            request = [list(command), place, dict(env or os.environ), umask, files]
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            texts = [Path(file).read_text(encoding="utf-8") for file in files]
        return subprocess.CompletedProcess(command, code, *texts)


def wait_for_request() -> Any:
    """Fork for each request; return, in the fork alone, what it is to run."""
    for name in LIBRARIES:
        importlib.import_module(name)
    # else a collection in a fork copies the pages of all objects
    gc.freeze()
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return sys.exit()


def take_streams(files: Sequence[str]) -> None:
    """Standard input is empty, output and errors go to two files."""
    sys.stdin.close()
    for number, path in enumerate([os.devnull, *files]):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(path, flags, 0o600)
        if descriptor != number:
            os.dup2(descriptor, number)
            os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115, PTH123
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115, PTH123
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115, PTH123


def run_main(command: Sequence[str]) -> None:
    """Run a script or a module as the main program."""
    if command[0] == "-m":
        sys.argv = list(command[1:])
        sys.path[0] = os.getcwd()
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(command)
        sys.path[0] = str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")


def exit_code_of(command: Sequence[str]) -> int:
    """Run a command, and tell how it ends; a traceback goes to where it would."""
    try:
        try:
            run_main(command)
        except Exception:
            sys.excepthook(*sys.exc_info())
            return 1
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    wanted, working_folder, environment, file_mask, output_files = wait_for_request()
    os.chdir(working_folder)
    os.umask(file_mask)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    faulthandler.dump_traceback_later(MAX_S, exit=True)
    take_streams(output_files)
    exit_code = exit_code_of(wanted)
    # as the interpreter ends, except for the removal of thousands of modules
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(exit_code)

"""Scripts in forks of one process that has imported the large libraries, which takes each process 5 s of its own.

A fork runs the script as ``python SCRIPT`` does, up to the interpreter's end: exit code, output, working folder and
environment are its own. What Python or a library reads from the environment when it starts is that of the session.
"""

import atexit
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
    "torch",
    "monai.bundle",
    "monai.transforms",
    "monai.inferers",
    "monai.handlers",
    "ignite",
)
LIBRARIES += ("nibabel", "scipy.ndimage", "scipy.stats", "jsonschema")


class ForkServer:
    """The process that forks; it starts with the first script, and ends with the session."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, script: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a script to its end.

        Args:
            script: path of the script.
            arguments: its arguments.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            atexit.register(self._process.stdin.close)
        with tempfile.TemporaryDirectory() as folder:
            files = [os.path.join(folder, name) for name in ("stdout", "stderr")]
            request = [[str(script), *arguments], os.getcwd(), dict(os.environ), files]
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            texts = [Path(file).read_text(encoding="utf-8") for file in files]
        return subprocess.CompletedProcess(request[0], code, *texts)


def wait_for_script() -> Any:
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


def exit_code_of(script: str) -> int:
    """Run a script as the main program, and tell how it ends; a traceback goes to where it would."""
    try:
        try:
            runpy.run_path(script, run_name="__main__")
        except Exception:
            sys.excepthook(*sys.exc_info())
            return 1
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    argv, folder, environment, output_files = wait_for_script()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    take_streams(output_files)
    sys.argv = argv
    sys.path[0] = str(Path(argv[0]).parent)
    exit_code = exit_code_of(argv[0])
    # as the interpreter ends, but for taking down thousands of modules
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(exit_code)

"""Run a command on one core and note what it used, a program of its own.

    python -I launcher.py FIGURES.json CORE COMMAND...

A process counts the memory of the one that started it as its own peak. This one is small, so that the peak is that of
the command; the benchmark itself, with its libraries, is not.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    """Run the command, write ``cpu_s``, ``wall_s`` and ``peak_mib``, and exit as the command did."""
    figures, core, *command = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):  # what is started later inherits it
        os.sched_setaffinity(0, {int(core)})
    start = time.perf_counter()
    process = subprocess.Popen(command)  # noqa: S603 - commands of the benchmark's own
    # not process.wait(): this also tells the use of all processes below that were waited for
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    measured = {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.perf_counter() - start,
        "peak_mib": usage.ru_maxrss / 1024,
    }
    Path(figures).write_text(json.dumps(measured), encoding="utf-8")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())

"""Run a command on one core, or on all, and record its resource usage.

    python -I launcher.py FIGURES.json CORE COMMAND...

CORE is a number, or "all". The peak memory is that of the largest process.
The peak memory of a process includes that of its parent at the start. This program is small, unlike the benchmark with
its libraries, so that the peak is that of the command.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    """Run the command, write ``cpu_s``, ``wall_s`` and ``peak_mib``, and return the exit code of the command."""
    figures, core, *command = sys.argv[1:]
    if core != "all" and hasattr(os, "sched_setaffinity"):  # inherited by the command
        os.sched_setaffinity(0, {int(core)})
    start = time.perf_counter()
    process = subprocess.Popen(command)  # noqa: S603 - commands of the benchmark's own
    # not process.wait(): wait4 also reports the usage of all descendants that were waited for
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

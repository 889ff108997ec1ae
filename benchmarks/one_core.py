"""``python -m monai.bundle ARGUMENTS`` on one core: process i of torchrun takes the i-th of the cores it may use."""

import os
import runpy
import sys

if __name__ == "__main__":
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"])]})
    sys.path[0] = os.getcwd()  # as python -m has it
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)

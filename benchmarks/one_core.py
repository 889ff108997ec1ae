"""``python -m monai.bundle ARGUMENTS`` on one core: process i of torchrun uses the i-th of the allowed cores."""

import os
import runpy
import sys

if __name__ == "__main__":
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"])]})
    sys.path[0] = os.getcwd()  # as with python -m
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)

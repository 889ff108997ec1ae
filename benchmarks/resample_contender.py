"""One contender of the resampling benchmark, a program that runs in the environment of whoever is measured.

    python -P resample_contender.py JOB.json

It imports nothing of this project but for our own turn. The job names the contender, the arrays and the spacings; the
figures of the resampling alone, and the peak memory of this process, go to the file that the job names.
"""

import importlib
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np


def ours(job: dict[str, Any], array: np.ndarray) -> np.ndarray:
    """Resample as ``ResampleToSpacingd`` does."""
    module = importlib.import_module("dynunet_bundle.preprocessing.resample")
    coarse = module.find_coarse_axis(np.array(job["old_spacing"]), np.array(job["new_spacing"]))
    if job["kind"] == "label":
        return module.resize_label(array, job["shape"], coarse)
    return module.resize(array, job["shape"], module.IMAGE_ORDER, coarse)


def nnunetv2(job: dict[str, Any], array: np.ndarray) -> np.ndarray:
    """Resample as nnU-Net's default preprocessor does, with the settings of its plans."""
    module = importlib.import_module("nnunetv2.preprocessing.resampling.default_resampling")
    is_label = job["kind"] == "label"
    return module.resample_data_or_seg_to_shape(
        array,
        job["shape"],
        job["old_spacing"],
        job["new_spacing"],
        is_seg=is_label,
        order=1 if is_label else 3,
        order_z=0,
        force_separate_z=None,
    )


def peak_mib() -> float:
    """The most memory that this process had resident, in MiB.

    ``ru_maxrss`` would start at what the parent had when it started this process.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Do the job that the command line names."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    resample = {"ours": ours, "nnunetv2": nnunetv2}[job["contender"]]
    array = np.load(job["input"], allow_pickle=False)
    # one voxel to itself: imports are done when the clock starts
    resample({**job, "shape": [1, 1, 1]}, array[:, :1, :1, :1])
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the imports does not count
    cpu, wall = time.process_time(), time.perf_counter()
    result = resample(job, array)
    figures = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    figures["peak_mib"] = peak_mib()
    np.save(job["output"], result)
    Path(job["figures"]).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()

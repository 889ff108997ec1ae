"""One contender of the resampling benchmark, as a program that runs in that contender's environment.

    python -P resample_contender.py JOB.json

It imports this project only if the contender is ours. The job defines the contender, the arrays and the spacings. The
times of the resampling alone, and the peak memory of this process, are written to the file named in the job.
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
    """Resample as nnU-Net's default preprocessor does, with the settings in its plans."""
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
    """Peak resident memory of this process, in MiB.

    ``ru_maxrss`` would include the parent's memory at the start of this process.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Do the job named on the command line."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    resample = {"ours": ours, "nnunetv2": nnunetv2}[job["contender"]]
    array = np.load(job["input"], allow_pickle=False)
    # resample one voxel first, so that all imports are done when the clock starts
    resample({**job, "shape": [1, 1, 1]}, array[:, :1, :1, :1])
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(
            "5"
        )  # reset the peak, which the imports have raised
    cpu, wall = time.process_time(), time.perf_counter()
    result = resample(job, array)
    figures = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    figures["peak_mib"] = peak_mib()
    np.save(job["output"], result)
    Path(job["figures"]).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Benchmark: weak scaling, the samples per second of N processes relative to one, with the same batch per process.

Each run is a training of the bundle started by torchrun, with one core per process; the fastest epoch after the first,
which includes the start-up, counts. Wall seconds are compared, because processes that wait for each other use no CPU
time. So nothing else may run on the machine.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measure import ONE_THREAD, Measurement
from dynunet_bundle.errors import ConfigError

SAMPLES = 1000
ONE_CORE = Path(__file__).with_name("one_core.py")
EPOCHS = 3
"""Epochs of a training. The first includes the start-up; of the others, the fastest counts."""


def run(
    bundle: Path,
    work_dir: Path,
    dataset_dir: Path,
    processes: Sequence[int],
    num_steps: int,
    batch_size: int,
) -> dict[str, list[Measurement]]:
    """Measure trainings of train.json's own plan.

    Args:
        bundle: the bundle folder.
        work_dir: an empty folder for everything that is written.
        dataset_dir: a data set that fits the default plan, such as Task04_Hippocampus.
        processes: numbers of processes, 1 first.
        num_steps: iterations per epoch.
        batch_size: patches per process.

    Returns:
        Measurements by title; seconds are for 1,000 samples.

    Raises:
        ConfigError: if a training fails, or there are fewer cores than processes.
    """
    cores = sorted(os.sched_getaffinity(0))
    if max(processes) > len(cores):
        raise ConfigError(
            f"{max(processes)} processes need as many cores, but there are {len(cores)}. Use fewer processes."
        )
    rows = []
    first = 0.0
    for number in processes:
        seconds = _seconds(bundle, work_dir, dataset_dir, number, cores, num_steps, batch_size)
        rate = num_steps * batch_size * number / seconds
        first = first or rate
        name = f"{number} process" + "es" * (number > 1)
        remark = f"{rate:.2f} samples/s, {rate / first:.2f} times the first row's"
        rows.append(Measurement(name, wall_s=SAMPLES / rate, remark=remark))
    return {f"training, batch {batch_size} per process, {device_name()}": rows}


def device_name() -> str:
    """Name of the device of the trainings."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "one core each"


def _seconds(
    bundle: Path,
    work_dir: Path,
    dataset_dir: Path,
    number: int,
    cores: Sequence[int],
    num_steps: int,
    batch_size: int,
) -> float:
    """Seconds of the fastest epoch after the first."""
    folder = work_dir / str(number)
    settings = {
        "dataset_dir": dataset_dir.resolve(),
        "prepared_dir": work_dir / "prepared",
        "ckpt_dir": folder / "models",
        "output_dir": folder,
        "epochs": EPOCHS,
        "iterations_per_epoch": num_steps,
        "batch_size": batch_size,
        "skip_validation": EPOCHS,
        "checkpoint": "none",
        "feed_threads": 1,
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={number}", str(ONE_CORE), "run", "training"]
    command += ["--config_file", "['configs/train.json','configs/multi_gpu_train.json']"]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    # the processes inherit the cores of this one: one core each
    allowed = set(cores)
    try:
        os.sched_setaffinity(0, set(cores[:number]))
        process = subprocess.run(  # noqa: S603 - a command of the benchmark's own
            command,
            cwd=bundle,
            env={**os.environ, **ONE_THREAD},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.sched_setaffinity(0, allowed)
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no output"])[-1]
        raise ConfigError(f"the training in {number} processes failed: {last}")
    log = (folder / "train_log.jsonl").read_text(encoding="utf-8").splitlines()
    return min(float(json.loads(line)["seconds"]) for line in log[1:])

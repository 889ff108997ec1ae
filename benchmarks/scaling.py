"""Benchmark: weak scaling, how many more samples a second N processes train than one, each with the same batch.

Each run is a training of the bundle as torchrun starts it, one core a process; its second epoch counts, which has no
start-up in it. Wall seconds are compared here: processes that wait for each other use no CPU time, and that is what is
asked. So nothing else may run on the machine.
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
"""The first one starts up; of the others the faster counts, for the machine may have been disturbed."""


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
        dataset_dir: a data set that the default plan fits, such as Task04_Hippocampus.
        processes: numbers of processes, one first.
        num_steps: iterations an epoch.
        batch_size: patches a process.

    Returns:
        Measurements by title; seconds are for 1,000 samples.

    Raises:
        ConfigError: if a training fails, or there are fewer cores than processes.
    """
    cores = sorted(os.sched_getaffinity(0))
    if max(processes) > len(cores):
        raise ConfigError(f"{max(processes)} processes need as many cores; there are {len(cores)}.")
    rows = []
    first = 0.0
    for number in processes:
        seconds = _seconds(bundle, work_dir, dataset_dir, number, cores, num_steps, batch_size)
        rate = num_steps * batch_size * number / seconds
        first = first or rate
        name = f"{number} process" + "es" * (number > 1)
        remark = f"{rate:.2f} samples/s, {rate / first:.2f} times the first row's"
        rows.append(Measurement(name, wall_s=SAMPLES / rate, remark=remark))
    return {f"training, batch {batch_size} a process, {device_name()}": rows}


def device_name() -> str:
    """The kind of device that trainings find."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "a core each"


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
    # the processes share what this one may use: a core each
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

"""Benchmark: training steps with train.json's network, loss and optimizer, compared with nnU-Net's.

The rate with a feed, relative to that with one constant batch, shows how much of the device the feed leaves unused.
NVIDIA's example measures its training with centre crops of whole volumes; that feed is measured, too. nnU-Net's step
also uses a constant batch.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from benchmarks.feed import NUM_CLASSES, Setting, make_cases
from benchmarks.measure import (
    Contender,
    Measurement,
    Step,
    latencies,
    measure,
    peer_command,
)
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.planning.nnunet_rules import features_of
from dynunet_bundle.planning.topology import nnunet_topology
from dynunet_bundle.preprocessing.prepared_case import PreparedCase

PROGRAM = Path(__file__).with_name("train_contender.py")
SAMPLES = 1000
FEEDS = ("constant batch", "center crop", "augmented")
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("amp", "bf16", "tf32", "fp32")}
PEER_PRECISIONS = ("amp", "tf32", "fp32")

KEPT_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""Allocator settings that ``keep_freed_memory`` makes for ours on a CPU; they show how much of the difference is due to
them."""

SMALL = (Setting("hippocampus", 20, (48, 64, 48), 1, (40, 56, 40), 7, 3),)
"""Setting of nnU-Net's plan for Task04."""

SEED = (
    *(
        Setting("brain tumour", 4, (160, 192, 192), 4, (128, 128, 128), batch, 100)
        for batch in (1, 2, 4)
    ),
    *(
        Setting("brain tumour, 2D", 4, (100, 240, 240), 4, (192, 160), batch, 100)
        for batch in (32, 64, 128)
    ),
)
"""Settings of the training figures published for NVIDIA's example."""

GRIDS = {"small": SMALL, "seed": SEED}


class StoredCases:
    """Synthetic cases in the form of a ``PreparedDataset``.

    Args:
        stems: result of ``make_cases``.
        shape: voxels of a case.
    """

    def __init__(self, stems: Sequence[str], shape: tuple[int, int, int]) -> None:
        self.dtype = np.dtype(np.float32)
        classes = tuple(range(1, NUM_CLASSES + 1))
        self._cases = [
            PreparedCase(
                name=stem,
                image=f"{stem}.image.npy",
                label=f"{stem}.label.npy",
                positions=f"{stem}.positions.npy",
                shape=shape,
                present=classes,
            )
            for stem in stems
        ]

    def __len__(self) -> int:
        """Number of cases."""
        return len(self._cases)

    def cases(self) -> list[PreparedCase]:
        """All cases."""
        return self._cases


def run(
    bundle: Path,
    work_dir: Path,
    peers: Path,
    core: int,
    device: str,
    precisions: Sequence[str] = (),
    num_steps: int | None = None,
    num_workers: int = 4,
    rounds: int = 1,
    settings: Iterable[Setting] = SMALL,
) -> dict[str, list[Measurement]]:
    """Measure training steps, each contender in a separate process.

    Args:
        bundle: the bundle folder.
        work_dir: an empty folder for the synthetic cases.
        peers: environment with nnunetv2.
        core: core to run on if the device is a CPU, with one thread; with a GPU all cores are used.
        device: ``cpu`` or ``cuda``.
        precisions: any of ``PRECISIONS`` of the device; empty for the first.
        num_steps: timed steps in each round; None for the number in each setting.
        num_workers: processes that read for DALI on a GPU.
        rounds: rounds of all contenders; the fastest counts, as the machine may be shared.
        settings: cases, patches and batches.

    Returns:
        Measurements by title, the constant batch first; seconds are for 1,000 samples. A second table has the parts of
        a step.

    Raises:
        ConfigError: if the device does not exist, or does not have a precision.
    """
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device. Pass --grid small, which uses the CPU.")
    precisions = precisions or PRECISIONS[kind][:1]
    unknown = [name for name in precisions if name not in PRECISIONS[kind]]
    if unknown:
        raise ConfigError(
            f"--precision {unknown[0]} is not one of {PRECISIONS[kind]} on {kind}. Pass one of these."
        )
    sections: dict[str, list[Measurement]] = {}
    for number, setting in enumerate(settings):
        folder = work_dir / str(number)
        folder.mkdir()
        job = _job(bundle, setting, device, num_steps or setting.num_batches, folder)
        job |= {"num_threads": 1 if kind == "cpu" else 4}
        job |= {"num_workers": 0 if kind == "cpu" else num_workers}
        for precision in precisions:
            contenders = list(_contenders({**job, "precision": precision}, folder, peers))
            found: dict[str, list[Measurement]] = {one.name: [] for one in contenders}
            for _ in range(rounds):
                for one in contenders:
                    found[one.name].append(measure(one, core if kind == "cpu" else None))
            title = _title(setting, precision, device)
            sections |= _tables(
                title, [_fastest(found[one.name], kind) for one in contenders], kind
            )
    return sections


def _job(
    bundle: Path, setting: Setting, device: str, num_steps: int, folder: Path
) -> dict[str, Any]:
    return {
        "bundle": str(bundle),
        "device": device,
        "plan": _plan(setting, device),
        "channels": setting.channels,
        "classes": NUM_CLASSES + 1,
        "batch": setting.batch,
        "num_steps": num_steps,
        "warm_up": max(num_steps // 10, 1 if device == "cpu" else 3),
        "cases": make_cases(setting, folder),
        "shape": setting.shape,
    }


def _plan(setting: Setting, device: str) -> dict[str, Any]:
    """Overrides of train.json: the plan of nnU-Net for such a patch."""
    dims = len(setting.patch)
    topology = nnunet_topology([1.0] * dims, setting.patch)
    return {
        "device": device,
        "spatial_dims": dims,
        "channel_names": [f"channel_{index}" for index in range(setting.channels)],
        "label_names": [f"class_{value}" for value in range(NUM_CLASSES + 1)],
        "label_values": list(range(NUM_CLASSES + 1)),
        "spacing": [1.0] * dims,
        "patch_size": list(setting.patch),
        "strides": topology.strides,
        "kernel_sizes": topology.kernel_sizes,
        "filters": list(features_of(len(topology.strides), dims)),
        "normalization": ["zscore"] * setting.channels,
        "intensity_statistics": [None] * setting.channels,
        # as in nnU-Net's plans
        "batch_dice": dims == 2,
    }


def _contenders(job: Mapping[str, Any], folder: Path, peers: Path) -> Iterator[Contender]:
    def contender(
        name: str,
        python: str,
        missing: str = "",
        environment: Mapping[str, str] = MappingProxyType({}),
        **own: str,
    ) -> Contender:
        stem = f"{name}.{job['precision']}".replace(" ", "_")
        figures, path = folder / f"{stem}.figures.json", folder / f"{stem}.job.json"
        path.write_text(json.dumps({**job, **own, "figures": str(figures)}), encoding="utf-8")
        command = (python, "-P", str(PROGRAM), str(path))
        return Contender(name, (Step(command, figures=figures),), environment, missing)

    for feed in FEEDS:
        yield contender(feed, sys.executable, contender="ours", feed=feed)
    python, missing = peer_command(peers, "python")
    if job["precision"] not in PEER_PRECISIONS:
        missing = f"nnU-Net has no {job['precision']}"
    yield contender("nnunetv2", python, missing, contender="nnunetv2")
    if job["device"] == "cpu" and sys.platform == "linux":
        name = "nnunetv2, memory kept"
        yield contender(name, python, missing, KEPT_MEMORY, contender="nnunetv2")


def _fastest(rounds: Sequence[Measurement], kind: str) -> Measurement:
    """The fastest round with the latencies of all rounds, or the first round that failed."""
    for row in rounds:
        if row.remark:
            return row
    best = min(rounds, key=lambda row: (row.cpu_s if kind == "cpu" else row.wall_s) or 0.0)
    steps = [step for row in rounds for step in row.details["steps_ms"]]
    return replace(best, details={**latencies(steps), **best.details, "steps_ms": steps})


def _tables(title: str, rows: Sequence[Measurement], kind: str) -> dict[str, list[Measurement]]:
    done = [row for row in rows if "parts_ms" in row.details]
    return {
        f"{title}; seconds for 1,000 samples": [
            replace(row, remark=_remark(row, rows[0], kind)) for row in rows
        ],
        f"{title}; parts of a step in ms": [
            Measurement(row.contender, details=row.details["parts_ms"]) for row in done
        ],
    }


def _remark(row: Measurement, constant: Measurement, kind: str) -> str:
    """The rate; on a CPU, which may be shared, by CPU seconds."""
    seconds, first = (one.cpu_s if kind == "cpu" else one.wall_s for one in (row, constant))
    if not seconds or not first:
        return row.remark
    rate = f"{SAMPLES / seconds:.2f} samples/{'CPU s' if kind == 'cpu' else 's'}"
    return rate if row is constant else f"{rate}, {first / seconds:.1%} of constant"


def _title(setting: Setting, precision: str, device: str) -> str:
    sizes = "x".join(map(str, setting.patch))
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    return f"training {setting.name}: {setting.channels} x {sizes}, batch {setting.batch}, {precision}, {name}"

"""Benchmark: training steps with the augmented feed, with NVIDIA's benchmark feed, and with no feed at all.

How much of the rate with one constant batch remains is what the feed leaves of a device. NVIDIA's example measures its
training with whole volumes that are cut in the middle; that feed stands beside the others.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynunet_bundle.benchmark.feed import NUM_CLASSES, Setting, make_cases
from dynunet_bundle.benchmark.measure import Measurement
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.feed.synthetic import SyntheticLoader
from dynunet_bundle.planning.nnunet_rules import features_of
from dynunet_bundle.planning.topology import nnunet_topology
from dynunet_bundle.preprocessing.store import PreparedCase
from dynunet_bundle.workflow import load_workflow

SAMPLES = 1000
LARGE = Setting("brain tumour", 4, (160, 192, 192), 4, (128, 128, 128), 2, 0)
BATCHES = (2, 4)


class StoredCases:
    """Made cases in the form of a ``PreparedDataset``."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.dtype = np.dtype(np.float32)
        classes = tuple(range(1, NUM_CLASSES + 1))
        self._cases = [
            PreparedCase(
                name=stem,
                image=f"{stem}.image.npy",
                label=f"{stem}.label.npy",
                positions=f"{stem}.positions.npy",
                shape=setting.shape,
                present=classes,
            )
            for stem in make_cases(setting, folder)
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
    device: str,
    num_steps: int,
    num_workers: int,
    setting: Setting = LARGE,
    batches: Iterable[int] = BATCHES,
) -> dict[str, list[Measurement]]:
    """Measure training steps of train.json's network, loss and optimizer; AMP on a GPU.

    Args:
        bundle: the bundle folder.
        work_dir: an empty folder for the made cases.
        device: ``cpu`` or ``cuda``.
        num_steps: timed steps, after a tenth as many (at least two).
        num_workers: processes that read for DALI.
        setting: cases and patch.
        batches: batch sizes.

    Returns:
        Measurements by title, the constant batch first; seconds are for 1,000 samples.

    Raises:
        ConfigError: if the device is not there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device. Pass --device cpu, and few --num_steps.")
    dataset: Any = StoredCases(setting, work_dir)
    sections = {}
    for batch in batches:
        rows: list[Measurement] = []
        for name, feed in _feeds(
            bundle, dataset, replace(setting, batch=batch), device, num_workers
        ):
            parts = _training_parts(bundle, setting, device)
            row = _measured(name, feed, parts, torch.device(device), num_steps, batch)
            rows.append(replace(row, remark=_remark(row, rows[0] if rows else row)))
        sizes = "x".join(map(str, setting.patch))
        title = f"training, {setting.channels} x {sizes}, batch {batch}, {_device_name(device)}"
        sections[title] = rows
    return sections


def _feeds(
    bundle: Path, dataset: Any, setting: Setting, device: str, num_workers: int
) -> Iterator[tuple[str, Any]]:
    workflow = load_workflow(bundle, "train.json", (), {})
    declared = workflow.parser.get_parsed_content("augmentation")
    common: dict[str, Any] = {"batch_size": setting.batch, "num_iterations": 1, "device": device}
    yield (
        "constant batch",
        SyntheticLoader(
            setting.patch, num_channels=setting.channels, num_classes=NUM_CLASSES + 1, **common
        ),
    )
    real = {"dataset": dataset, "patch_size": setting.patch, "num_workers": num_workers, **common}
    yield "center crop", DaliLoader(center_crop=True, **real)
    yield "augmented", DaliLoader(augmentation=declared, **real)


def _training_parts(bundle: Path, setting: Setting, device: str) -> dict[str, Any]:
    """Network, loss and optimizer as train.json has them, for the plan of the setting."""
    dims = len(setting.patch)
    topology = nnunet_topology([1.0] * dims, setting.patch)
    plan = {
        "device": device,
        "spatial_dims": dims,
        "channel_names": [f"channel_{index}" for index in range(setting.channels)],
        "label_names": [f"class_{value}" for value in range(NUM_CLASSES + 1)],
        "label_values": list(range(NUM_CLASSES + 1)),
        "spacing": [1.0] * dims,
        "patch_size": list(setting.patch),
        "strides": topology.strides,
        "kernel_sizes": topology.kernel_sizes,
        "filters": features_of(len(topology.strides), dims),
        "normalization": ["zscore"] * setting.channels,
        "intensity_statistics": [None] * setting.channels,
    }
    parser = load_workflow(bundle, "train.json", (), plan).parser
    return {name: parser.get_parsed_content(name) for name in ("network", "loss", "optimizer")}


def _measured(
    name: str,
    feed: Any,
    parts: dict[str, Any],
    device: torch.device,
    num_steps: int,
    batch: int,
) -> Measurement:
    on_gpu = device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=on_gpu)
    network = parts["network"].train()
    batches = chain.from_iterable(repeat(feed))
    cpu = wall = 0.0
    for step in range(-max(num_steps // 10, 2), num_steps):
        if step == 0:
            _wait_for(device)
            cpu, wall = time.process_time(), time.perf_counter()
        content = next(batches)
        image, label = (content[key].to(device) for key in ("image", "label"))
        parts["optimizer"].zero_grad(set_to_none=True)
        with torch.autocast(device.type, enabled=on_gpu):
            loss = parts["loss"](network(image), label)
        scaler.scale(loss).backward()
        scaler.step(parts["optimizer"])
        scaler.update()
    _wait_for(device)
    share = SAMPLES / (num_steps * batch)
    seconds = (time.process_time() - cpu) * share, (time.perf_counter() - wall) * share
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else None
    if isinstance(feed, DaliLoader):
        feed.close()
    return Measurement(name, *seconds, peak)


def _remark(row: Measurement, constant: Measurement) -> str:
    if not row.wall_s or not constant.wall_s:
        return ""
    rate = f"{SAMPLES / row.wall_s:.2f} samples/s"
    return rate if row is constant else f"{rate}, {constant.wall_s / row.wall_s:.1%} of constant"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"

"""Benchmark: the network on patches, without feed, window or files, as NVIDIA's example measures it.

NVIDIA's figures are of a loop that does not wait for the device; here it is waited for after each batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Contender, Measurement, latencies
from benchmarks.predict_contender import SAMPLES
from benchmarks.predict_jobs import PEER, contender, fastest, take_turns
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.planning.nnunet_rules import features_of
from dynunet_bundle.planning.topology import nnunet_topology

PRECISIONS = {"cuda": ("fp16", "bf16", "tf32", "fp32"), "cpu": ("fp32", "bf16")}
PEER_PRECISIONS = {"cuda": ("fp16", "tf32", "fp32"), "cpu": ("fp32",)}
ONNX_PRECISIONS = {"cuda": ("fp16", "fp32"), "cpu": ("fp32",)}


@dataclass(frozen=True)
class Patches:
    """What one table measures.

    Attributes:
        patch: voxels of a patch.
        channels: of the image.
        classes: of the mask.
        batch: patches at once.
        num_steps: batches that are timed.
    """

    patch: tuple[int, ...]
    channels: int
    classes: int
    batch: int
    num_steps: int


SMALL = (Patches((40, 56, 40), 1, 3, 1, 20),)
"""nnU-Net's plan for Task04."""

SEED = (
    *(Patches((128, 128, 128), 4, 4, batch, 100) for batch in (1, 2, 4)),
    *(Patches((192, 160), 4, 4, batch, 100) for batch in (32, 64, 128)),
)
"""What NVIDIA's example publishes."""

GRIDS = {"small": SMALL, "seed": SEED}


def run(
    bundle: Path,
    work_dir: Path,
    peers: Path,
    core: int,
    device: str = "cpu",
    precisions: Sequence[str] = (),
    rounds: int = 1,
    grid: Sequence[Patches] = SMALL,
) -> dict[str, list[Measurement]]:
    """Measure our network, the same under onnxruntime, and nnU-Net's.

    Args:
        bundle: the bundle folder.
        work_dir: an empty folder.
        peers: environment with nnunetv2.
        core: where to run on a CPU, with one thread.
        device: ``cpu`` or ``cuda``.
        precisions: some of ``PRECISIONS`` of the device; none for all.
        rounds: turns of all; the fastest counts, and the latencies are those of all.
        grid: what to measure.

    Returns:
        Measurements by title, ours first; seconds are for 1,000 patches.

    Raises:
        ConfigError: if the device is not there, or has no such precision.
    """
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device. Pass --grid small, which has --device cpu.")
    precisions = precisions or PRECISIONS[kind]
    unknown = [name for name in precisions if name not in PRECISIONS[kind]]
    if unknown:
        raise ConfigError(f"--precision {unknown[0]} is not one of {PRECISIONS[kind]} on {kind}.")
    sections = {}
    for patches in grid:
        for precision in precisions:
            contenders = list(_contenders(bundle, work_dir, peers, patches, precision, device))
            found = take_turns(contenders, rounds, core if kind == "cpu" else None)
            rows = [_row(turns, kind == "cpu") for turns in found]
            sections[_title(patches, precision, device)] = rows
    return sections


def plan_of(patches: Patches, device: str) -> dict[str, Any]:
    """Overrides of inference.json: what nnU-Net would plan for such a patch."""
    dims = len(patches.patch)
    topology = nnunet_topology([1.0] * dims, patches.patch)
    return {
        "device": device,
        "spatial_dims": dims,
        "channel_names": [f"channel_{index}" for index in range(patches.channels)],
        "label_names": ["background", *(f"class_{value}" for value in range(1, patches.classes))],
        "label_values": list(range(patches.classes)),
        "spacing": [1.0] * dims,
        "patch_size": list(patches.patch),
        "strides": topology.strides,
        "kernel_sizes": topology.kernel_sizes,
        "filters": list(features_of(len(topology.strides), dims)),
        "normalization": ["zscore"] * patches.channels,
        "intensity_statistics": [None] * patches.channels,
    }


def _contenders(
    bundle: Path, folder: Path, peers: Path, patches: Patches, precision: str, device: str
) -> Iterator[Contender]:
    kind = torch.device(device).type
    job = {
        "job": "forward",
        "bundle": str(bundle),
        "plan": plan_of(patches, device),
        "batch": patches.batch,
        "precision": precision,
        "num_steps": patches.num_steps,
        "warm_up": max(patches.num_steps // 10, 2),
    }
    yield contender("ours", {**job, "contender": "ours"}, folder, peers)
    own = {**job, "contender": "onnxruntime"}
    yield contender("ours, onnxruntime", own, folder, peers, _no_onnx(precision, kind))
    has = precision in PEER_PRECISIONS[kind]
    missing = "" if has else f"nnU-Net does not predict in {precision} here"
    yield contender(PEER, {**job, "contender": PEER}, folder, peers, missing)


def _no_onnx(precision: str, kind: str) -> str:
    """Why onnxruntime cannot do it; empty where it can."""
    if precision not in ONNX_PRECISIONS[kind]:
        return f"not exported in {precision}"
    try:
        import onnxruntime
    except ImportError:
        return "onnxruntime is not installed"
    if kind == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "onnxruntime has no CUDA provider here"
    return ""


def _row(turns: Sequence[Measurement], by_cpu: bool) -> Measurement:
    best = fastest(turns, by_cpu)
    if best.remark:
        return best
    steps = [step for row in turns for step in row.details["steps_ms"]]
    seconds = best.cpu_s if by_cpu else best.wall_s
    rate = f"{SAMPLES / (seconds or 1):.2f} patches/{'CPU s' if by_cpu else 's'}"
    return replace(best, details={**latencies(steps), "steps_ms": steps}, remark=rate)


def _title(patches: Patches, precision: str, device: str) -> str:
    sizes = "x".join(map(str, patches.patch))
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    what = f"{patches.channels} x {sizes}, batch {patches.batch}, {precision}, {name}"
    return f"forward: {what}; seconds for 1,000 patches"

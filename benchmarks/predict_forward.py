"""Benchmark: the network on patches, without feed, windows or files, as in NVIDIA's example.

NVIDIA's loop does not wait for the device; this benchmark waits after each batch.
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
    """Patches of one table.

    Attributes:
        patch: voxels of a patch.
        channels: channels of the image.
        classes: classes of the mask.
        batch: patches per batch.
        num_steps: timed batches.
    """

    patch: tuple[int, ...]
    channels: int
    classes: int
    batch: int
    num_steps: int


SMALL = (Patches((40, 56, 40), 1, 3, 1, 20),)
"""Patches of nnU-Net's plan for Task04."""

SEED = (
    *(Patches((128, 128, 128), 4, 4, batch, 100) for batch in (1, 2, 4)),
    *(Patches((192, 160), 4, 4, batch, 100) for batch in (32, 64, 128)),
)
"""Patches of the figures published for NVIDIA's example."""

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
        core: core to run on if the device is a CPU, with one thread.
        device: ``cpu`` or ``cuda``.
        precisions: any of ``PRECISIONS`` of the device; empty for all.
        rounds: rounds of all contenders; the fastest counts, but latencies are over all rounds.
        grid: the patches to measure.

    Returns:
        Measurements by title, ours first; seconds are for 1,000 patches.

    Raises:
        ConfigError: if the device does not exist, or does not have a precision.
    """
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device. Pass --grid small, which uses the CPU.")
    precisions = precisions or PRECISIONS[kind]
    unknown = [name for name in precisions if name not in PRECISIONS[kind]]
    if unknown:
        raise ConfigError(
            f"--precision {unknown[0]} is not one of {PRECISIONS[kind]} on {kind}. Pass one of these."
        )
    sections = {}
    for patches in grid:
        for precision in precisions:
            contenders = list(_contenders(bundle, work_dir, peers, patches, precision, device))
            found = take_turns(contenders, rounds, core if kind == "cpu" else None)
            rows = [_row(turns, kind == "cpu") for turns in found]
            sections[_title(patches, precision, device)] = rows
    return sections


def plan_of(patches: Patches, device: str) -> dict[str, Any]:
    """Overrides of inference.json: the plan of nnU-Net for such a patch."""
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
    """Why onnxruntime cannot run in this precision; empty if it can."""
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

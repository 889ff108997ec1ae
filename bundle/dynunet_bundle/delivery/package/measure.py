"""Time and memory that a network needs on this machine, as a sentence for the model card."""

import resource
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynunet_bundle.delivery.export.export import machine_facts
from dynunet_bundle.delivery.package.metadata import input_names
from dynunet_bundle.errors import counted

REPEATS = 3
"""Runs of which the fastest counts, after one that is not counted."""

RESET_PEAK = "5"
"""What resets the peak of the memory of a process, written to its ``clear_refs`` (proc(5))."""

KIB = 1024
MB = 1e6


def measured_needs(network: nn.Module, plan: Mapping[str, Any], batch_size: int = 1) -> str:
    """Run the network on one patch, on a GPU if there is one.

    Args:
        network: the network of a prediction, with its weights.
        plan: ids of its plan.
        batch_size: patches at a time.

    Returns:
        Sentences with the time, the memory and the machine.
    """
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()
    patch = torch.zeros(batch_size, len(input_names(plan)), *plan["patch_size"], device=device)
    _reset_peak(device)
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + REPEATS):
            begun = time.monotonic()
            network(patch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.monotonic() - begun)
    size = " x ".join(map(str, plan["patch_size"]))
    place, memory = _machine(device)
    return (
        f"Inference of a patch of {size} voxels in float32 takes {min(seconds[1:]):.3g} s and {memory} on {place}. "
        "An image has as many patches as cover it, with an overlap of half a patch; a training needs several times the "
        "memory."
    )


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    # on other systems, the peak since the process began
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")


def _machine(device: torch.device) -> tuple[str, str]:
    """The machine, and the peak of its memory."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        return torch.cuda.get_device_name(device), f"{peak / MB:.0f} MB of GPU memory"
    place = f"a CPU ({machine_facts()['processor']}, {counted(torch.get_num_threads(), 'thread')})"
    return place, f"{_peak_bytes() / MB:.0f} MB of main memory, libraries included,"


def _peak_bytes() -> int:
    """Peak of the memory of this process; only this figure follows a reset."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        line = next(one for one in lines if one.startswith("VmHWM"))
        return int(line.split()[1]) * KIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB

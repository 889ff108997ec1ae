"""Cores for each of the processes that train on one machine: near its GPU, none given twice.

``torchrun --numa-binding=exclusive`` does the same for GPUs where the program numactl is installed; it does nothing for
processes that train on a CPU, which otherwise get one thread each, and leaves the number of threads as it is.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.training.process.distributed import environment

SYSFS = Path("/sys")

logger = logging.getLogger(__name__)


def bind_process(
    device: torch.device | str = "cpu",
    enabled: bool = True,
    local_rank: int | None = None,
    local_world_size: int | None = None,
) -> list[int] | None:
    """Keep this process and its threads on cores of its own, and let torch use as many threads.

    Call it before anything computes: threads that are started later inherit the cores. A number of threads that the
    user has set (OMP_NUM_THREADS) stays; 1 is what torchrun sets where nobody has set any.

    Args:
        device: device of this process; process i of a machine has the machine's GPU i.
        enabled: whether to do anything.
        local_rank: index of this process on its machine; by default what torchrun says.
        local_world_size: processes on this machine, likewise.

    Returns:
        The logical cores, ascending; None where nothing was done: not enabled, or the system cannot bind.

    Raises:
        ConfigError: if there are not as many processes as the rank says.
    """
    if not enabled:
        return None
    if not hasattr(os, "sched_setaffinity"):
        logger.info("this system cannot bind processes to cores; bind does nothing")
        return None
    rank = environment("LOCAL_RANK", 0) if local_rank is None else local_rank
    size = environment("LOCAL_WORLD_SIZE", 1) if local_world_size is None else local_world_size
    if not 0 <= rank < size:
        raise ConfigError(f"process {rank} cannot be one of {size} on this machine.")
    allowed = os.sched_getaffinity(0)
    on_gpu = torch.device(device).type == "cuda"
    addresses = [pci_address(index) if on_gpu else None for index in range(size)]
    siblings = core_siblings(allowed, SYSFS)
    cores = choose_cores(rank, nearby_cores(addresses, allowed, SYSFS), siblings)
    if set(cores) == allowed and size == 1:
        return cores
    _bind_all_threads(cores)
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(len({siblings[core] for core in cores}))
    logger.info(
        "process %d of %d on this machine: cores %s, %d thread(s)",
        rank,
        size,
        format_cores(cores),
        torch.get_num_threads(),
    )
    return cores


def choose_cores(
    local_rank: int, nearby: Sequence[set[int]], siblings: Mapping[int, int]
) -> list[int]:
    """The share of one process: whole physical cores that follow each other, as many as each other process has.

    Processes that have the same cores nearby divide those; the first ones get one more where they do not come out
    even. Where there are fewer physical cores than processes they divide the logical ones, and where there are fewer of
    those, too, they share all of them.

    Args:
        local_rank: index of the process.
        nearby: for each process the logical cores that it may have.
        siblings: for each logical core the physical one, by any number.

    Returns:
        Logical cores, ascending.
    """
    own = nearby[local_rank]
    group = [index for index, cores in enumerate(nearby) if cores == own]
    physical = [
        sorted(core for core in own if siblings[core] == number)
        for number in sorted({siblings[core] for core in own})
    ]
    parts = physical if len(physical) >= len(group) else [[core] for core in sorted(own)]
    if len(parts) < len(group):
        return sorted(own)
    least, surplus = divmod(len(parts), len(group))
    place = group.index(local_rank)
    start = place * least + min(place, surplus)
    return sorted(
        core for part in parts[start : start + least + (place < surplus)] for core in part
    )


def nearby_cores(addresses: Sequence[str | None], allowed: set[int], sysfs: Path) -> list[set[int]]:
    """For each process the allowed cores that are nearest to its GPU.

    Args:
        addresses: PCI address of each process's GPU, e.g. ``0000:3b:00.0``; None where it is not known, or no GPU.
        allowed: logical cores that the processes may use at all.
        sysfs: where ``/sys`` is.

    Returns:
        Sets that are equal or have nothing in common; all allowed cores for all where that cannot be told.
    """
    found = [_local_cores(address, sysfs) & allowed for address in addresses]
    overlap = any(one != other and one & other for one in found for other in found)
    return [set(allowed)] * len(found) if overlap or not all(found) else found


def core_siblings(cores: set[int], sysfs: Path) -> dict[int, int]:
    """For each logical core the first logical one of its physical core; itself where the system does not tell."""
    return {
        core: min(
            _read_cores(sysfs / f"devices/system/cpu/cpu{core}/topology/thread_siblings_list")
            or {core}
        )
        for core in cores
    }


def pci_address(index: int) -> str | None:
    """PCI address of a GPU as sysfs names it, or None where torch does not know it."""
    facts = torch.cuda.get_device_properties(index)
    names = ("pci_domain_id", "pci_bus_id", "pci_device_id")
    numbers = [getattr(facts, name, None) for name in names]
    if None in numbers:
        return None
    domain, bus, slot = numbers
    return f"{domain:04x}:{bus:02x}:{slot:02x}.0"


def parse_cores(text: str) -> set[int]:
    """Cores of a kernel list: ``"0-2,8"`` -> 0, 1, 2, 8.

    Raises:
        ValueError: if it is no such list.
    """
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores |= set(range(int(first), int(last or first) + 1))
    return cores


def format_cores(cores: Sequence[int]) -> str:
    """Ascending cores as the kernel lists them: 0, 1, 2, 8 -> ``"0-2,8"``."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _local_cores(address: str | None, sysfs: Path) -> set[int]:
    if address is None:
        return set()
    return _read_cores(sysfs / "bus/pci/devices" / address / "local_cpulist")


def _read_cores(path: Path) -> set[int]:
    """Nothing where the file is missing or holds something else: then the cores are shared out without it."""
    with suppress(OSError, ValueError):
        return parse_cores(path.read_text(encoding="ascii"))
    return set()


def _bind_all_threads(cores: Sequence[int]) -> None:
    """The main thread, and those that libraries have started by now; a thread may end meanwhile."""
    os.sched_setaffinity(0, cores)
    with suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):
                os.sched_setaffinity(int(thread), cores)

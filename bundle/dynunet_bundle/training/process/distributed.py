"""Several processes that train as one: what ``torchrun`` starts, NCCL between GPUs, gloo between CPUs.

``multi_gpu_train.json`` names these parts; nothing else in the bundle starts a process group.
"""

import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from dynunet_bundle.errors import ConfigError

STEP_TIMEOUT = timedelta(hours=1)
"""A rank may be ahead of the others by a validation of several volumes, not by more."""

PREPARATION_TIMEOUT = timedelta(days=7)
"""The others wait while one process of each machine prepares the cases."""

LEAVING = timedelta(minutes=5)
"""How long a process waits at its end for the others, of which one may still write."""

_control: list[dist.ProcessGroup] = []


def environment(name: str, default: int) -> int:
    """A number that torchrun sets, e.g. ``RANK``.

    Raises:
        ConfigError: if it is no number.
    """
    value = os.environ.get(name, str(default))
    try:
        return int(value)
    except ValueError as error:
        raise ConfigError(f'the environment sets {name}="{value}", which is no number.') from error


def rank() -> int:
    """Index of this process among all, over all machines: ``rank`` of multi_gpu_*.json."""
    return environment("RANK", 0)


def world_size() -> int:
    """Number of processes, over all machines: ``world_size`` of multi_gpu_*.json."""
    return environment("WORLD_SIZE", 1)


def local_device() -> torch.device:
    """The device of this process, by its index on this machine: ``device`` of multi_gpu_*.json."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index = environment("LOCAL_RANK", 0)
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started more processes than this machine has GPUs ({torch.cuda.device_count()}). "
            "Lower --nproc_per_node."
        )
    return torch.device("cuda", index)


def is_started_again() -> bool:
    """Whether torchrun or SLURM has started this training before, with the same command."""
    return any(
        environment(name, 0) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    )


def start_processes(device: torch.device | str, datasets: Sequence[Any] = ()) -> None:
    """Join the process group and prepare the cases once a machine: ``processes`` of multi_gpu_*.json.

    One process of each machine prepares them while the others wait.

    Args:
        device: device of this process.
        datasets: data sets with ``cases()``, which prepares what is missing.

    Raises:
        ConfigError: if torchrun did not start this process.
    """
    if "MASTER_ADDR" not in os.environ:
        raise ConfigError(
            "configs/multi_gpu_train.json is for several processes. Start it with torchrun "
            "--nproc_per_node=N, or leave the overlay out."
        )
    if not dist.is_initialized():
        device = torch.device(device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # where Ignite sees this, it takes the number of SLURM's task for that of the process (0.5.5)
        os.environ.pop("SLURM_JOB_ID", None)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=STEP_TIMEOUT)
        _control[:] = [dist.new_group(backend="gloo", timeout=PREPARATION_TIMEOUT)]
    if rank() > 0:
        # what happens in all processes is said once
        logging.getLogger("dynunet_bundle").setLevel(logging.WARNING)
    if environment("LOCAL_RANK", 0) == 0:
        for dataset in datasets:
            dataset.cases()
    dist.barrier(group=_control[0])


def stop_processes() -> None:
    """Leave the process group, if there is one, together: ``finalize`` of multi_gpu_*.json.

    A process that leaves while the others still take part in a reduction takes their connections with it, and gloo may
    then wait for its own threads.
    """
    if not dist.is_initialized():
        return
    if _control:
        # where another process is gone already there is nobody to wait for
        with suppress(RuntimeError):
            dist.monitored_barrier(group=_control[0], timeout=LEAVING)
    _control.clear()
    dist.destroy_process_group()


def any_rank(flag: bool) -> bool:
    """Whether any process says yes; all must ask at the same point.

    It goes over gloo, so that a GPU's queue need not run empty for it.
    """
    if not _control:
        return flag
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=_control[0])
    return bool(votes.item())


def equal_in_all_ranks(number: int) -> bool:
    """Whether all processes give the same number, up to 62 bits; all must ask at the same point."""
    if not _control:
        return True
    bounds = torch.tensor([number, -number])
    dist.all_reduce(bounds, op=dist.ReduceOp.MAX, group=_control[0])
    return int(bounds[0]) == -int(bounds[1])


def distributed_network(network: nn.Module, device: torch.device | str) -> nn.Module:
    """The network as all processes train it: ``network`` of multi_gpu_train.json.

    Gradients are averaged, batch norms see the whole batch.

    Args:
        network: the network, on its device.
        device: that device.

    Raises:
        ConfigError: for a batch norm between CPUs; torch synchronises it between GPUs only.
    """
    device = torch.device(device)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        if device.type != "cuda":
            raise ConfigError(
                "batch norm cannot be synchronised between CPU processes. Choose an instance or group norm "
                "(norm_name), or train in one process."
            )
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    # strides of an axis of length 1 mean nothing, but torch compares them
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )


class Shard(Dataset):
    """Every ``world_size``-th case of a data set: ``validate#dataloader#dataset`` of multi_gpu_*.json.

    No case is validated twice and none is left out. MONAI's DistributedSampler either repeats cases, which then
    count twice, or leaves a rank without any; the ranks that have some then wait for it for ever. A rank without
    cases takes the first one here, with an empty label: Dice leaves out classes that a label does not have.

    Args:
        dataset: cases with a ``label`` tensor.
        rank: index of this process.
        world_size: number of processes.
    """

    def __init__(self, dataset: Dataset, rank: int, world_size: int) -> None:
        self.dataset = dataset
        self.indices = list(range(len(dataset)))[rank::world_size]  # type: ignore[arg-type]
        self.is_empty = not self.indices

    def __len__(self) -> int:
        """Number of cases of this rank, at least one."""
        return max(len(self.indices), 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One case."""
        if not self.is_empty:
            return self.dataset[self.indices[index]]
        case = dict(self.dataset[0])
        return {**case, "label": torch.zeros_like(case["label"])}

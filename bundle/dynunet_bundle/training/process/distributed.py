"""Distributed training: processes started by ``torchrun``, NCCL between GPUs, gloo between CPUs.

``multi_gpu_train.json`` uses these parts; nothing else in the bundle starts a process group.
"""

import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from ignite import distributed as idist
from monai.utils import string_list_all_gather
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from dynunet_bundle.errors import ConfigError

STEP_TIMEOUT = timedelta(hours=1)
"""Longest wait for the other ranks in a step: a rank can be ahead by the validation of several volumes."""

PREPARATION_TIMEOUT = timedelta(days=7)
"""Longest wait while one process of each machine prepares the cases."""

LEAVING = timedelta(minutes=5)
"""Longest wait for the other processes at the end: one may still be writing."""

_control: list[dist.ProcessGroup] = []


def environment(name: str, default: int) -> int:
    """An integer environment variable that torchrun sets, e.g. ``RANK``.

    Raises:
        ConfigError: if its value is not a whole number.
    """
    value = os.environ.get(name, str(default))
    try:
        return int(value)
    except ValueError as error:
        raise ConfigError(
            f'the environment variable {name} is "{value}". Set a whole number, or unset it.'
        ) from error


def rank() -> int:
    """Index of this process over all machines: ``rank`` of multi_gpu_*.json."""
    return environment("RANK", 0)


def world_size() -> int:
    """Number of processes, over all machines: ``world_size`` of multi_gpu_*.json."""
    return environment("WORLD_SIZE", 1)


def local_device() -> torch.device:
    """The device of this process, chosen by its local rank: ``device`` of multi_gpu_*.json.

    Raises:
        ConfigError: if there are more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index = environment("LOCAL_RANK", 0)
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started more processes than there are GPUs on this machine ({torch.cuda.device_count()}). "
            "Lower --nproc_per_node."
        )
    return torch.device("cuda", index)


def is_started_again() -> bool:
    """Whether torchrun or SLURM restarted this training."""
    return any(
        environment(name, 0) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    )


def start_processes(device: torch.device | str, datasets: Sequence[Any] = ()) -> None:
    """Join the process group and prepare the cases: ``processes`` of multi_gpu_*.json.

    One process per machine prepares the cases while the others wait.

    Args:
        device: device of this process.
        datasets: data sets with ``cases()``, which prepares missing cases.

    Raises:
        ConfigError: if torchrun did not start this process.
    """
    if "MASTER_ADDR" not in os.environ:
        raise ConfigError(
            "configs/multi_gpu_train.json needs several processes. Start it with torchrun "
            "--nproc_per_node=N, or omit this overlay."
        )
    if not dist.is_initialized():
        device = torch.device(device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # with this variable, Ignite (0.5.5) takes the index of SLURM's task for the rank
        os.environ.pop("SLURM_JOB_ID", None)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=STEP_TIMEOUT)
        _control[:] = [dist.new_group(backend="gloo", timeout=PREPARATION_TIMEOUT)]
    if rank() > 0:
        # messages of all processes would repeat each other
        logging.getLogger("dynunet_bundle").setLevel(logging.WARNING)
    if environment("LOCAL_RANK", 0) == 0:
        for dataset in datasets:
            dataset.cases()
    dist.barrier(group=_control[0])


def stop_processes() -> None:
    """Leave the process group, if any, at the same time as the others: ``finalize`` of multi_gpu_*.json.

    A process that leaves during a reduction of the others closes their connections, and gloo may then wait for its
    own threads.
    """
    if not dist.is_initialized():
        return
    if _control:
        # fails if another process is already gone
        with suppress(RuntimeError):
            dist.monitored_barrier(group=_control[0], timeout=LEAVING)
    _control.clear()
    dist.destroy_process_group()


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` is true in any process; all processes must call this at the same point.

    It uses gloo, which does not wait for work queued on the GPU.
    """
    if not _control:
        return flag
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=_control[0])
    return bool(votes.item())


def equal_in_all_ranks(number: int) -> bool:
    """Whether ``number`` (up to 62 bits) is equal in all processes; all must call this at the same point."""
    if not _control:
        return True
    bounds = torch.tensor([number, -number])
    dist.all_reduce(bounds, op=dist.ReduceOp.MAX, group=_control[0])
    return int(bounds[0]) == -int(bounds[1])


def of_all_ranks(items: Mapping[str, Any]) -> dict[str, Any]:
    """Items of all processes by name, sorted if there are several; all must call this at the same point.

    Args:
        items: JSON data by name. If two processes have an item of the same name, one of the two is kept.
    """
    if idist.get_world_size() == 1:
        return dict(items)
    # MONAI separates the texts by tabs, which JSON escapes
    texts = string_list_all_gather([json.dumps(item) for item in items.items()])
    return dict(sorted(map(json.loads, filter(None, texts)), key=lambda item: str(item[0])))


def distributed_network(network: nn.Module, device: torch.device | str) -> nn.Module:
    """Wrap a network with DDP: ``network`` of multi_gpu_train.json.

    Gradients are averaged over processes; batch norms are synchronised.

    Args:
        network: the network, on its device.
        device: that device.

    Raises:
        ConfigError: for batch norm on a CPU; torch synchronises it between GPUs only.
    """
    device = torch.device(device)
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        if device.type != "cuda":
            raise ConfigError(
                "batch norm cannot be synchronised between CPU processes. Choose an instance or group norm "
                "(norm_name), or train in one process."
            )
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    # torch also compares the strides of axes of length 1, which have no meaning
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
    )


class Shard(Dataset):
    """Every ``world_size``-th case of a data set: ``validate#dataloader#dataset`` of multi_gpu_*.json.

    Each case is validated exactly once. MONAI's DistributedSampler either repeats cases, which then count twice, or
    leaves a rank without cases, for which the other ranks wait forever. Here such a rank takes the first case with an
    empty label, which does not count: Dice skips classes that are absent from the label.

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
        # a case that could not be read has no label
        return case | ({"label": torch.zeros_like(case["label"])} if "label" in case else {})

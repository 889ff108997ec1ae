"""Checkpoints of nnU-Net, which are pickles: read without running anything that they hold."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynunet_bundle.errors import WeightsError, first_line
from dynunet_bundle.networks.tensor_file import load_tensors
from dynunet_bundle.networks.weights import find_tensor_fault
from dynunet_bundle.nnunet.numbers import STAND_INS
from dynunet_bundle.shapes import MAX_INTEGER, MAX_VALUE, excerpt

REFUSED = re.compile(r"GLOBAL ([\w.]+)")
"""Where a message names a global that was not loaded."""


@dataclass(frozen=True)
class NnunetCheckpoint:
    """What a prediction needs of a checkpoint.

    Attributes:
        state: weights by nnU-Net's names.
        configuration: name of the configuration in plans.json, e.g. ``3d_fullres``.
        trainer: name of the trainer's class.
        mirror_axes: axes of the patch that the training mirrored over.
        epoch: number of finished epochs, or None.
    """

    state: Mapping[str, torch.Tensor]
    configuration: str
    trainer: str
    mirror_axes: tuple[int, ...]
    epoch: int | None


def read_checkpoint(path: Path) -> NnunetCheckpoint:
    """Read a checkpoint of nnU-Net v2.

    Args:
        path: ``checkpoint_final.pth`` or ``checkpoint_best.pth``.

    Raises:
        WeightsError: if the file is damaged, holds other objects than numbers, texts and tensors, or lacks what
            nnU-Net writes.
    """
    try:
        content = load_tensors(path, STAND_INS)
    except Exception as error:
        found = REFUSED.search(str(error))
        if found:
            raise WeightsError(
                f"{path} holds {found.group(1)}, which may run code; it was not loaded. "
                "Get the checkpoint from a source you trust, as nnU-Net saved it."
            ) from error
        raise WeightsError(
            f"{path} is not a checkpoint, or is damaged ({first_line(error)}). Get the file again."
        ) from error
    return _described(content, path)


def _described(content: Any, path: Path) -> NnunetCheckpoint:
    fault = f"{path} is not a checkpoint of nnU-Net v2: "
    if not isinstance(content, Mapping) or not isinstance(content.get("network_weights"), Mapping):
        raise WeightsError(f"{fault}it lacks network_weights. Pass a folder of nnUNet_results.")
    state = content["network_weights"]
    for name, value in state.items():
        if problem := find_tensor_fault(name, value):
            raise WeightsError(f"{fault}{problem}.")
    arguments = content.get("init_args")
    configuration = arguments.get("configuration") if isinstance(arguments, Mapping) else None
    if not isinstance(configuration, str):
        raise WeightsError(f"{fault}it lacks init_args with the configuration.")
    trainer, epoch = content.get("trainer_name", "nnUNetTrainer"), content.get("current_epoch")
    if not isinstance(trainer, str):
        raise WeightsError(f"{fault}its trainer_name is of type {type(trainer).__name__}.")
    has_epoch = type(epoch) is int and 0 <= epoch < MAX_INTEGER
    return NnunetCheckpoint(
        # compiled trainings have a prefix, as nnU-Net's own loader knows
        state={name.removeprefix("module."): value for name, value in state.items()},
        configuration=configuration,
        trainer=excerpt(trainer, MAX_VALUE),
        mirror_axes=_axes(content.get("inference_allowed_mirroring_axes"), fault),
        epoch=epoch if has_epoch else None,
    )


def _axes(axes: Any, fault: str) -> tuple[int, ...]:
    """The mirroring axes, checked: none, or some of 0, 1 and 2."""
    if axes is None:
        return ()
    known = isinstance(axes, (list, tuple)) and all(type(axis) is int for axis in axes)
    if not known or not set(axes) <= {0, 1, 2} or len(set(axes)) < len(axes):
        raise WeightsError(f"{fault}its mirroring axes must be 0, 1 or 2, each once.")
    return tuple(axes)

"""Checkpoints of nnU-Net, which are pickles: read without running anything that they hold."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynunet_bundle.errors import WeightsError, first_line

SCALAR = np.float64(0).__reduce__()[0]
"""numpy's function that makes a number from its type and bytes."""

HARMLESS: list[Any] = [
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    SCALAR,
    # the name of the same function in files of numpy 1
    (SCALAR, "numpy.core.multiarray.scalar"),
]
"""Globals that nnU-Net's checkpoints hold beyond those of torch: numbers of numpy (the best Dice, the log)."""

REFUSED = re.compile(r"GLOBAL ([\w.]+)")
"""Where torch's message names a global that it did not load."""


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
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
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
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"{fault}network_weights holds {type(value).__name__}, not tensors.")
    arguments, axes = content.get("init_args"), content.get("inference_allowed_mirroring_axes")
    configuration = arguments.get("configuration") if isinstance(arguments, Mapping) else None
    if not isinstance(configuration, str):
        raise WeightsError(f"{fault}it lacks init_args with the configuration.")
    if axes is not None and not all(axis in (0, 1, 2) for axis in axes):
        raise WeightsError(f"{fault}its mirroring axes are {axes!s:.40}. They must be 0, 1 or 2.")
    epoch = content.get("current_epoch")
    return NnunetCheckpoint(
        # compiled trainings have a prefix, as nnU-Net's own loader knows
        state={name.removeprefix("module."): value for name, value in state.items()},
        configuration=configuration,
        trainer=str(content.get("trainer_name", "nnUNetTrainer")),
        mirror_axes=tuple(int(axis) for axis in axes or ()),
        epoch=epoch if isinstance(epoch, int) else None,
    )

"""The networks that a plan can name, in their training and prediction forms.

Stored on disk: the names of ``ARCHITECTURES``, in plans, packages and model.json. Classes may be renamed, these not.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from monai.networks.nets import DynUNet
from torch import nn

from dynunet_bundle.errors import PlanError, first_line
from dynunet_bundle.machine.limits import require_memory
from dynunet_bundle.networks.dynunet import (
    DeepSupervisedDynUNet,
    DeepSupervisedPlainConvUNet,
    PlainConvUNet,
)
from dynunet_bundle.networks.residual import (
    INSTANCE_NORM,
    RESENC_BLOCKS,
    LayerName,
    ResidualEncoderUNet,
)
from dynunet_bundle.planning.plan import find_old_architecture

BuiltNetwork = TypeVar("BuiltNetwork", bound=nn.Module)

TrainingNetwork = DeepSupervisedDynUNet | ResidualEncoderUNet

ARCHITECTURES: dict[str, type[TrainingNetwork]] = {
    "DynUNet": DeepSupervisedDynUNet,
    "PlainConvUNet": DeepSupervisedPlainConvUNet,
    "ResidualEncoderUNet": ResidualEncoderUNet,
}
"""Classes for training by their names in plans."""

PLAIN: dict[str, type[DynUNet]] = {"DynUNet": DynUNet, "PlainConvUNet": PlainConvUNet}
"""Classes for prediction where they differ from those for training."""


def training_network(
    architecture: str, deep_supervision: bool = True, **plan_ids: Any
) -> TrainingNetwork:
    """The network for training, with deep supervision heads: ``network_def`` of train.json.

    Args:
        architecture: a name of ``ARCHITECTURES``.
        deep_supervision: whether there are heads below the full resolution.
        **plan_ids: see ``network_arguments``.

    Raises:
        PlanError: for an unknown architecture, or ids that do not fit each other.
    """
    arguments = network_arguments(**plan_ids)
    return _build(_class_of(architecture), **arguments, deep_supervision=deep_supervision)


def plain_network(architecture: str, **plan_ids: Any) -> nn.Module:
    """The network for prediction, without heads: ``network_def`` of inference.json and evaluate.json.

    It loads the result of ``inference_state_dict`` strictly.

    Args:
        architecture: a name of ``ARCHITECTURES``; ``DynUNet`` gives MONAI's class.
        **plan_ids: see ``network_arguments``.

    Raises:
        PlanError: for an unknown architecture, or ids that do not fit each other.
    """
    network, arguments = _class_of(architecture), network_arguments(**plan_ids)
    if architecture not in PLAIN:
        return _build(network, **arguments, deep_supervision=False)
    strides = arguments["strides"]
    return _build(PLAIN[architecture], **arguments, upsample_kernel_size=strides[1:])


def _build(network: type[BuiltNetwork], **arguments: Any) -> BuiltNetwork:
    try:
        require_memory(_least_bytes(network, **arguments), "the network")
        return network(**arguments)
    except (
        Exception
    ) as error:  # MONAI and torch raise many kinds for lists that do not fit each other
        raise PlanError(
            f"the plan gives no network ({first_line(error)}). Correct kernel_sizes, strides, filters or norm_name; "
            "dynunet-bundle plan writes plans that fit."
        ) from error


def _least_bytes(
    network: type[nn.Module],
    filters: Sequence[int],
    kernel_size: Sequence[int | Sequence[int]],
    strides: Sequence[Any],
    spatial_dims: int,
    **other: Any,
) -> int:
    """Bytes of the convolutions, the smaller layers left out."""
    has_blocks = issubclass(network, ResidualEncoderUNet)
    total, before = 0, 0
    for level, (width, kernel) in enumerate(
        zip(filters[: len(strides)], kernel_size, strict=False)
    ):
        blocks = RESENC_BLOCKS[min(level, len(RESENC_BLOCKS) - 1)] if has_blocks else 1
        voxels = kernel**spatial_dims if isinstance(kernel, int) else math.prod(kernel)
        total += width * (before + (2 * blocks - 1) * width) * voxels
        if level < len(strides) - 1:
            # the decoder of this level: both inputs, and for plain networks a second convolution
            total += width * (2 if has_blocks else 3) * width * voxels
        before = width
    return total * torch.float32.itemsize


def _class_of(architecture: str) -> type[TrainingNetwork]:
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    fault = find_old_architecture({"architecture": architecture})
    names = " or ".join(f'"{name}"' for name in ARCHITECTURES)
    raise PlanError(fault or f'architecture is "{architecture}". It must be {names}.')


def network_arguments(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    kernel_sizes: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    filters: Sequence[int],
    norm_name: LayerName = INSTANCE_NORM,
    negative_slope: float = 0.01,
) -> dict[str, Any]:
    """Convert the ids of a plan to the arguments that all networks share.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image; in a cascade also the classes of the previous stage.
        out_channels: number of regions, or of classes with the background.
        kernel_sizes: kernel of each level.
        strides: stride into each level; the first is all ones.
        filters: channels of each level; extra values at the end are ignored.
        norm_name: norm, as named by MONAI's layer factories.
        negative_slope: slope of the leaky ReLU below zero.
    """
    return {
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": kernel_sizes,
        "strides": strides,
        "filters": filters,
        "norm_name": norm_name,
        "act_name": ["leakyrelu", {"inplace": True, "negative_slope": negative_slope}],
        "trans_bias": True,
    }

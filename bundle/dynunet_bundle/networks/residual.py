"""The network of nnU-Net's residual-encoder planners (ResEnc M, L, XL), composed of MONAI's parts.

Tensors are ``[B, C, *spatial]``. Source of the architecture and of all constants: nnunetv2 2.8.1,
``experiment_planning/experiment_planners/residual_unets``, and dynamic_network_architectures 0.4.4,
``ResidualEncoderUNet``; Isensee et al., "nnU-Net Revisited" (2024).

MONAI's DynUNet cannot be configured as this network, even with ``res_block``. It has one block per level, no stem, no
bias in its convolutions, and two convolutions per decoder level, with the kernel of the level below. The shortcut of
``UnetResBlock`` is a strided 1x1 convolution; ResNet-D's (He et al., CVPR 2019) averages over the stride and
convolves only if the number of channels changes.

Stored on disk: the names of the parameters, in all weight files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.blocks import Convolution
from monai.networks.blocks.dynunet_block import UnetOutBlock, get_conv_layer
from monai.networks.layers.utils import get_act_layer, get_pool_layer
from monai.networks.nets import DynUNet
from torch import nn

from dynunet_bundle.errors import PlanError, counted
from dynunet_bundle.planning.nnunet_rules import RESENC_BLOCKS

MIN_LEVELS = 2
"""Smallest number of levels: a U-Net of one level does not have a decoder."""

HEADS_PREFIX = "supervision_heads."
INSTANCE_NORM = ("INSTANCE", {"affine": True})
LEAKY_RELU = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})

LayerName = str | Sequence[Any]  # a name of MONAI's layer factories, or the name and its arguments


@dataclass(frozen=True)
class Layers:
    """Settings shared by all layers of a network.

    Attributes:
        spatial_dims: 2 or 3.
        norm_name: norm after each convolution.
        act_name: activation.
    """

    spatial_dims: int
    norm_name: LayerName = INSTANCE_NORM
    act_name: LayerName = LEAKY_RELU

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int] | int,
        stride: Sequence[int] | int = 1,
        act: bool = True,
        bias: bool = True,
    ) -> nn.Module:
        """Convolution, norm, and activation if ``act``; kernel sizes are odd, padding keeps the size."""
        return Convolution(
            self.spatial_dims,
            in_channels,
            out_channels,
            strides=stride,
            kernel_size=kernel_size,
            norm=self.norm_name,
            act=self.act_name if act else None,
            bias=bias,
        )


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut: ResNet-D's basic block, nnU-Net's ``BasicBlockD``.

    The shortcut averages over a stride above 1, and changes the number of channels, if it differs, by a 1x1
    convolution without bias and a norm. Otherwise it is the identity.

    Args:
        layers: norm and activation.
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: kernel of both convolutions.
        stride: stride of the first convolution and of the shortcut.
    """

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        self.conv1 = layers.conv(in_channels, out_channels, kernel_size, stride)
        self.conv2 = layers.conv(out_channels, out_channels, kernel_size, act=False)
        self.shortcut = nn.Sequential()
        if max(stride) > 1:
            window = {"kernel_size": tuple(stride), "stride": tuple(stride)}
            self.shortcut.append(get_pool_layer(("avg", window), layers.spatial_dims))
        if in_channels != out_channels:
            self.shortcut.append(layers.conv(in_channels, out_channels, 1, act=False, bias=False))
        self.act = get_act_layer(layers.act_name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to ``[B, out_channels, *(spatial / stride)]``."""
        out = self.conv2(self.conv1(x))
        out += self.shortcut(x)
        return self.act(out)


class DecoderBlock(nn.Module):
    """A transposed convolution, then one convolution of its output concatenated with the skip.

    MONAI's ``UnetUpBlock`` has two convolutions, without bias.

    Args:
        layers: norm and activation.
        in_channels: channels of the level below.
        out_channels: channels of this level.
        kernel_size: kernel of this level.
        stride: stride into the level below; kernel and stride of the transposed convolution.
        trans_bias: whether the transposed convolution has a bias.
    """

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        trans_bias: bool,
    ) -> None:
        super().__init__()
        self.transp_conv = get_conv_layer(
            layers.spatial_dims,
            in_channels,
            out_channels,
            kernel_size=stride,
            stride=stride,
            bias=trans_bias,
            is_transposed=True,
        )
        self.conv = layers.conv(2 * out_channels, out_channels, kernel_size)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Upsample ``x`` to the grid of ``skip`` and merge the two: ``[B, out_channels, *spatial]`` of that grid."""
        return self.conv(torch.cat((self.transp_conv(x), skip), dim=1))


class ResidualEncoderUNet(nn.Module):
    """nnU-Net's ResEnc U-Net with the arguments and outputs of ``DeepSupervisedDynUNet``.

    With deep supervision, its parameters map one to one to those of nnU-Net's network. nnU-Net has a head on every
    decoder level, and the lowest has weight 0 in its loss. Here that head, the last of ``supervision_heads``, exists
    but is frozen and never computed, so that DDP and the optimizer skip it. Without deep supervision, only the head
    of the full resolution exists; this form loads ``dynunet.inference_state_dict`` strictly.

    Scripted by ``torch.jit.script``, it returns only the finest logits, even in training.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: labels including the background.
        kernel_size: kernel of each level.
        strides: stride into each level.
        filters: channels of each level; extra values at the end are ignored.
        norm_name: norm, as named by MONAI's layer factories.
        act_name: activation, as named by MONAI's layer factories.
        deep_supervision: whether there are heads below the full resolution.
        trans_bias: whether the transposed convolutions have a bias, as in nnU-Net.

    Raises:
        PlanError: if the lists do not match or describe fewer than 2 levels.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        filters: Sequence[int],
        norm_name: LayerName = INSTANCE_NORM,
        act_name: LayerName = LEAKY_RELU,
        deep_supervision: bool = True,
        trans_bias: bool = True,
    ) -> None:
        super().__init__()
        _check_levels(spatial_dims, kernel_size, strides, filters)
        layers = Layers(spatial_dims, norm_name, act_name)
        levels = range(len(strides))
        self.stem = layers.conv(in_channels, filters[0], kernel_size[0])
        self.encoder = nn.ModuleList(
            _encoder_level(layers, level, kernel_size[level], strides[level], filters)
            for level in levels
        )
        self.decoder = nn.ModuleList(
            DecoderBlock(
                layers,
                filters[level + 1],
                filters[level],
                kernel_size[level],
                strides[level + 1],
                trans_bias,
            )
            for level in reversed(levels[:-1])
        )
        self.output_block = UnetOutBlock(spatial_dims, filters[0], out_channels)
        self.supervision_heads = nn.ModuleList(
            UnetOutBlock(spatial_dims, filters[level], out_channels)
            for level in (levels[1:-1] if deep_supervision else ())
        )
        self.supervision_heads[-1:].requires_grad_(False)
        self.apply(initialize_weights)
        self.register_load_state_dict_pre_hook(keep_heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits.

        Args:
            x: ``[B, C, *spatial]``; each size a multiple of the product of the strides.

        Returns:
            In training a list of ``[B, classes, ...]``, finest first; else the finest only.
        """
        x = self.stem(x)
        skips: list[torch.Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        x = skips.pop()
        features: list[torch.Tensor] = []
        for block in self.decoder:
            x = block(x, skips.pop())
            features.append(x)
        if not torch.jit.is_scripting() and self.training:
            # TorchScript enforces the return annotation but skips this line
            return self._supervised(features)  # type: ignore[return-value]
        return self.output_block(x)

    def _supervised(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Logits of all decoder levels except the lowest, finest first; ``features`` are lowest first."""
        heads = [self.output_block, *self.supervision_heads[:-1]]
        return [head(level) for head, level in zip(heads, reversed(features), strict=False)]


def initialize_weights(module: nn.Module) -> None:
    """Initialise like nnU-Net; for ``Module.apply``.

    Convolutions as in MONAI's DynUNet: He normal for a slope of 0.01, biases 0. The last norm of a residual block has
    weight and bias 0, so that the block starts as its shortcut.
    """
    DynUNet.initialize_weights(module)
    if isinstance(module, ResidualBlock):
        for parameter in module.conv2.get_submodule("adn").parameters():
            nn.init.zeros_(parameter)


def keep_heads(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let weights without deep supervision heads, such as ``model.pt``, load strictly; the heads stay unchanged.

    MONAI's CheckpointLoader can then start a training from such a file. Everything else is still checked.

    Args:
        module: a network with ``supervision_heads``, for ``register_load_state_dict_pre_hook``.
        state_dict: the weights to load; the module's own heads are added.
        prefix: prefix of the network's names in ``state_dict``.
        *_: further arguments of the hook.
    """
    prefix += HEADS_PREFIX
    if not any(name.startswith(prefix) for name in state_dict):
        state_dict |= module.get_submodule(HEADS_PREFIX[:-1]).state_dict(prefix=prefix)


def _encoder_level(
    layers: Layers,
    level: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    filters: Sequence[int],
) -> nn.Sequential:
    """Residual blocks of one level; the first has the stride and changes the number of channels."""
    width = filters[level]
    blocks = nn.Sequential(
        ResidualBlock(layers, filters[max(level - 1, 0)], width, kernel_size, stride)
    )
    for _ in range(RESENC_BLOCKS[min(level, len(RESENC_BLOCKS) - 1)] - 1):
        blocks.append(ResidualBlock(layers, width, width, kernel_size, [1] * layers.spatial_dims))
    return blocks


def _check_levels(
    spatial_dims: int,
    kernel_size: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    filters: Sequence[int],
) -> None:
    """Refuse lists that do not describe one network."""
    remedy = "Take kernel_sizes, strides and filters from one plan of dynunet-bundle plan."
    num_levels = len(strides)
    if len(kernel_size) != num_levels or len(filters) < num_levels:
        raise PlanError(
            f"{counted(len(kernel_size), 'kernel')}, {counted(num_levels, 'stride')} and "
            f"{counted(len(filters), 'filter')} do not match: "
            f"each level needs one of each. {remedy}"
        )
    if num_levels < MIN_LEVELS:
        raise PlanError(
            f"the plan has {counted(num_levels, 'level')}, but a U-Net needs at least {MIN_LEVELS}. {remedy}"
        )
    if any(len(size) != spatial_dims for size in [*kernel_size, *strides]):
        raise PlanError(
            f"kernels {list(kernel_size)} and strides {list(strides)} must have {spatial_dims} values each. {remedy}"
        )

"""MONAI's DynUNet with deep supervision at native resolutions, and its form with nnU-Net's decoder kernels.

Tensors are ``[B, C, *spatial]``. MONAI's own deep supervision upsamples every head to full resolution (five times
the logits at 128^3), also computes the heads in evaluation, and cannot be deep-copied after a training step.

Stored on disk: the names of the parameters, in all weight files.
"""

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks.dynunet_block import UnetUpBlock
from monai.networks.nets import DynUNet
from torch import nn

from dynunet_bundle.networks.cpu.layers import use_cpu_layers
from dynunet_bundle.networks.residual import HEADS_PREFIX, keep_heads


class DeepSupervisedDynUNet(DynUNet):
    """DynUNet whose training output is one tensor of logits per decoder level, finest first.

    The lowest decoder level does not have a head: its weight in nnU-Net's loss is zero. In evaluation it is a plain
    DynUNet. Apart from the heads, the parameters are those of a plain DynUNet (see ``inference_state_dict``), whose
    weights load strictly and leave the heads unchanged.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: labels including the background.
        kernel_size: kernel of each level.
        strides: stride into each level.
        filters: channels of each level; extra values at the end are ignored.
        deep_supervision: whether there are heads below the full resolution.
        **kwargs: further arguments of DynUNet, such as ``norm_name``, ``act_name``, ``trans_bias``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        filters: Sequence[int],
        deep_supervision: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            strides=strides,
            upsample_kernel_size=list(strides[1:]),
            filters=list(filters),
            deep_supervision=False,
            **kwargs,
        )
        num_heads = max(len(strides) - 3, 0) if deep_supervision else 0
        self.supervision_heads = nn.ModuleList(
            self.get_output_block(level + 1) for level in range(num_heads)
        )
        self.supervision_heads.apply(self.initialize_weights)
        use_cpu_layers(self)
        self.register_load_state_dict_pre_hook(keep_heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Compute the logits.

        Args:
            x: ``[B, C, *spatial]``; each size a multiple of the product of the strides.

        Returns:
            In training a list of ``[B, classes, ...]``, finest first; else the finest only.
        """
        if not self.training:
            return super().forward(x)
        skips = [self.input_block(x)]
        for downsample in self.downsamples:
            skips.append(downsample(skips[-1]))
        features = self.bottleneck(skips[-1])
        levels = []
        for upsample, skip in zip(self.upsamples, reversed(skips), strict=True):
            features = upsample(features, skip)
            levels.append(features)
        heads = [self.output_block, *self.supervision_heads]
        return [head(level) for head, level in zip(heads, reversed(levels), strict=False)]


class PlainConvUNet(DynUNet):
    """nnU-Net's network of this name (dynamic_network_architectures 0.4.4) for plans whose kernels differ by level.

    A decoder block has the kernel of its own level; MONAI's DynUNet gives it that of the level below. With one kernel
    for all levels, both are the same network.
    """

    def get_upsamples(self) -> nn.ModuleList:
        """Decoder blocks, from the lowest level up."""
        blocks: nn.ModuleList = self.get_module_list(
            self.filters[1:][::-1],
            self.filters[:-1][::-1],
            self.kernel_size[:-1][::-1],
            self.strides[1:][::-1],
            UnetUpBlock,
            self.upsample_kernel_size[::-1],
            trans_bias=self.trans_bias,
        )
        return blocks


class DeepSupervisedPlainConvUNet(PlainConvUNet, DeepSupervisedDynUNet):
    """``PlainConvUNet`` with the arguments and the training output of ``DeepSupervisedDynUNet``."""


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside DDP, ``torch.compile`` and torch's AveragedModel, in any order; a bare one unchanged."""
    while True:
        children = dict(network.named_children())
        inner = children.get("module", children.get("_orig_mod"))
        if inner is None:
            return network
        network = inner


def inference_state_dict(network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights that a plain DynUNet of the same plan loads strictly: without heads and prefixes of wrappers.

    Args:
        network: a DeepSupervisedDynUNet, bare or wrapped by DDP, ``torch.compile`` or torch's AveragedModel.
    """
    plain: dict[str, torch.Tensor] = {}
    copies: dict[int, torch.Tensor] = {}
    # unwrapped: AveragedModel has an extra buffer that counts its updates
    for name, value in unwrapped(network).state_dict().items():
        if not name.startswith(HEADS_PREFIX):
            # DynUNet lists each weight twice; one shared copy halves the size of the file
            plain[name] = copies.setdefault(value.data_ptr(), value.detach().cpu().contiguous())
    return plain


def deep_supervision_weights(num_levels: int, deep_supervision: bool = True) -> list[float]:
    """One weight per output of ``DeepSupervisedDynUNet``: ``loss#level_weights`` of train.json.

    As in nnU-Net, the weight halves at each level, is 0 at the lowest decoder level, and the sum is 1.

    Args:
        num_levels: levels of the network, ``len(strides)``.
        deep_supervision: as in the network.

    Returns:
        One weight per output, finest first.
    """
    num_outputs = max(num_levels - 2, 1) if deep_supervision else 1
    weights = [0.5**level for level in range(num_outputs)]
    return [weight / sum(weights) for weight in weights]

"""Forward pass of a DynUNet in evaluation on a CPU, with little memory.

The finest level dominates: with 32 channels of 96x160x160 voxels, bfloat16, each tensor takes 150 MiB. MONAI's
forward holds the skip, the upsampled features, the two concatenated and the result of the convolution at once: five
such tensors. Here there are two and a slab. A skip is freed after its only use; and since the convolution of
concatenated channels is the sum of the convolutions of the parts, nothing is concatenated, and only a slab of the
upsampled features exists at any time. docs/benchmarks/prediction.md has the figures.
"""

import threading
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from monai.networks.blocks import UnetBasicBlock, UnetUpBlock
from monai.networks.nets import DynUNet
from torch import nn

from dynunet_bundle.networks.cpu.layers import UpConv2d, UpConv3d, convolve, use_cpu_layers
from dynunet_bundle.networks.cpu.norm import channels_last, is_plain_cpu
from dynunet_bundle.networks.dynunet import PlainConvUNet

SLAB = 2**24
"""Largest number of upsampled values that exist at once; 32 MiB in bfloat16."""

_FITTING = threading.Lock()


class LeanDynUNet(DynUNet):
    """MONAI's DynUNet with another forward pass without gradients, whose results differ by rounding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, classes, *spatial]`` of ``[B, C, *spatial]``."""
        if torch.is_grad_enabled() or not is_plain_cpu(x):
            logits: torch.Tensor = super().forward(x)
            return logits
        skips = [self.input_block(x.contiguous(memory_format=channels_last(x)))]
        for downsample in self.downsamples:
            skips.append(downsample(skips[-1]))
        features = self.bottleneck(skips[-1])
        for upsample in self.upsamples:
            joined = _first_convolution(upsample, features, skips)
            features = _after_first(upsample.conv_block, joined)
            # the next level needs the memory
            del joined
        logits = self.output_block(features)
        return logits


def fit_to_cpu(network: nn.Module) -> None:
    """Prepare the DynUNets in a network for fast prediction on a CPU, in place; repeated calls have no effect.

    They get the layers of ``layers.py``, weights in channels-last order, and, if it supports all their blocks, the
    forward pass of ``LeanDynUNet``. Results change by rounding only; parameters and their names stay the same.
    Networks on other devices are unchanged.

    Args:
        network: a DynUNet, or a module that contains some.
    """
    # a server may have several threads: no thread may use half-converted layers
    with _FITTING:
        for part in network.modules():
            if (
                type(part) in (DynUNet, PlainConvUNet)
                and next(part.parameters()).device.type == "cpu"
            ):
                _fit(part)


def _fit(network: Any) -> None:
    use_cpu_layers(network)
    largest = max(parameter.ndim for parameter in network.parameters())
    network.to(memory_format=channels_last(torch.empty((1,) * largest)))
    blocks = [block for block in network.modules() if isinstance(block, UnetUpBlock)]
    # otherwise it keeps MONAI's forward pass, and the next call checks it again
    if all(map(_fits, blocks)):
        network.__class__ = LeanDynUNet


def _fits(upsample: Any) -> bool:
    block = upsample.conv_block
    return (
        type(block) is UnetBasicBlock
        and isinstance(upsample.transp_conv.conv, (UpConv2d, UpConv3d))
        and len(upsample.transp_conv) == 1
        and len(block.conv1) == 1
        and block.conv1.conv.bias is None
    )


def _first_convolution(
    upsample: Any, features: torch.Tensor, skips: list[torch.Tensor]
) -> torch.Tensor:
    """First convolution of a decoder level, of the upsampled features and the last skip, which is popped."""
    conv, enlarge = upsample.conv_block.conv1.conv, upsample.transp_conv
    factor, width = enlarge.conv.stride[0], enlarge.conv.out_channels
    order = channels_last(features)
    of_features, of_skip = (
        part.contiguous(memory_format=order) for part in conv.weight.tensor_split([width], 1)
    )
    result = convolve(skips.pop(), of_skip, conv.padding)
    depth, margin = features.shape[2], conv.padding[0]
    halo = -(-margin // factor)
    rows = max(SLAB // (features[:, 0, 0].numel() * enlarge.conv.weight[0].numel()), 1)
    for start in range(0, depth, rows):
        stop = min(start + rows, depth)
        first, last = max(start - halo, 0), min(stop + halo, depth)
        slab = _planes(
            enlarge(features[:, :, first:last]),
            (start - first) * factor - margin,
            (stop - first) * factor + margin,
        )
        part = slab.contiguous(memory_format=order)
        del slab
        planes = slice(start * factor, stop * factor)
        result[:, :, planes] += convolve(part, of_features, (0, *conv.padding[1:]))
    return result


def _planes(x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Planes ``start`` to ``stop`` along the first spatial axis, zeros outside ``x``."""
    size = x.shape[2]
    before, after = max(-start, 0), max(stop - size, 0)
    inner = x[:, :, max(start, 0) : min(stop, size)]
    if not before and not after:
        return inner
    # F.pad expects the last axis first
    return F.pad(inner, (*[0, 0] * (x.ndim - 3), before, after))


def _after_first(block: Any, x: torch.Tensor) -> torch.Tensor:
    """Apply the layers of a block after its first convolution."""
    activated: torch.Tensor = block.lrelu(block.norm1(x))
    result: torch.Tensor = block.lrelu(block.norm2(block.conv2(activated)))
    return result

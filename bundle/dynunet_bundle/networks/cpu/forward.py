"""A DynUNet's pass in evaluation on a CPU, with little memory.

The finest level decides: of 32 channels at 96x160x160 voxels, bfloat16, each tensor takes 150 MiB. MONAI's
forward holds the skip, the enlarged features, both of them joined and the result of the convolution at once, which is
five of these. Here there are two and a slab: skips leave with their only use, and since a convolution of joined
channels is the sum of the convolutions of the parts, nothing is joined, and of the enlarged features there is
only a slab at any time. docs/benchmarks/prediction.md has the figures.
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

SLAB = 2**24
"""Numbers of the enlarged features that exist at once; 32 MiB in bfloat16."""

_FITTING = threading.Lock()


class LeanDynUNet(DynUNet):
    """MONAI's DynUNet but for its forward pass without gradients, which differs by rounding."""

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
    """Let the DynUNets in a network predict as it costs least on a CPU, in place; nothing happens a second time.

    They get the layers of ``cpu_layers``, weights in channels-last order, and the forward pass of ``LeanDynUNet``, if
    their blocks are those that it knows. What they compute stays the same but for rounding, and so do their parameters
    and the names of these. Networks elsewhere are left alone.

    Args:
        network: a DynUNet, or a module that has some.
    """
    # a server may have several threads: all of them wait here until the layers of a block belong together
    with _FITTING:
        for part in network.modules():
            if type(part) is DynUNet and next(part.parameters()).device.type == "cpu":
                _fit(part)


def _fit(network: Any) -> None:
    use_cpu_layers(network)
    largest = max(parameter.ndim for parameter in network.parameters())
    network.to(memory_format=channels_last(torch.empty((1,) * largest)))
    blocks = [block for block in network.modules() if isinstance(block, UnetUpBlock)]
    # else it keeps its pass, and is looked at again
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
    """The first convolution of a decoder level, of the enlarged features and the last of the skips, which is taken."""
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
    """Planes along the first spatial axis, zeros where there are none."""
    size = x.shape[2]
    before, after = max(-start, 0), max(stop - size, 0)
    inner = x[:, :, max(start, 0) : min(stop, size)]
    if not before and not after:
        return inner
    # F.pad takes the last axis first
    return F.pad(inner, (*[0, 0] * (x.ndim - 3), before, after))


def _after_first(block: Any, x: torch.Tensor) -> torch.Tensor:
    """The layers of a block behind its first convolution."""
    activated: torch.Tensor = block.lrelu(block.norm1(x))
    result: torch.Tensor = block.lrelu(block.norm2(block.conv2(activated)))
    return result

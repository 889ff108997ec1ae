"""Layers of DynUNet that are faster on a CPU in channels-last order; elsewhere they call torch's own.

Names and parameters stay the same; results differ by rounding only. docs/benchmarks has the figures.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from monai.networks.blocks import UnetBasicBlock, UnetOutBlock, UnetUpBlock
from torch import nn

from dynunet_bundle.networks.cpu.norm import (
    NormActivation2d,
    NormActivation3d,
    is_channels_last_cpu,
)


class PointwiseConv2d(nn.Conv2d):
    """A convolution with a kernel of one pixel."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002, D102 - torch's name
        ours = is_channels_last_cpu(input)
        return pointwise(input, self.weight, self.bias) if ours else super().forward(input)


class PointwiseConv3d(nn.Conv3d):
    """A convolution with a kernel of one voxel."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002, D102
        ours = is_channels_last_cpu(input)
        return pointwise(input, self.weight, self.bias) if ours else super().forward(input)


class OneDnnConv3d(nn.Conv3d):
    """A convolution by oneDNN; for one small patch on one thread torch would choose slower code of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002, D102
        if not _takes_one_dnn(input):
            return super().forward(input)
        padding: Any = self.padding
        return torch.mkldnn_convolution(
            input, self.weight, self.bias, padding, self.stride, self.dilation, self.groups
        )


class UpConv2d(nn.ConvTranspose2d):
    """A transposed convolution whose kernel is its stride."""

    def forward(self, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:  # noqa: A002, D102
        ours = is_channels_last_cpu(input) and output_size is None
        return enlarge(input, self.weight, self.bias) if ours else super().forward(input)


class UpConv3d(nn.ConvTranspose3d):
    """A transposed convolution whose kernel is its stride."""

    def forward(self, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:  # noqa: A002, D102
        ours = is_channels_last_cpu(input) and output_size is None
        return enlarge(input, self.weight, self.bias) if ours else super().forward(input)


JOINED = {nn.InstanceNorm2d: NormActivation2d, nn.InstanceNorm3d: NormActivation3d}
CONV = {nn.Conv3d: OneDnnConv3d}
POINTWISE = {nn.Conv2d: PointwiseConv2d, nn.Conv3d: PointwiseConv3d}
UP = {nn.ConvTranspose2d: UpConv2d, nn.ConvTranspose3d: UpConv3d}


def use_cpu_layers(network: nn.Module) -> None:
    """Replace layers of a MONAI DynUNet, in place, by the faster ones of this module.

    Args:
        network: a DynUNet; norms and activations other than train.json's are kept.
    """
    for block in network.modules():
        if isinstance(block, UnetBasicBlock):
            _join_norms(block)
            for conv in (block.conv1.conv, block.conv2.conv):
                _exchange(conv, CONV, fits=torch.backends.mkldnn.is_available())
        elif isinstance(block, UnetOutBlock):
            _exchange(block.conv.conv, POINTWISE, fits=True)
        elif isinstance(block, UnetUpBlock):
            conv = block.transp_conv.conv
            _exchange(conv, UP, fits=conv.kernel_size == conv.stride and not any(conv.padding))


def _join_norms(block: nn.Module) -> None:
    norms: list[Any] = [block.norm1, block.norm2]
    activation = block.lrelu
    fits = all(
        type(norm) in JOINED and norm.affine and not norm.track_running_stats for norm in norms
    )
    if fits and isinstance(activation, nn.LeakyReLU) and activation.negative_slope > 0:
        block.norm1, block.norm2 = (JOINED[type(norm)](norm, activation) for norm in norms)
        block.lrelu = nn.Identity()


def _exchange(conv: nn.Module, kinds: dict[Any, Any], fits: bool) -> None:
    if fits and type(conv) in kinds:
        # only the forward method differs; a new module would have to copy all attributes
        conv.__class__ = kinds[type(conv)]


def convolve(x: torch.Tensor, weight: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
    """A convolution of stride 1 without a bias.

    Args:
        x: ``[B, C, *spatial]``, channels last.
        weight: ``[outputs, C, *kernel]``.
        padding: voxels per axis.
    """
    dims = len(padding)
    if dims == 3 and _takes_one_dnn(x):
        ones = (1,) * dims
        return torch.mkldnn_convolution(x, weight, None, padding, ones, ones, 1)
    function = F.conv3d if dims == 3 else F.conv2d
    return function(x, weight, padding=tuple(padding))


def _takes_one_dnn(x: torch.Tensor) -> bool:
    """Whether to call oneDNN directly; not under autocast, which does not convert the inputs of such calls."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return torch.backends.mkldnn.is_available() and is_channels_last_cpu(x)


def pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A 1x1 convolution as a matrix product; oneDNN would pad the few outputs to a full vector.

    Args:
        x: ``[B, C, *spatial]``, channels last.
        weight: ``[outputs, C, 1, ...]``.
        bias: ``[outputs]``, or None.
    """
    return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)


def enlarge(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A transposed convolution with equal kernel and stride, as a matrix product: the blocks do not overlap.

    Args:
        x: ``[B, C, *spatial]``, channels last.
        weight: ``[C, outputs, *kernel]``.
        bias: ``[outputs]``, or None.

    Returns:
        ``[B, outputs, *(spatial * kernel)]``, channels last.
    """
    kernel, size = weight.shape[2:], x.shape[2:]
    dims, outputs = len(size), weight.shape[1]
    # [*kernel, outputs, C]: one row of the product is the block of a voxel
    rows = weight.permute(*range(2, 2 + dims), 1, 0).flatten(0, -2)
    by_row = None if bias is None else bias.repeat(len(rows) // outputs)
    blocks = F.linear(x.movedim(1, -1), rows, by_row).view(len(x), *size, *kernel, outputs)
    pairs = [axis for dim in range(1, dims + 1) for axis in (dim, dim + dims)]
    enlarged = [voxels * factor for voxels, factor in zip(size, kernel, strict=True)]
    voxels = blocks.permute(0, *pairs, 2 * dims + 1).reshape(len(x), *enlarged, outputs)
    return voxels.movedim(-1, 1)

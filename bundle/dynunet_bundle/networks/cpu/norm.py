"""Instance norm and leaky ReLU in one pass over memory, on a CPU in channels-last order.

torch's instance norm copies such a tensor to the other order and back, and an in-place activation after it costs
further copies in the backward pass. Here a patch is processed block by block, so that a block stays in the cache for
all steps; docs/benchmarks/training.md has the figures.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.instancenorm import _InstanceNorm

BLOCK = 2**17
"""Values per block and thread: 512 KiB, about half of a core's cache. The fastest of 2^14 to 2^17."""

ROW = 2048
"""Values per row; a row joins the channels of many voxels, because short rows are not vectorised well."""

SMALLEST = 2**17
"""Smallest patch, in values, for this code; below, the loop over patches costs more than it saves."""


class NormActivation(_InstanceNorm):
    """An affine instance norm followed by a leaky ReLU, with the norm's parameters and their names.

    On a CPU it computes large channels-last tensors in blocks (bfloat16 only without gradients); in all other cases
    it calls torch's two functions. Without gradients the result overwrites the input, which a DynUNet does not use
    again.

    Args:
        norm: its parameters are shared, not copied.
        activation: source of the slope, which must be positive.
    """

    def __init__(self, norm: _InstanceNorm, activation: nn.LeakyReLU) -> None:
        super().__init__(norm.num_features, eps=norm.eps)
        self.affine, self.weight, self.bias = True, norm.weight, norm.bias
        self.negative_slope, self.inplace = activation.negative_slope, activation.inplace

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """Normalise and activate ``[B, C, *spatial]``."""
        if is_channels_last_cpu(input) and input[0].numel() >= SMALLEST:
            settings = (input, self.weight, self.bias, self.eps, self.negative_slope)
            if not torch.is_grad_enabled():
                _normalise(*settings, result=input)
                return input
            if input.dtype == torch.float32:
                result: torch.Tensor = _NormActivation.apply(*settings)
                return result
        return F.leaky_relu(super().forward(input), self.negative_slope, self.inplace)


class NormActivation2d(NormActivation, nn.InstanceNorm2d):
    """For ``[B, C, H, W]``."""


class NormActivation3d(NormActivation, nn.InstanceNorm3d):
    """For ``[B, C, D, H, W]``."""


def is_channels_last_cpu(x: torch.Tensor) -> bool:
    """Whether these layers handle a tensor: ``is_plain_cpu``, and in channels-last order."""
    return is_plain_cpu(x) and x.is_contiguous(memory_format=channels_last(x))


def is_plain_cpu(x: torch.Tensor) -> bool:
    """Whether a tensor is float32 or bfloat16, on a CPU, and neither traced nor compiled."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return False
    return not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def channels_last(x: torch.Tensor) -> torch.memory_format:
    """The channels-last order of a tensor with two or three spatial axes."""
    flat = x.ndim == 4
    return torch.channels_last if flat else torch.channels_last_3d


class _NormActivation(torch.autograd.Function):
    """Formulas of Ulyanov et al. (2016), with the biased variance, as in torch."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
        negative_slope: float,
    ) -> torch.Tensor:
        result = torch.empty_like(x)
        mean, inverse = _normalise(x, weight, bias, eps, negative_slope, result)
        ctx.save_for_backward(x, result, weight, mean, inverse)
        ctx.negative_slope = negative_slope
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, result, weight, mean, inverse = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=channels_last(x))
        slope = torch.empty_like(x)
        by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        tensors = [_rows(tensor) for tensor in (x, result, gradient, slope)]
        buffer = tensors[0].new_empty(_rows_a_block(tensors[0]), tensors[0].shape[2])
        num_channels, num_voxels = x.shape[1], x[0, 0].numel()
        for index, (patch, output, incoming, out) in enumerate(zip(*tensors, strict=True)):
            centre = _to_row(mean[index], patch)
            total, product = centre.new_zeros(2, len(centre))
            for block, value, change, target in zip(
                *map(_blocks, (patch, output, incoming, out)), strict=True
            ):
                # the output has the sign of the activation's input
                torch.ops.aten.leaky_relu_backward.grad_input(
                    change, value, ctx.negative_slope, True, grad_input=target
                )
                total += target.sum(0)
                product += torch.sub(block, centre, out=buffer[: len(block)]).mul_(target).sum(0)
            to_bias = _to_channels(total, num_channels)
            to_weight = _to_channels(product, num_channels) * inverse[index]
            by_bias += to_bias
            by_weight += to_weight
            factor = weight * inverse[index]
            of_x = -factor * inverse[index] * to_weight / num_voxels
            offset = _to_row(-factor * to_bias / num_voxels - of_x * mean[index], patch)
            factor, of_x = _to_row(factor, patch), _to_row(of_x, patch)
            for block, target in zip(_blocks(patch), _blocks(out), strict=True):
                part = torch.addcmul(offset, block, of_x, out=buffer[: len(block)])
                torch.addcmul(part, target, factor, out=target)
        return slope, by_weight, by_bias, None, None


def _normalise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    negative_slope: float,
    result: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the result, which may be ``x``; return mean and inverse standard deviation per patch and channel.

    The computation is in float32, the type of the weight.
    """
    patches, results = _rows(x), _rows(result)
    mean, inverse = weight.new_empty(x.shape[:2]), weight.new_empty(x.shape[:2])
    buffer = weight.new_empty(_rows_a_block(patches), patches.shape[2])
    for index, (patch, target) in enumerate(zip(patches, results, strict=True)):
        mean[index], variance = _moments(patch, buffer, x.shape[1])
        inverse[index] = (variance + eps).rsqrt()
        factor = weight * inverse[index]
        offset = _to_row(bias - mean[index] * factor, patch)
        factor = _to_row(factor, patch)
        for block, out in zip(_blocks(patch), _blocks(target), strict=True):
            # a narrower type is converted while in the cache
            value = out if out.dtype == buffer.dtype else buffer[: len(block)]
            torch.addcmul(offset, block, factor, out=value)
            F.leaky_relu_(value, negative_slope)
            if value is not out:
                out.copy_(value)
    return mean, inverse


def _moments(
    patch: torch.Tensor, buffer: torch.Tensor, num_channels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each channel.

    Moments are taken about the mean of the first block: plain squares would lose the variance of a channel whose mean
    is far from 0.
    """
    first = next(iter(_blocks(patch))).to(buffer.dtype)
    pivot = _to_channels(first.sum(0), num_channels) / (first.numel() // num_channels)
    centre = _to_row(pivot, patch)
    total, square = centre.new_zeros(2, len(centre))
    for block in _blocks(patch):
        deviation = torch.sub(block, centre, out=buffer[: len(block)])
        total += deviation.sum(0)
        square += deviation.square_().sum(0)
    num_voxels = patch.numel() // num_channels
    shift = _to_channels(total, num_channels) / num_voxels
    variance = _to_channels(square, num_channels) / num_voxels - shift.square()
    return pivot + shift, variance.clamp_min(0)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """View a channels-last tensor as ``[B, rows, voxels per row * C]``."""
    num_voxels, num_channels = x[0, 0].numel(), x.shape[1]
    voxels = 1
    while num_voxels % (2 * voxels) == 0 and voxels * num_channels < ROW:
        voxels *= 2
    return x.movedim(1, -1).view(len(x), num_voxels // voxels, voxels * num_channels)


def _rows_a_block(patches: torch.Tensor) -> int:
    return max(BLOCK * torch.get_num_threads() // patches.shape[-1], 1)


def _blocks(patch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return patch.split(_rows_a_block(patch))


def _to_row(by_channel: torch.Tensor, patch: torch.Tensor) -> torch.Tensor:
    return by_channel.repeat(patch.shape[-1] // len(by_channel))


def _to_channels(row: torch.Tensor, num_channels: int) -> torch.Tensor:
    return row.view(-1, num_channels).sum(0)

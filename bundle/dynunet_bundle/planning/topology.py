"""Kernels and strides of a U-Net from spacing and patch, by nnU-Net v2's rule and by the seed's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SIZE_TO_POOL = 8  # voxels of an axis that may be halved
MIN_SIZE_TO_POOL_ALONE = 12  # voxels of an axis that may be halved alone
MAX_SPACING_RATIO = 2  # spacing over the finest, at which an axis is near the finest
SEED_MAX_DOWNSAMPLINGS = 5  # levels below the top, in the seed's rule


@dataclass(frozen=True)
class Topology:
    """Levels of a U-Net from top to bottom.

    Attributes:
        kernel_sizes: convolution kernel of each level.
        strides: stride into each level; the first is all ones.
        patch_size: the patch, rounded up to multiples of ``divisor``.
    """

    kernel_sizes: list[list[int]]
    strides: list[list[int]]
    patch_size: list[int]

    @property
    def divisor(self) -> np.ndarray:
        """Product of all strides, by axis: the size of a patch must be a multiple of it."""
        return np.prod(np.array(self.strides), axis=0)


def nnunet_topology(spacing: Sequence[float] | np.ndarray, patch_size: Sequence[int]) -> Topology:
    """nnU-Net v2's rule (``get_pool_and_conv_props`` with feature maps of at least 4).

    An axis is halved while it has at least 8 voxels and its spacing is below twice the finest spacing of such axes; a
    single axis is halved alone only if it has at least 12 voxels. The kernel of an axis is 1 until its spacing is
    below twice the finest of all axes, then 3. The bottleneck's kernel is 3.

    Args:
        spacing: mm, one value per axis.
        patch_size: voxels, one value per axis.
    """
    current = np.array(spacing, dtype=float)
    size = np.array(patch_size, dtype=float)
    kernel = np.ones(len(size), int)
    kernels: list[list[int]] = []
    strides = [[1] * len(size)]
    while True:
        large = size >= MIN_SIZE_TO_POOL
        if not large.any():
            break
        pooled = large & (current / current[large].min() < MAX_SPACING_RATIO)
        if pooled.sum() == 1 and size[pooled][0] < MIN_SIZE_TO_POOL_ALONE:
            break
        kernel[current / current.min() < MAX_SPACING_RATIO] = 3
        kernels.append(kernel.tolist())
        strides.append(np.where(pooled, 2, 1).tolist())
        current = np.where(pooled, current * 2, current)
        size = np.where(pooled, np.ceil(size / 2), size)
    kernels.append([3] * len(size))
    return _rounded_up(kernels, strides, patch_size)


def seed_topology(spacing: Sequence[float], patch_size: Sequence[int]) -> Topology:
    """The seed's rule (``get_unet_params``), with at most five downsamplings.

    An axis is halved while it has at least 8 voxels and its spacing is at most twice the finest. Its kernel is 1
    while its spacing is more than twice the finest, then 3.

    Args:
        spacing: mm, one value per axis.
        patch_size: voxels, one value per axis.
    """
    current = np.array(spacing, dtype=float)
    size = np.array(patch_size, dtype=float)
    kernels: list[list[int]] = []
    strides = [[1] * len(size)]
    while len(strides) <= SEED_MAX_DOWNSAMPLINGS:
        near_finest = current / current.min() <= MAX_SPACING_RATIO
        stride = np.where(near_finest & (size >= MIN_SIZE_TO_POOL), 2, 1)
        if (stride == 1).all():
            break
        kernels.append(np.where(near_finest, 3, 1).tolist())
        strides.append(stride.tolist())
        size, current = size / stride, current * stride
    kernels.append([3] * len(size))
    return _rounded_up(kernels, strides, patch_size)


def _rounded_up(
    kernels: list[list[int]], strides: list[list[int]], patch_size: Sequence[int]
) -> Topology:
    divisor = np.prod(np.array(strides), axis=0)
    patch = np.ceil(np.array(patch_size) / divisor).astype(int) * divisor
    return Topology(kernels, strides, patch.tolist())

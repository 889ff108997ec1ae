"""Positions and blending weights of the windows of a volume, one axis at a time.

Windows form a grid, and a window's weight is a product over the axes, so weights can be normalised axis by axis: the
shares of all windows in a voxel sum to 1. Blending then needs no final division and no volume of weights, and the
result of a single window is kept bitwise.
"""

import math
from collections.abc import Sequence

import torch

SIGMA_SCALE = 0.125
"""Standard deviation of the Gaussian relative to the window size, as in MONAI and nnU-Net."""


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxels of windows spread evenly over an axis, as in nnU-Net v2.

    As few windows as the overlap allows, the outer ones flush with the borders
    (``compute_steps_for_sliding_window`` of nnunetv2 2.8.1). MONAI's windows have a fixed distance, except the last.

    Args:
        size: voxels along the axis, at least ``window``.
        window: voxels of a window.
        overlap: smallest fraction of a window that its neighbour also covers, in [0, 1).
    """
    reach = size - window
    num_steps = math.ceil(reach / (window * (1 - overlap)))
    # Python rounds halves to even, like numpy in nnU-Net
    return [round(reach / num_steps * step) for step in range(num_steps + 1)] if num_steps else [0]


def axis_weights(window: int, mode: str) -> torch.Tensor:
    """Weight of each voxel of a window along one axis.

    Args:
        window: voxels.
        mode: ``"constant"``, or ``"gaussian"``: centred on voxel ``window // 2`` as in nnU-Net
            (``compute_gaussian`` of nnunetv2 2.8.1). MONAI's importance map is centred half a voxel lower for even
            sizes, which moves a few voxels at class borders in masks of nnU-Net's models.

    Returns:
        ``[window]`` float64.

    Raises:
        ValueError: for another mode.
    """
    if mode == "constant":
        return torch.ones(window, dtype=torch.float64)
    if mode != "gaussian":
        raise ValueError(f'mode must be "gaussian" or "constant", not "{mode}".')
    place = torch.arange(window, dtype=torch.float64) - window // 2
    return torch.exp(place.square() / (-2 * (SIGMA_SCALE * window) ** 2))


def shares(size: int, starts: Sequence[int], weights: torch.Tensor) -> torch.Tensor:
    """Share of each window in each of its voxels; in every voxel the shares of all windows sum to 1.

    Args:
        size: voxels along the axis, each covered by some window.
        starts: first voxel of each window.
        weights: ``[window]``, positive.

    Returns:
        ``[len(starts), window]`` float32.
    """
    total = torch.zeros(size, dtype=weights.dtype)
    for start in starts:
        total[start : start + len(weights)] += weights
    rows = [weights / total[start : start + len(weights)] for start in starts]
    return torch.stack(rows).float()

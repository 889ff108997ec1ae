"""Where the windows of a volume lie and how they blend, one axis at a time.

The weight of a window is a product over the axes, and windows form a grid, so weights can be normalised axis by axis:
the shares of all windows in a voxel sum to one. What is blended needs no division afterwards and no volume of weights,
and where there is one window only, its result is kept to the bit.
"""

import math
from collections.abc import Sequence

import torch

SIGMA_SCALE = 0.125
"""Standard deviation of the Gaussian by the size of a window, as in MONAI and nnU-Net."""


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxels of windows that are spread evenly over an axis, as nnU-Net v2 spreads them.

    As few windows as the overlap allows, the outer ones flush with the borders
    (``compute_steps_for_sliding_window`` of nnunetv2 2.8.1). MONAI's windows have a fixed distance but for the last.

    Args:
        size: voxels of the axis, at least ``window``.
        window: voxels of a window.
        overlap: least share of a window that its neighbour covers too, in [0, 1).
    """
    reach = size - window
    num_steps = math.ceil(reach / (window * (1 - overlap)))
    # Python and numpy round halves alike
    return [round(reach / num_steps * step) for step in range(num_steps + 1)] if num_steps else [0]


def axis_weights(window: int, mode: str) -> torch.Tensor:
    """Weight of each voxel of a window by its place along one axis.

    Args:
        window: voxels.
        mode: ``"gaussian"``: as MONAI's importance map and nnU-Net's, about the centre of the window; ``"constant"``.

    Returns:
        ``[window]`` float64.

    Raises:
        ValueError: for another mode.
    """
    if mode == "constant":
        return torch.ones(window, dtype=torch.float64)
    if mode != "gaussian":
        raise ValueError(f'mode must be "gaussian" or "constant", not "{mode}".')
    place = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    return torch.exp(place.square() / (-2 * (SIGMA_SCALE * window) ** 2))


def shares(size: int, starts: Sequence[int], weights: torch.Tensor) -> torch.Tensor:
    """Share of each window in each of its voxels; those of all windows sum to one everywhere.

    Args:
        size: voxels of the axis, all of them in some window.
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

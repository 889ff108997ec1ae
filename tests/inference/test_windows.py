"""Windows cover an axis evenly, and their shares sum to 1."""

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from scipy.ndimage import gaussian_filter

from dynunet_bundle.inference.windows import axis_weights, shares, window_starts


@pytest.mark.parametrize(
    ("size", "window", "overlap", "starts"),
    [
        (40, 40, 0.5, [0]),
        (41, 40, 0.5, [0, 1]),
        (100, 40, 0.5, [0, 20, 40, 60]),
        # nnU-Net's own example (compute_steps_for_sliding_window): even steps, not 55 and then a short one
        (123, 110, 0.5, [0, 13]),
        (256, 112, 0.5, [0, 48, 96, 144]),
        (97, 32, 0.25, [0, 22, 43, 65]),
        (5, 1, 0.0, [0, 1, 2, 3, 4]),
    ],
)
def test_starts(size, window, overlap, starts):
    assert window_starts(size, window, overlap) == starts


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("size", [32, 33, 60, 131])
def test_shares_of_all_windows_sum_to_one(mode, size):
    starts = window_starts(size, 32, 0.5)
    rows = shares(size, starts, axis_weights(32, mode))
    total = torch.zeros(size)
    for start, row in zip(starts, rows, strict=True):
        total[start : start + 32] += row
    torch.testing.assert_close(total, torch.ones(size))
    assert rows.min() > 0


def test_a_single_window_has_all_of_it():
    assert torch.equal(shares(32, [0], axis_weights(32, "gaussian")), torch.ones(1, 32))


@pytest.mark.parametrize("window", [24, 25])
def test_the_gaussian_is_that_of_nnunet(window):
    """A delta in voxel ``window // 2``, filtered with a sigma of an eighth of the window."""
    delta = np.zeros(window)
    delta[window // 2] = 1
    theirs = gaussian_filter(delta, window / 8, mode="constant", truncate=6)
    ours = axis_weights(window, "gaussian").numpy()
    np.testing.assert_allclose(ours, theirs / theirs.max(), rtol=1e-6)


def test_for_odd_windows_the_gaussian_is_also_that_of_monai():
    ours = axis_weights(25, "gaussian").float()
    theirs = compute_importance_map((25,), mode="gaussian", sigma_scale=0.125)
    torch.testing.assert_close(ours.clamp_min(float(theirs.min())), theirs, rtol=1e-5, atol=1e-6)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="gaussian"):
        axis_weights(8, "median")

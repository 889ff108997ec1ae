"""Interpolation and blur against torch and scipy, and at the borders, where rounding could leave the axis."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torch.nn.functional import interpolate

from dynunet_bundle.feed.cpu_interpolation import (
    blurred,
    cubic_taps,
    linear_taps,
    low_resolution_taps,
    mirrored_index,
    resampled,
    taken,
)
from dynunet_bundle.feed.cpu_spatial import scaled
from dynunet_bundle.feed.spatial import SCALE, PatchMap, region_for


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 12, 64, 160])
def test_low_resolution_is_nearest_down_and_linear_up(length: int) -> None:
    line = values(length)
    for low in range(1, length + 1):
        small = interpolate(
            torch.from_numpy(line.astype(float))[None, None], low, mode="nearest-exact"
        )
        expected = interpolate(small, length, mode="linear", align_corners=False)[0, 0].numpy()
        found = resampled(line, [low_resolution_taps(length, low)])
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_linear_taps_are_exact_on_a_line() -> None:
    positions = np.random.default_rng(1).uniform(0, 20, 500)
    line = (3 * np.arange(22) - 5).astype(np.float32)
    found = resampled(line, [linear_taps(positions, 22)])
    np.testing.assert_allclose(found, 3 * positions - 5, atol=1e-5)


def test_cubic_taps_are_exact_on_a_parabola_and_sum_to_1() -> None:
    positions = np.random.default_rng(1).uniform(1, 20, 500)
    line = ((np.arange(23) - 9.0) ** 2).astype(np.float32)
    taps = cubic_taps(positions, 23)
    np.testing.assert_allclose(sum(weight for _, weight in taps), 1, atol=1e-6)
    np.testing.assert_allclose(resampled(line, [taps]), (positions - 9) ** 2, atol=2e-4)


@pytest.mark.parametrize("off", [-1e-12, 0.0, 1e-12])
def test_a_position_that_is_rounded_across_the_border_is_that_of_the_border(off: float) -> None:
    line = values(9)
    found = resampled(line, [linear_taps(np.array([off, 8 + off]), 9)])
    np.testing.assert_allclose(found, line[[0, 8]], atol=1e-6)
    found = resampled(line, [cubic_taps(np.array([1 + off, 7 + off]), 9)])
    np.testing.assert_allclose(found, line[[1, 7]], atol=1e-6)


@pytest.mark.parametrize("cubic", [False, True])
def test_factors_that_end_on_voxels_stay_inside_the_region(cubic: bool) -> None:
    """The ends of region and patch are computed separately and may round differently."""
    for length in range(1, 40):
        size = (length, length + 1, 8)
        for factor in (1.0, 1 / 3, 2 / 3, 0.7, 1.1, 4 / 3, 1.4, 5 / 3, 2.0):
            patch_map = PatchMap(SCALE, np.eye(3) * factor, False)
            region = region_for(patch_map, (3, 10**6 + 1, -7), size, cubic)
            image = np.ones((1, *region.size), np.float32)
            label = np.ones((1, *region.size), np.uint8)
            found, classes = scaled(image, label, patch_map, region, size, cubic)
            assert found.shape == classes.shape == (1, *size)
            np.testing.assert_allclose(found, 1, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_taken_voxels(axis: int, dtype: type) -> None:
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6).astype(dtype)
    array.flags.writeable = False
    index = np.array([3, 0, 0, 2])
    found = taken(array, index, axis)
    np.testing.assert_array_equal(found, array.take(index, axis))
    assert found.dtype == dtype and found.flags.writeable and found.flags.c_contiguous


@pytest.mark.parametrize("length", [2, 3, 5, 12])
@pytest.mark.parametrize("radius", [1, 4, 9])
def test_borders_are_mirrored_about_the_outermost_voxels(length: int, radius: int) -> None:
    expected = np.pad(np.arange(length), radius, mode="reflect")
    np.testing.assert_array_equal(mirrored_index(length, radius), expected)
    assert not mirrored_index(1, radius).any()


@pytest.mark.parametrize("shape", [(1, 30), (30, 1), (3, 20, 11)])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.7])
def test_blur_is_a_normalised_gaussian_along_each_axis(
    shape: tuple[int, ...], sigma: float
) -> None:
    image = values(*shape)
    expected = image.astype(float)
    for axis in range(len(shape)):
        offsets = np.arange(-np.ceil(3 * sigma), np.ceil(3 * sigma) + 1)
        weights = np.exp(-((offsets / sigma) ** 2) / 2)
        expected = correlate1d(expected, weights / weights.sum(), axis, mode="mirror")
    before = image.copy()
    np.testing.assert_allclose(blurred(image, [sigma] * len(shape)), expected, atol=2e-6)
    np.testing.assert_array_equal(image, before)

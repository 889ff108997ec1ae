"""Intensities after normalisation, channel by channel."""

from typing import Any

import numpy as np
import pytest
import torch

from dynunet_bundle.errors import CaseError, PlanError
from dynunet_bundle.preprocessing.crop import is_nonzero
from dynunet_bundle.preprocessing.normalize import NormalizeChannelsd

CT = {"lower": -100.0, "upper": 200.0, "mean": 60.0, "std": 40.0}


def normalized(image: np.ndarray, *schemes: str, statistics: Any = None) -> np.ndarray:
    statistics = [None] * len(schemes) if statistics is None else statistics
    transform = NormalizeChannelsd("image", schemes, statistics)
    result = transform({"image": torch.from_numpy(image)})["image"]
    assert result.dtype == torch.float32
    return result.numpy()


@pytest.mark.parametrize(("mean", "std"), [(0, 1), (300, 80), (-50, 3), (1e6, 2e5), (1e6, 50)])
def test_zscore_gives_zero_mean_and_unit_deviation(mean: float, std: float):
    rng = np.random.default_rng(0)
    image = rng.normal(mean, std, (1, 40, 40, 40)).astype(np.float32)
    result = normalized(image.copy(), "zscore")
    expected = (image - image.mean(dtype=np.float64)) / image.std(dtype=np.float64)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert result.mean(dtype=np.float64) == pytest.approx(0, abs=1e-5)
    assert result.std(dtype=np.float64) == pytest.approx(1, abs=1e-5)


def test_each_channel_has_its_own_mean_and_deviation():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 20, 20, 20)) * [[[[5]]], [[[900]]], [[[0.01]]]] + 77
    result = normalized(image.astype(np.float32), "zscore", "zscore", "zscore")
    np.testing.assert_allclose(result.mean(axis=(1, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(result.std(axis=(1, 2, 3)), 1, atol=1e-3)


def test_integers_are_not_truncated():
    image = np.arange(60, dtype=np.int16).reshape(1, 3, 4, 5)
    result = normalized(image, "zscore")
    np.testing.assert_allclose(result, (image - image.mean()) / image.std(), rtol=1e-5)


def test_a_constant_channel_becomes_zero():
    # CheckCased refuses a constant image, but one of several channels may be
    image = np.stack([np.full((4, 4, 4), 7.0), np.random.default_rng(0).random((4, 4, 4))])
    result = normalized(image.astype(np.float32), "zscore", "zscore")
    np.testing.assert_array_equal(result[0], 0)


def test_ct_is_clipped_and_standardised_by_the_data_sets_numbers():
    image = np.array([-1024, -100, -40, 60, 100, 200, 3000], np.float32).reshape(1, 7, 1, 1)
    result = normalized(image, "ct", statistics=[CT])
    expected = [-4.0, -4.0, -2.5, 0.0, 1.0, 3.5, 3.5]
    np.testing.assert_allclose(result.ravel(), expected, rtol=1e-6)


def test_schemes_can_be_mixed():
    rng = np.random.default_rng(0)
    image = rng.normal(60, 500, (2, 10, 10, 10)).astype(np.float32)
    result = normalized(image.copy(), "zscore", "ct", statistics=[None, CT])
    np.testing.assert_allclose(result[0].mean(), 0, atol=1e-4)
    np.testing.assert_allclose(result[1], (image[1].clip(-100, 200) - 60) / 40, rtol=1e-5)


def test_the_scheme_decides_and_not_whether_there_are_statistics():
    # a user who overrides the scheme of a CT plan keeps its intensity_statistics
    image = np.random.default_rng(0).normal(500, 10, (1, 10, 10, 10)).astype(np.float32)
    result = normalized(image, "zscore", statistics=[CT])
    assert result.mean() == pytest.approx(0, abs=1e-3)
    assert result.std() == pytest.approx(1, abs=1e-3)


def test_none_leaves_the_values():
    image = np.arange(60, dtype=np.int16).reshape(1, 3, 4, 5) - 7
    np.testing.assert_array_equal(normalized(image, "none"), image)


def test_each_volume_is_rescaled_by_its_own_range():
    image = np.random.default_rng(0).normal(-50, 3, (2, 9, 8, 7)).astype(np.float32)
    result = normalized(image.copy(), "rescale_to_0_1", "rescale_to_0_1")
    for channel, own in zip(result, image, strict=True):
        expected = (own - own.min()) / (own.max() - own.min())
        np.testing.assert_allclose(channel, expected, atol=1e-6)
        assert (channel.min(), channel.max()) == (0, 1)


def test_a_constant_channel_is_rescaled_to_zero():
    np.testing.assert_array_equal(normalized(np.full((1, 2, 2, 2), 7.0), "rescale_to_0_1"), 0)


def test_colours_are_divided_by_255():
    image = np.array([0, 51, 255], np.uint8).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(normalized(image, "rgb_to_0_1").ravel(), [0, 0.2, 1], rtol=1e-6)


@pytest.mark.parametrize("value", [-1.0, 256.0])
def test_what_is_no_colour_names_the_case_and_its_range(value: float):
    image = np.full((1, 2, 2, 2), 9, np.float32)
    image[0, 0, 0, 0] = value
    transform = NormalizeChannelsd("image", ["rgb_to_0_1"], [None])
    low, high = sorted((value, 9.0))
    with pytest.raises(CaseError, match=f"case c: .*ranges from {low:g} to {high:g}"):
        transform({"image": torch.from_numpy(image), "name": "c"})


def test_the_input_stays_as_it_is():
    image = torch.rand(1, 4, 4, 4)
    before = image.clone()
    NormalizeChannelsd("image", ["zscore"], [None])({"image": image})
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    ("schemes", "statistics", "message"),
    [
        (
            ["z-score"],
            [None],
            'normalization of channel 0 is "z-score". Choose one of zscore, zscore_nonzero, ct',
        ),
        (
            ["zscore", "ct"],
            [None, None],
            'channel 1 has normalization "ct" but no intensity_statistics',
        ),
        (["zscore", "zscore"], [None], r"2 normalization schemes and 1 intensity_statistics"),
        (["ct"], [CT, None], r"1 normalization scheme and 2 intensity_statistics"),
    ],
)
def test_impossible_plans(schemes: list[str], statistics: list[Any], message: str):
    with pytest.raises(PlanError, match=message):
        NormalizeChannelsd("image", schemes, statistics)


def test_missing_keys():
    transform = NormalizeChannelsd("image", ["zscore"], [None], allow_missing_keys=True)
    assert transform({"label": 1}) == {"label": 1}
    with pytest.raises(KeyError, match="image"):
        NormalizeChannelsd("image", ["zscore"], [None])({"label": 1})


def test_content_is_whatever_differs_from_zero():
    # air in CT is -1024; tissue in a z-scored image is often negative
    assert is_nonzero(torch.tensor([-1024.0, 0.0, 3.0])).tolist() == [True, False, True]


def test_zscore_inside_the_nonzero_mask_with_its_holes():
    rng = np.random.default_rng(0)
    image = np.zeros((2, 12, 12, 12), np.float32)
    image[0, 2:10, 2:10, 2:10] = rng.normal(100, 10, (8, 8, 8))
    image[1, 2:10, 2:10, 2:10] = rng.normal(-5, 2, (8, 8, 8))
    image[:, 5:7, 5:7, 5:7] = 0  # a hole: inside the mask
    result = normalized(image.copy(), "zscore_nonzero", "zscore", statistics=[None, None])
    inside = image[0, 2:10, 2:10, 2:10].astype(np.float64)
    expected = (inside - inside.mean()) / inside.std()
    np.testing.assert_allclose(result[0, 2:10, 2:10, 2:10], expected, atol=1e-4)
    outside = np.ones((12, 12, 12), bool)
    outside[2:10, 2:10, 2:10] = False
    assert (result[0][outside] == 0).all()
    # the other channel keeps its own scheme
    whole = image[1].astype(np.float64)
    np.testing.assert_allclose(result[1], (whole - whole.mean()) / whole.std(), atol=1e-4)

"""The declaration of the augmentation is checked, and what is drawn from it has the declared shares and ranges."""

import json
import math
from typing import Any

import numpy as np
import pytest
from conftest import BUNDLE

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.feed.augmentation import Augmentation, Draw, draw

NUM_DRAWS = 10_000
CHANNELS = 2

DECLARED = {
    "noise": {"prob": 0.1, "std": [0.5, 1.0]},
    "brightness": {"prob": 0.15, "factor": [0.7, 1.5]},
    "contrast": {"prob": 0.3, "factor": [0.75, 1.25]},
    "mirror": {"prob": 0.4, "axes": [0, 2]},
}


def draws(
    config: dict[str, Any], count: int = NUM_DRAWS, shape: tuple[int, ...] = (CHANNELS, 2, 2, 2)
) -> list[Draw]:
    augmentation = Augmentation.from_config(config, len(shape) - 1)
    rng = np.random.default_rng(7)
    return [draw(augmentation, shape, rng) for _ in range(count)]


def assert_share(hits: Any, probability: float) -> None:
    """4.5 standard deviations: a right share passes, one that is off by 3 % of 10,000 draws does not."""
    hits = np.asarray(hits)
    allowed = 4.5 * math.sqrt(hits.size * probability * (1 - probability))
    assert abs(int(hits.sum()) - hits.size * probability) <= allowed


@pytest.fixture(scope="module")
def drawn() -> list[Draw]:
    return draws(DECLARED)


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"nois": {"prob": 0.1}}, '"nois" .*"noise"'),
        ({"brightnes": {}}, '"brightness"'),
        ({"flip": {}}, "noise, brightness, contrast, mirror"),
        ({"noise": {"sdt": [0, 1]}}, '"sdt" .*noise.*"std"'),
        ({"mirror": {"axis": [0]}}, '"axis" .*mirror.*"axes"'),
        ({"contrast": {"std": [0, 1]}}, '"std" .*prob, factor'),
    ],
)
def test_an_unknown_name_or_setting_is_refused_with_the_nearest(
    config: dict[str, Any], hint: str
) -> None:
    with pytest.raises(ConfigError, match=hint):
        Augmentation.from_config(config, 3)


@pytest.mark.parametrize("name", ["noise", "brightness", "contrast", "mirror"])
@pytest.mark.parametrize("prob", [-0.1, 1.1, math.nan, "0.5", None, [0.5]])
def test_a_probability_outside_0_to_1_is_refused(name: str, prob: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}: prob"):
        Augmentation.from_config({name: {"prob": prob}}, 3)


@pytest.mark.parametrize(
    ("name", "setting"), [("noise", "std"), ("brightness", "factor"), ("contrast", "factor")]
)
@pytest.mark.parametrize("limits", [[1.2, 0.8], [1.0], [], [0.5, 1.0, 1.5], 0.1, None, ["a", "b"]])
def test_a_range_that_is_no_pair_is_refused(name: str, setting: str, limits: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}: {setting}"):
        Augmentation.from_config({name: {"prob": 0.1, setting: limits}}, 3)


@pytest.mark.parametrize("axes", [[3], [-1], [0, 1, 7], [0.5], ["0"], 0, None])
def test_an_axis_that_does_not_exist_is_refused(axes: Any) -> None:
    with pytest.raises(ConfigError, match="mirror: axes"):
        Augmentation.from_config({"mirror": {"prob": 0.5, "axes": axes}}, 3)


@pytest.mark.parametrize("settings", [0.5, None, [0.5, [0, 1]]])
def test_an_entry_without_named_settings_is_refused(settings: Any) -> None:
    with pytest.raises(ConfigError, match="noise"):
        Augmentation.from_config({"noise": settings}, 3)


@pytest.mark.parametrize("config_name", ["train.json", "quick.json"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_shipped_declarations_are_read(config_name: str, spatial_dims: int) -> None:
    config = json.loads((BUNDLE / "configs" / config_name).read_text())["augmentation"]
    augmentation = Augmentation.from_config(config, spatial_dims)
    for name, settings in config.items():
        assert getattr(augmentation, f"{name}_prob") == settings["prob"] > 0
    assert augmentation.noise_std == tuple(config["noise"]["std"])
    assert augmentation.brightness_factor == tuple(config["brightness"]["factor"])
    assert augmentation.contrast_factor == tuple(config["contrast"]["factor"])


def test_each_augmentation_has_its_declared_share(drawn: list[Draw]) -> None:
    assert_share([d.has_noise for d in drawn], 0.1)
    assert_share([d.has_brightness for d in drawn], 0.15)
    assert_share([d.has_contrast for d in drawn], 0.3)
    # drawn apart from each other
    assert_share([d.has_noise and d.has_contrast for d in drawn], 0.1 * 0.3)
    assert_share([d.has_brightness and d.has_contrast for d in drawn], 0.15 * 0.3)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("brightness", 0.7, 1.5), ("contrast", 0.75, 1.25)]
)
def test_factors_are_half_below_and_half_above_1(
    drawn: list[Draw], name: str, low: float, high: float
) -> None:
    factors = np.stack([getattr(d, name).ravel() for d in drawn])
    assert factors.shape == (NUM_DRAWS, CHANNELS)
    assert low <= factors.min() < low + 0.01
    assert high - 0.01 < factors.max() <= high
    below = factors < 1
    assert_share(below, 0.5)
    # each channel has its own coin and its own factor
    assert_share(below[:, 0] & below[:, 1], 0.25)
    assert np.mean(factors[:, 0] == factors[:, 1]) == 0
    # and each half is filled evenly: its quartiles hold a quarter each
    for half, left, right in ((factors[below], low, 1.0), (factors[~below], 1.0, high)):
        for quarter in range(4):
            edges = left + (right - left) * np.array([quarter, quarter + 1]) / 4
            assert_share((half >= edges[0]) & (half < edges[1]), 0.25)


@pytest.mark.parametrize("name", ["brightness", "contrast"])
@pytest.mark.parametrize("limits", [(1.2, 1.5), (0.5, 0.8), (1.0, 1.3), (0.7, 1.0), (1.1, 1.1)])
def test_factors_stay_in_a_range_that_1_does_not_divide(
    name: str, limits: tuple[float, float]
) -> None:
    config = {name: {"prob": 1.0, "factor": list(limits)}}
    factors = np.concatenate([getattr(d, name).ravel() for d in draws(config, 500)])
    assert factors.min() >= np.float32(limits[0])
    assert factors.max() <= np.float32(limits[1])


def test_noise_has_the_declared_deviations() -> None:
    noise = [d.noise for d in draws({"noise": {"prob": 1.0, "std": [0.5, 1.0]}}, 300, (2, 20, 20))]
    # 400 values a channel give their deviation within 15 % (over 4 standard errors)
    deviations = np.array([sample.std(axis=(1, 2)) for sample in noise])
    assert deviations.min() > 0.5 * 0.85
    assert deviations.max() < 1.0 * 1.15
    assert abs(deviations.mean() - 0.75) < 0.04
    assert deviations.mean(axis=1).std() > 0.1  # 0.144 for a uniform draw, 0.02 for a constant
    # one deviation for all channels, but not the same noise
    assert np.abs(np.log(deviations[:, 0] / deviations[:, 1])).max() < 0.3
    flat = np.stack(noise).reshape(300, 2, -1)
    assert abs(np.corrcoef(flat[:, 0].ravel(), flat[:, 1].ravel())[0, 1]) < 0.02
    assert abs(flat.mean()) < 0.01


def test_each_declared_axis_is_mirrored_on_its_own(drawn: list[Draw]) -> None:
    flips = np.stack([d.flips for d in drawn])
    assert not flips[:, 1].any()
    for first in (0, 1):
        for last in (0, 1):
            both = (flips[:, 0] == first) & (flips[:, 2] == last)
            assert_share(both, (0.4 if first else 0.6) * (0.4 if last else 0.6))


@pytest.mark.parametrize(
    ("axes", "expected"), [([0, 1, 2], [1, 1]), ([1], [0, 1]), ([2], [0, 0]), ([], [0, 0])]
)
def test_2d_knows_only_its_own_axes(axes: list[int], expected: list[int]) -> None:
    config = {"mirror": {"prob": 1.0, "axes": axes}}
    assert all(d.flips.tolist() == expected for d in draws(config, 20, (1, 4, 4)))


@pytest.mark.parametrize("declared", [(), *((name,) for name in DECLARED)])
def test_what_is_not_declared_is_never_drawn(declared: tuple[str, ...]) -> None:
    config = {name: {**DECLARED[name], "prob": 1.0} for name in declared}
    for d in draws(config, 1000):
        assert bool(d.has_noise) == bool(d.noise.any()) == ("noise" in declared)
        assert bool(d.has_brightness) == ("brightness" in declared)
        assert bool(d.has_contrast) == ("contrast" in declared)
        assert d.flips.tolist() == ([1, 0, 1] if "mirror" in declared else [0, 0, 0])


def test_probability_0_is_never() -> None:
    config = {name: {**settings, "prob": 0} for name, settings in DECLARED.items()}
    for d in draws(config, 1000):
        assert not (d.has_noise or d.has_brightness or d.has_contrast or d.flips.any())


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 4, 5, 6)])
def test_arrays_are_what_the_graph_takes(shape: tuple[int, ...]) -> None:
    factors_shape = (shape[0], *(1,) * (len(shape) - 1))
    for d in draws(DECLARED, 200, shape):
        assert d.noise.shape == (shape if d.has_noise else (1,) * len(shape))
        assert d.brightness.shape == d.contrast.shape == factors_shape
        assert d.noise.dtype == d.brightness.dtype == d.contrast.dtype == np.float32
        assert (d.flips.shape, d.flips.dtype) == ((len(shape) - 1,), np.int32)
        assert d.has_noise.dtype == d.has_brightness.dtype == d.has_contrast.dtype == bool

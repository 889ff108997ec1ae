"""Drawn parameters have the declared shares, ranges and distributions, and kinds are independent.

The samples come from the source itself, so its random stream for each sample is tested as well.
"""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feed_cases import (
    DECLARED,
    assert_share,
    at_prob,
    coordinates,
    parts,
    place_of,
    prepare,
    source_of,
)
from scipy.spatial.transform import Rotation
from scipy.stats import kstest, uniform

from dynunet_bundle.feed.augmentation import Augmentation
from dynunet_bundle.feed.draws import Draw, Numbers, draw
from dynunet_bundle.feed.source import noise
from dynunet_bundle.feed.spatial import AFFINE, CROP, MAP_NUMBERS, SCALE, PatchMap, draw_map

NUM_DRAWS = 10_000
CHANNELS = 2
FLAGS = {
    "has_noise": 0.1,
    # at least one of two channels
    "has_blur": 0.2 * 0.75,
    # brightness or NVIDIA's
    "has_linear": 1 - 0.85**2,
    "has_contrast": 0.15,
    "has_low_resolution": 0.25 * 0.75,
    "has_gamma_inverted": 0.1,
    "has_gamma": 0.3,
}
"""Shares of the flags as DECLARED has them, with two channels."""


def ones(shape: tuple[int, ...]) -> np.ndarray:
    """Replaces normal values by ones, so that the noise equals its standard deviation."""
    return np.ones(shape, np.float32)


def draws(
    config: dict[str, Any],
    count: int = NUM_DRAWS,
    shape: tuple[int, ...] = (CHANNELS, 2, 2, 2),
    in_plane: bool = False,
) -> list[Draw]:
    augmentation = Augmentation.from_config(config)
    rng = np.random.default_rng(7)
    return [draw(augmentation, shape, in_plane, rng, ones) for _ in range(count)]


def maps(
    config: dict[str, Any], count: int, degrees: tuple[float, float] = (-30, 30), **kwargs: Any
) -> list[PatchMap]:
    augmentation = Augmentation.from_config(config)
    rng = np.random.default_rng(8)
    in_plane = kwargs.get("in_plane", False)
    return [
        draw_map(augmentation, degrees, in_plane, Numbers(rng, MAP_NUMBERS)) for _ in range(count)
    ]


def assert_uniform(values: Any, low: float, high: float) -> None:
    values = np.asarray(values, float).ravel()
    slack = 1e-6 * max(abs(low), abs(high))
    assert low - slack <= values.min() and values.max() <= high + slack
    assert kstest(values, uniform(low, high - low).cdf).pvalue > 1e-5


def assert_half_below_half_above(factors: np.ndarray, low: float, high: float) -> None:
    """nnU-Net's rule for factors: per channel a coin decides the side of 1, then the factor is uniform."""
    below = factors < 1
    assert_share(below, 0.5)
    assert_share(below[:, 0] & below[:, 1], 0.25)
    assert np.mean(factors[:, 0] == factors[:, 1]) == 0
    assert_uniform(factors[below], low, 1)
    assert_uniform(factors[~below], 1, high)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """All 3D draws of the source for 10,000 samples except noise, stacked by name, with the maps."""
    dataset = prepare(tmp_path_factory.mktemp("case"), [coordinates((2, 2, 2), CHANNELS)])
    source = source_of(dataset, (2, 2, 2), augmentation=DECLARED)
    samples = [parts(source.sample(number)) for number in range(NUM_DRAWS)]
    names = [name for name in vars(samples[0]) if name not in ("image", "label", "noise")]
    return {name: np.stack([getattr(sample, name) for sample in samples]) for name in names}


@pytest.fixture(scope="module")
def always() -> dict[str, np.ndarray]:
    """10,000 draws with all kinds on and all channels; the patch is large enough to derive the zoom."""
    declared = at_prob(1.0, but=["brightness_contrast"])
    for kind in ("blur", "low_resolution"):
        declared[kind]["channel_prob"] = 1.0
    found = draws(declared, shape=(CHANNELS, 1, 1, 1))
    names = [name for name in vars(found[0]) if name != "low_size"]
    stacked = {name: np.stack([getattr(each, name) for each in found]) for name in names}
    only = {"low_resolution": declared["low_resolution"]}
    sizes = draws(only, shape=(CHANNELS, 1000, 2000, 4000))
    return {**stacked, "low_size": np.stack([each.low_size for each in sizes])}


def test_each_kind_has_its_declared_share(drawn: dict[str, np.ndarray]) -> None:
    for flag, share in FLAGS.items():
        assert_share(drawn[flag], share)
    for first, second in combinations(FLAGS, 2):
        assert_share(drawn[first] & drawn[second], FLAGS[first] * FLAGS[second])


def test_one_of_several_channels_is_drawn_on_its_own(drawn: dict[str, np.ndarray]) -> None:
    for flag, wanted in (("has_blur", "blur_channels"), ("has_low_resolution", "low_channels")):
        channels = drawn[wanted][drawn[flag]]
        assert channels.any(axis=1).all()
        # of the three ways to have one or both
        assert_share(channels.all(axis=1), 1 / 3)
        assert_share(channels[:, 0], 2 / 3)


def test_brightness_and_nvidias_are_drawn_apart(drawn: dict[str, np.ndarray]) -> None:
    shifted = drawn["shift"].reshape(NUM_DRAWS, -1).any(axis=1)
    assert_share(shifted, 0.15)
    scale = drawn["scale"].reshape(NUM_DRAWS, -1)
    # nnU-Net's factors differ between channels, NVIDIA's do not
    differ = scale[:, 0] != scale[:, 1]
    assert_share(differ, 0.15)
    assert_share(differ & shifted, 0.15**2)
    assert (drawn["has_linear"] == (differ | shifted)).all()


def test_rotation_and_scaling_have_their_shares(tmp_path: Path) -> None:
    source = source_of(
        prepare(tmp_path, [coordinates((2, 2, 2))]), (2, 2, 2), augmentation=DECLARED
    )
    found = [place_of(source, number)[0] for number in range(2000)]
    scaled = [abs(np.linalg.det(matrix) - 1) > 1e-9 for matrix in found]
    turned = [abs(matrix[0, 1]) > 0 for matrix in found]
    assert_share(scaled, 0.2)
    assert_share(turned, 0.2)
    assert_share(np.array(scaled) & turned, 0.04)


def test_the_kind_of_the_map_is_what_was_drawn() -> None:
    declared = {kind: {**DECLARED[kind], "prob": 0.5} for kind in ("rotation", "scaling")}
    found = maps(declared, NUM_DRAWS)
    assert_share([each.kind == AFFINE for each in found], 0.5)
    assert_share([each.kind == SCALE for each in found], 0.25)
    assert_share([each.kind == CROP for each in found], 0.25)
    for each in found:
        assert (each.kind == CROP) == np.array_equal(each.matrix, np.eye(3))
        factor = each.matrix[0, 0]
        assert (each.kind != AFFINE) == np.array_equal(each.matrix, factor * np.eye(3))


@pytest.mark.parametrize("degrees", [(-30, 30), (10, 20)])
def test_angles_and_factors_are_uniform_in_their_ranges(degrees: tuple[float, float]) -> None:
    declared = at_prob(1.0, {kind: DECLARED[kind] for kind in ("rotation", "scaling")})
    matrices = np.stack([each.matrix for each in maps(declared, NUM_DRAWS, degrees)])
    factors = np.cbrt(np.linalg.det(matrices))
    assert_uniform(factors, 0.7, 1.4)
    turns = matrices / factors[:, np.newaxis, np.newaxis]
    assert np.abs(turns @ turns.swapaxes(1, 2) - np.eye(3)).max() < 1e-12
    # about each axis in turn; the positive direction is a convention
    angles = Rotation.from_matrix(turns).as_euler("xyz", degrees=True) * [1, -1, 1]
    for axis in range(3):
        assert_uniform(angles[:, axis], *degrees)
    correlations = np.corrcoef(np.column_stack([angles, factors]), rowvar=False)
    assert np.abs(correlations - np.eye(4)).max() < 0.045


@pytest.mark.parametrize("degrees", [(-180, 180), (-15, 15)])
def test_in_the_plane_the_first_axis_stays(degrees: tuple[float, float]) -> None:
    declared = at_prob(1.0, {kind: DECLARED[kind] for kind in ("rotation", "scaling")})
    matrices = np.stack([each.matrix for each in maps(declared, 5000, degrees, in_plane=True)])
    assert (matrices[:, 0] == (1, 0, 0)).all()
    assert (matrices[:, :, 0] == (1, 0, 0)).all()
    plane = matrices[:, 1:, 1:]
    factors = np.sqrt(np.linalg.det(plane))
    assert_uniform(factors, 0.7, 1.4)
    assert_uniform(np.degrees(np.arctan2(plane[:, 1, 0], plane[:, 0, 0])), *degrees)


@pytest.mark.parametrize(
    ("patch_size", "limit"), [((4, 4, 4), 30), ((2, 8, 8), 180), ((4, 4), 180), ((4, 8), 15)]
)
def test_without_degrees_the_range_is_that_of_the_patch(
    tmp_path: Path, patch_size: tuple[int, ...], limit: float
) -> None:
    dataset = prepare(tmp_path, [coordinates((4, 8, 8))])
    declared = {"rotation": {"prob": 1.0}}
    default, own = (
        source_of(dataset, patch_size, augmentation={"rotation": {**declared["rotation"], **more}})
        for more in ({}, {"degrees": [3, 4]})
    )
    for source, low, high in ((default, -limit, limit), (own, 3, 4)):
        matrices = [place_of(source, number)[0] for number in range(400)]
        # (1, 0) over (0, 0) gives the last of three angles; in the plane there is only one
        flat = len(patch_size) == 2 or patch_size[0] == 2
        pairs = [(m[2, 1], m[2, 2]) if flat else (m[1, 0], m[0, 0]) for m in matrices]
        assert_uniform([np.degrees(np.arctan2(*pair)) for pair in pairs], low, high)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("scale", 0.75, 1.25),
        ("contrast", 0.75, 1.25),
        ("gamma", 0.7, 1.5),
        ("gamma_inverted", 0.7, 1.5),
    ],
)
def test_factors_and_exponents_are_half_below_and_half_above_1(
    always: dict[str, np.ndarray], name: str, low: float, high: float
) -> None:
    assert always[name].shape == (NUM_DRAWS, CHANNELS, 1, 1, 1)
    assert_half_below_half_above(always[name].reshape(NUM_DRAWS, CHANNELS), low, high)


FACTORS = {
    "brightness": ("factor", "scale"),
    "contrast": ("factor", "contrast"),
    "gamma": ("gamma", "gamma"),
    "gamma_inverted": ("gamma", "gamma_inverted"),
}


@pytest.mark.parametrize("kind", FACTORS)
@pytest.mark.parametrize("limits", [(1.2, 1.5), (0.5, 0.8), (1.0, 1.3), (0.7, 1.0), (1.1, 1.1)])
def test_factors_fill_a_range_that_1_does_not_divide(
    kind: str, limits: tuple[float, float]
) -> None:
    setting, name = FACTORS[kind]
    found = draws({kind: {"prob": 1.0, setting: list(limits)}}, 500)
    factors = np.concatenate([getattr(each, name).ravel() for each in found])
    if limits[0] < limits[1]:
        assert_uniform(factors, *limits)
    else:
        assert set(factors) == {np.float32(1.1)}


def test_sigmas_are_uniform_by_channel_and_axis(always: dict[str, np.ndarray]) -> None:
    sigma = always["blur_sigma"].reshape(NUM_DRAWS, -1)
    assert sigma.shape == (NUM_DRAWS, CHANNELS * 3)
    for column in sigma.T:
        assert_uniform(column, 0.5, 1.0)
    assert np.abs(np.corrcoef(sigma, rowvar=False) - np.eye(6)).max() < 0.045


def test_one_sigma_for_all_axes_and_channels_where_declared() -> None:
    settings = {"prob": 1.0, "sigma": [0.5, 1.5], "per_axis": False}
    found = draws({"blur": settings}, 2000)
    sigma = np.stack([each.blur_sigma for each in found])
    assert (sigma == sigma[:, :1, :1]).all()
    assert_uniform(sigma[:, 0, 0], 0.5, 1.5)
    # without channel_prob, all channels
    assert all(each.blur_channels.all() for each in found)


def test_the_zoom_is_uniform_by_channel_and_one_for_all_axes(
    always: dict[str, np.ndarray],
) -> None:
    zoom = always["low_size"] / [1000, 2000, 4000]
    for channel in range(CHANNELS):
        assert_uniform(zoom[:, channel, 2], 0.5, 1.0)
    assert abs(np.corrcoef(zoom[:, 0, 2], zoom[:, 1, 2])[0, 1]) < 0.045
    assert np.abs(zoom - zoom[..., 2:]).max() <= 0.5 / 1000 + 0.5 / 4000 + 1e-9


@pytest.mark.parametrize(
    ("spatial", "in_plane", "first"),
    [((10, 40, 40), False, 5), ((10, 40, 40), True, 10), ((10, 40), True, 5)],
)
def test_an_anisotropic_patch_keeps_its_slices(
    spatial: tuple[int, ...], in_plane: bool, first: int
) -> None:
    declared = {"low_resolution": {"prob": 1.0, "zoom": [0.5, 0.5]}}
    for each in draws(declared, 5, (3, *spatial), in_plane):
        assert each.low_size.tolist() == [[first, *(20 for _ in spatial[1:])]] * 3


def test_a_low_resolution_has_a_voxel_at_least() -> None:
    found = draws({"low_resolution": {"prob": 1.0, "zoom": [0.01, 0.02]}}, 5, (1, 4, 4, 4))
    assert all((each.low_size == 1).all() for each in found)


def test_nvidias_brightness_and_contrast_are_uniform_and_one_for_all_channels() -> None:
    settings = {"prob": 1.0, "brightness": [0.7, 1.3], "contrast": [0.65, 1.5], "center": 0.5}
    found = draws({"brightness_contrast": settings})
    scale, shift = (
        np.stack([getattr(each, n).ravel() for each in found]) for n in ("scale", "shift")
    )
    assert (scale == scale[:, :1]).all() and (shift == shift[:, :1]).all()
    # y = b * (0.5 + c * (x - 0.5)): at x = 0.5 it is b / 2
    brightness = scale[:, 0].astype(float) + 2 * shift[:, 0]
    contrast = scale[:, 0] / brightness
    assert_uniform(brightness, 0.7, 1.3)
    assert_uniform(contrast, 0.65, 1.5)
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.045


def test_brightness_comes_before_nvidias() -> None:
    both = at_prob(1.0, {k: DECLARED[k] for k in ("brightness", "brightness_contrast")})
    found = draws(both, 200)
    for each in found:
        scale, shift = each.scale.ravel().astype(float), each.shift.ravel().astype(float)
        assert scale[0] != scale[1] and shift[0] == shift[1]  # the shift is not scaled per channel


def test_noise_has_the_declared_deviations(always: dict[str, np.ndarray]) -> None:
    std = always["noise"].reshape(NUM_DRAWS, CHANNELS)
    assert (std[:, 0] == std[:, 1]).all()
    assert_uniform(std[:, 0], 0.0, 0.1)


def test_noise_is_normal_and_its_own_in_each_voxel() -> None:
    values = np.stack([noise(5, number, (2, 20, 20)) for number in range(50)])
    assert values.dtype == np.float32
    assert kstest(values.ravel(), "norm").pvalue > 1e-5
    flat = values.reshape(50, 2, -1)
    assert abs(np.corrcoef(flat[:, 0].ravel(), flat[:, 1].ravel())[0, 1]) < 0.03
    assert len(np.unique(values)) > values.size * 0.99


def test_the_numbers_of_different_kinds_are_independent(always: dict[str, np.ndarray]) -> None:
    names = ("blur_sigma", "scale", "contrast", "gamma", "gamma_inverted")
    columns = [always[name].reshape(NUM_DRAWS, -1) for name in names]
    deviation = always["noise"].reshape(NUM_DRAWS, -1)[:, :1]
    table = np.concatenate([deviation, *columns], axis=1).astype(float)
    correlations = np.corrcoef(table, rowvar=False) - np.eye(table.shape[1])
    assert np.abs(correlations).max() < 0.045  # 4.5 standard errors


def test_each_declared_axis_is_mirrored_on_its_own(drawn: dict[str, np.ndarray]) -> None:
    flips = drawn["flips"].astype(bool)
    for wanted in np.ndindex(2, 2, 2):
        assert_share((flips == wanted).all(axis=1), 0.5**3)
    found = draws({"mirror": {"prob": 0.4, "axes": [0, 2]}})
    flips = np.stack([each.flips for each in found])
    assert not flips[:, 1].any()
    for first, last in np.ndindex(2, 2):
        both = (flips[:, 0] == first) & (flips[:, 2] == last)
        assert_share(both, (0.4 if first else 0.6) * (0.4 if last else 0.6))


@pytest.mark.parametrize(
    ("axes", "expected"), [([0, 1, 2], [1, 1]), ([1], [0, 1]), ([2], [0, 0]), ([], [0, 0])]
)
def test_2d_knows_only_its_own_axes(axes: list[int], expected: list[int]) -> None:
    config = {"mirror": {"prob": 1.0, "axes": axes}}
    assert all(d.flips.tolist() == expected for d in draws(config, 20, (1, 4, 4)))


LINEAR_KINDS = ("brightness", "brightness_contrast")


@pytest.mark.parametrize("declared", [(), *((kind,) for kind in DECLARED), tuple(DECLARED)])
@pytest.mark.parametrize("shape", [(CHANNELS, 2, 2, 2), (CHANNELS, 3, 2)])
def test_what_is_not_declared_is_never_drawn(
    declared: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    config = {kind: {**DECLARED[kind], "prob": 1.0, "channel_prob": 1.0} for kind in declared}
    for kind in set(config) - {"blur", "low_resolution"}:
        del config[kind]["channel_prob"]
    for each in draws(config, 300, shape):
        for flag in FLAGS:
            kind = flag.removeprefix("has_")
            kinds = LINEAR_KINDS if kind == "linear" else (kind,)
            assert bool(getattr(each, flag)) == any(kind in declared for kind in kinds)
        assert bool(each.noise.any()) == ("noise" in declared)
        assert bool((each.scale != 1).any()) == any(kind in declared for kind in LINEAR_KINDS)
        assert each.flips.tolist() == [int("mirror" in declared)] * (len(shape) - 1)
    kinds = {each.kind for each in maps(config, 300)}
    expected = AFFINE if "rotation" in declared else SCALE if "scaling" in declared else CROP
    assert kinds == {expected}


def test_probability_0_is_never() -> None:
    for each in draws(at_prob(0), 1000):
        assert not any(getattr(each, flag) for flag in FLAGS) and not each.flips.any()
    assert {each.kind for each in maps(at_prob(0), 1000)} == {CROP}


def test_no_channel_is_never() -> None:
    declared = {
        kind: {**DECLARED[kind], "prob": 1.0, "channel_prob": 0}
        for kind in ("blur", "low_resolution")
    }
    assert not any(each.has_blur or each.has_low_resolution for each in draws(declared, 500))


@pytest.mark.parametrize("shape", [(1, 4, 5), (3, 4, 5, 6)])
def test_arrays_are_what_the_graph_takes(shape: tuple[int, ...]) -> None:
    channels, dims = shape[0], len(shape) - 1
    for each in draws(at_prob(0.5), 200, shape):
        assert each.noise.shape == (shape if each.has_noise else (1,) * len(shape))
        for name in ("scale", "shift", "contrast", "gamma", "gamma_inverted"):
            assert getattr(each, name).shape == (channels, *(1,) * dims)
        assert each.blur_sigma.shape == each.low_size.shape == (channels, dims)
        assert each.blur_channels.shape == each.low_channels.shape == (channels,)
        assert (each.flips.shape, each.flips.dtype) == ((dims,), np.int32)
        for name, array in vars(each).items():
            if name.startswith("has_"):
                assert (array.shape, array.dtype) == ((), bool)
            elif name.endswith("_channels"):
                assert array.dtype == bool
            elif name != "flips":
                assert array.dtype == np.float32

"""Histograms give the statistics of all voxels, each case with the same weight."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from dynunet_bundle.survey.histogram import MAX_BINS, Histogram, merged

SHARES = {"percentile_00_5": 0.5, "median": 50, "percentile_99_5": 99.5}


def hounsfield(seed: int, size: int, mean: float = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 300, size).astype(np.int16)


def expected(voxels: Sequence[np.ndarray]) -> dict[str, float]:
    """Statistics of all voxels, each set of voxels with a total weight of one."""
    values = np.concatenate(voxels).astype(np.float64)
    weights = np.concatenate([np.full(len(one), 1 / len(one)) for one in voxels])
    mean = np.average(values, weights=weights)
    return {
        "mean": mean,
        "std": np.sqrt(np.average((values - mean) ** 2, weights=weights)),
        "min": values.min(),
        "max": values.max(),
        **{
            name: float(np.percentile(values, share, weights=weights, method="inverted_cdf"))
            for name, share in SHARES.items()
        },
    }


def same(one: Histogram, other: Histogram) -> None:
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-12)
    assert (one.lowest, one.highest) == (other.lowest, other.highest)


def test_a_histogram_holds_each_value_with_its_share():
    histogram = Histogram.of(np.array([3, -1, 3, 7], np.int16))
    assert histogram.values.tolist() == [-1, 3, 7]
    assert histogram.weights.tolist() == [0.25, 0.5, 0.25]
    assert (histogram.lowest, histogram.highest) == (-1, 7)


@pytest.mark.parametrize("size", [1, 999, 100_001])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_figures_of_one_case_are_numpys(size: int, dtype: Any):
    voxels = hounsfield(0, size).astype(dtype)
    found = Histogram.of(voxels).statistics()
    assert found == pytest.approx(expected([voxels]), rel=1e-9)
    assert list(found) == ["mean", "std", "min", "max", *SHARES]
    # nnU-Net's percentiles interpolate between two neighbours; these are one of the two
    for name, share in SHARES.items():
        lower, higher = (np.percentile(voxels, share, method=way) for way in ("lower", "higher"))
        assert lower <= found[name] <= higher
    assert found["mean"] == pytest.approx(voxels.mean(dtype=np.float64))
    assert found["std"] == pytest.approx(voxels.std(dtype=np.float64))


def test_percentiles_of_whole_numbers_are_exact():
    # 0..1000: percentiles fall exactly on ranks
    found = Histogram.of(np.arange(1001)).statistics()
    assert [found[name] for name in SHARES] == [5, 500, 995]


def test_each_case_weighs_the_same_whatever_its_size():
    voxels = [hounsfield(1, 50_001, -200), hounsfield(2, 1001, 400), hounsfield(3, 77, 100)]
    found = merged(map(Histogram.of, voxels)).statistics()
    assert found == pytest.approx(expected(voxels), rel=1e-9)
    means = [one.mean(dtype=np.float64) for one in voxels]
    assert found["mean"] == pytest.approx(np.mean(means))
    # not that of all voxels together, where the first outweighs the others
    assert found["mean"] > np.concatenate(voxels).mean() + 200


def test_cases_of_one_size_merge_to_their_concatenation():
    voxels = [hounsfield(seed, 10_000, 50 * seed) for seed in range(4)]
    found = merged(map(Histogram.of, voxels))
    together = Histogram.of(np.concatenate(voxels))
    np.testing.assert_array_equal(found.values, together.values)
    np.testing.assert_allclose(found.weights / 4, together.weights, rtol=1e-9)
    for name, value in together.statistics().items():
        assert found.statistics()[name] == pytest.approx(value, rel=1e-9)


def test_the_order_of_cases_does_not_matter():
    histograms = [Histogram.of(hounsfield(seed, 5000, 50 * seed)) for seed in range(4)]
    same(merged(histograms), merged(histograms[::-1]))


def test_no_voxels():
    empty = Histogram.of(np.zeros(0, np.float32))
    assert len(empty.values) == len(empty.weights) == 0
    assert (empty.lowest, empty.highest) == (np.inf, -np.inf)
    same(merged([]), empty)
    same(merged([empty, empty]), empty)
    # a case without foreground adds nothing, and does not dilute the others
    some = Histogram.of(hounsfield(0, 100))
    same(merged([empty, some, empty]), some)


def test_one_value():
    found = merged([Histogram.of(np.full(10, 7.5))] * 3).statistics()
    assert found == {
        "mean": pytest.approx(7.5),
        "std": pytest.approx(0, abs=1e-12),
        **dict.fromkeys(("min", "max", *SHARES), 7.5),
    }


# --- more values than bins


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    voxels = np.random.default_rng(0).lognormal(5, 1, 5 * MAX_BINS)
    voxels[:1000] = 0.0  # and a value that many voxels have
    return voxels


def test_beyond_the_bins_mean_and_extremes_stay_exact(many: np.ndarray):
    histogram = Histogram.of(many)
    assert len(np.unique(many)) > MAX_BINS >= len(histogram.values)
    assert (np.diff(histogram.values) > 0).all()
    assert histogram.weights.sum() == pytest.approx(1)
    found = histogram.statistics()
    assert found["mean"] == pytest.approx(many.mean(), rel=1e-12)
    assert (found["min"], found["max"]) == (many.min(), many.max())
    # within a bin there is no deviation: the loss is far below what a plan rounds to
    assert found["std"] == pytest.approx(many.std(), rel=1e-3)
    assert found["std"] <= many.std() * (1 + 1e-12)


def test_beyond_the_bins_percentiles_are_off_by_a_bin(many: np.ndarray):
    found = Histogram.of(many).statistics()
    for name, share in SHARES.items():
        around = [np.percentile(many, share + step * 100 / MAX_BINS) for step in (-2, 2)]
        assert around[0] <= found[name] <= around[1]


def test_merging_beyond_the_bins_keeps_the_mean(many: np.ndarray):
    parts = np.array_split(many, 5) + [many[::7] * 3]
    total = merged(map(Histogram.of, parts))
    assert len(total.values) <= MAX_BINS
    assert total.weights.sum() == pytest.approx(len(parts))
    found = total.statistics()
    assert found["mean"] == pytest.approx(np.mean([part.mean() for part in parts]), rel=1e-12)
    assert (found["min"], found["max"]) == (many.min(), many[::7].max() * 3)
    for name, value in expected(parts).items():
        assert found[name] == pytest.approx(value, rel=5e-3)


def test_a_value_that_half_of_all_voxels_have_is_not_smeared():
    rng = np.random.default_rng(0)
    voxels = np.concatenate([np.full(4 * MAX_BINS, 100.0), rng.uniform(200, 300, 2 * MAX_BINS)])
    histogram = Histogram.of(voxels)
    assert len(histogram.values) <= MAX_BINS
    assert histogram.statistics()["median"] == pytest.approx(100, abs=0.01)
    assert histogram.statistics()["percentile_00_5"] == pytest.approx(100, abs=0.01)

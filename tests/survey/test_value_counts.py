"""Counts of values equal NumPy's, whatever the values."""

import numpy as np
import pytest

from dynunet_bundle.survey import value_counts as counts
from dynunet_bundle.survey.value_counts import value_counts

RNG = np.random.default_rng(0)
LABEL = RNG.integers(0, 4, (9, 8, 7))


def spoilt(value: float) -> np.ndarray:
    """A label with one voxel of another value, the last."""
    array = LABEL.astype(np.float32)
    array[-1, -1, -1] = value
    return array


@pytest.mark.parametrize(
    "voxels",
    [
        *(LABEL.astype(dtype) for dtype in (np.uint8, np.int16, np.int64, np.float32, np.float64)),
        np.asfortranarray(LABEL.astype(np.float32)),
        LABEL[::2, ::-1, 1:].astype(np.float32),
        RNG.integers(-1024, 3000, 50_000).astype(np.float32),
        np.array([-32768, 32767] * 50_000, np.int16),  # a range that the type itself cannot hold
        np.array([7.0]),
        np.full((3, 2), -5, np.int8),
        RNG.normal(size=2000).astype(np.float32),
        *(spoilt(value) for value in (0.5, -0.5, 1e9, 1e30, -1e30, np.inf, -np.inf)),
        np.array([2.0**40, 2.0**40 + 1] * 9),
        np.zeros((0, 3), np.float32),
        np.array([True, False, True]),
    ],
)
def test_counts_are_those_of_numpy(voxels: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counts, "CHUNK_VOXELS", 100)
    before = voxels.copy()
    for found, expected in zip(
        value_counts(voxels), np.unique(voxels, return_counts=True), strict=True
    ):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(voxels, before)


def test_nan_is_one_value():
    values, number = value_counts(np.array([np.nan, 1, np.nan, 0], np.float32))
    np.testing.assert_array_equal(values, [0, 1, np.nan])
    assert number.tolist() == [1, 1, 2]


def test_whole_numbers_in_a_narrow_range_are_not_sorted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(np, "unique", lambda *_, **__: pytest.fail("sorted"))
    values, number = value_counts(LABEL.astype(np.float32))
    assert values.tolist() == [0, 1, 2, 3]
    assert number.sum() == LABEL.size

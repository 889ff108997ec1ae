"""Ticks are round numbers that hold all values between them."""

import math

import numpy as np
import pytest

from dynunet_bundle.drawing.ticks import ticks_about, whole_ticks_within


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ([0.13, 0.91], {}, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([0.85, 0.92], {}, [0.84, 0.86, 0.88, 0.9, 0.92]),
        ([12.0, 13.0], {"from_zero": True}, [0.0, 5.0, 10.0, 15.0]),
        ([-1.0, 1.5], {}, [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5]),
        ([2.0], {}, [1.0, 1.5, 2.0, 2.5, 3.0]),
        ([0.0], {}, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([4e-5, 0.01], {"is_log": True}, [1e-5, 1e-4, 1e-3, 1e-2]),
        ([0.008, 0.01], {"is_log": True}, [0.005, 0.01]),
        ([0.01], {"is_log": True}, [0.005, 0.01]),
        ([1e-12, 1.0], {"is_log": True}, [1e-12, 1e-9, 1e-6, 1e-3, 1.0]),
    ],
)
def test_ticks(values, settings, expected):
    ticks, span = ticks_about(values, **settings)
    assert ticks == expected
    assert span == (expected[0], expected[-1])


@pytest.mark.parametrize("is_log", [False, True])
def test_any_values_lie_between_few_ticks(is_log):
    rng = np.random.default_rng(0)
    for _ in range(500):
        values = (10 ** rng.uniform(-9, 9, size=rng.integers(1, 6))).tolist()
        ticks, (low, high) = ticks_about(values, is_log)
        assert 2 <= len(ticks) <= 8
        assert ticks == sorted(set(ticks)) and all(map(math.isfinite, ticks))
        # to a rounding error
        assert low <= min(values) * 1.00001 and max(values) * 0.99999 <= high


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1, 30, [5, 10, 15, 20, 25, 30]),
        (1, 2, [1, 2]),
        (0.5, 1.5, [1]),
        (998, 1001, [998, 999, 1000, 1001]),
    ],
)
def test_epochs_are_whole_numbers(low, high, expected):
    assert whole_ticks_within(low, high) == expected

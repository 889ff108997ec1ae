"""Foreground intensities of a data set, in constant memory: histograms that merge.

nnU-Net draws the same number of foreground voxels from every case (with replacement, 1e8 in total), so that each case
has the same weight whatever its size (nnunetv2 2.8.1, ``fingerprint_extractor.py``). Here the distribution that these
draws estimate is computed directly: the sum of the cases' histograms, each with a total weight of one. It is exact for
up to ``MAX_BINS`` distinct values, which is enough for CT; above that, neighbouring values share a bin.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dynunet_bundle.survey.value_counts import value_counts

MAX_BINS = 65_536  # distinct values of 16-bit images
PERCENTILES = {"percentile_00_5": 0.5, "median": 50.0, "percentile_99_5": 99.5}


@dataclass(frozen=True)
class Histogram:
    """Intensities of a set of voxels.

    Attributes:
        values: ascending, ``[bins]`` float64.
        weights: weight of each value, ``[bins]`` float64.
        lowest: smallest value of all voxels.
        highest: largest value of all voxels.
    """

    values: np.ndarray
    weights: np.ndarray
    lowest: float
    highest: float

    @classmethod
    def of(cls, voxels: np.ndarray) -> "Histogram":
        """Histogram of an array of voxels, with weights that add up to one; empty without voxels."""
        values, counts = value_counts(voxels)
        if not len(values):
            return cls(np.zeros(0), np.zeros(0), np.inf, -np.inf)
        lowest, highest = float(values[0]), float(values[-1])
        weights = counts / counts.sum()
        return cls(*_binned(values.astype(np.float64), weights), lowest, highest)

    def statistics(self) -> dict[str, float]:
        """``mean``, ``std``, ``min``, ``max``, ``median`` and 0.5 and 99.5 percentiles, by nnU-Net's names.

        The histogram must not be empty.
        """
        weights = self.weights / self.weights.sum()
        cumulative = np.cumsum(weights)
        mean = float(weights @ self.values)
        ranks = np.searchsorted(cumulative, [share / 100 for share in PERCENTILES.values()])
        percentiles = self.values[np.minimum(ranks, len(self.values) - 1)]
        return {
            "mean": mean,
            "std": float(np.sqrt(weights @ (self.values - mean) ** 2)),
            "min": self.lowest,
            "max": self.highest,
            **dict(zip(PERCENTILES, map(float, percentiles), strict=True)),
        }


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """Sum of histograms; only one of them is in memory at a time."""
    total = Histogram.of(np.zeros(0))
    for histogram in histograms:
        values = np.concatenate([total.values, histogram.values])
        weights = np.concatenate([total.weights, histogram.weights])
        distinct, place = np.unique(values, return_inverse=True)
        summed = np.bincount(place, weights=weights, minlength=len(distinct))
        total = Histogram(
            *_binned(distinct, summed),
            min(total.lowest, histogram.lowest),
            max(total.highest, histogram.highest),
        )
    return total


def _binned(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most ``MAX_BINS`` bins of about equal weight, each at the mean of its values."""
    if len(values) <= MAX_BINS:
        return values, weights
    cumulative = np.cumsum(weights)
    place = np.minimum((cumulative / cumulative[-1] * MAX_BINS).astype(int), MAX_BINS - 1)
    summed = np.bincount(place, weights=weights, minlength=MAX_BINS)
    centres = np.bincount(place, weights=weights * values, minlength=MAX_BINS)
    used = summed > 0
    return centres[used] / summed[used], summed[used]

"""Statistics over cases: mean, median, and a confidence interval of the mean, by class and measure.

No import of torch, so that comparing two sets of scores starts within a second.
Stored on disk: the keys of ``measure_statistics`` and the names in ``MEASURES``, in ``scores.json``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from dynunet_bundle.shapes import COUNT, MAYBE_NUMBER, TEXT, by_name, list_of, object_with

SCORES_NAME = "scores.json"

CLASS_STATISTICS = by_name(
    object_with(
        {
            "mean": MAYBE_NUMBER,
            "median": MAYBE_NUMBER,
            "ci95": {
                **list_of({"type": "number"}, minItems=2, maxItems=2),
                "type": ["array", "null"],
            },
            "num_cases": COUNT,
            "num_undefined": COUNT,
        },
        ("mean", "median"),
    )
)
SCORES_SCHEMA = object_with(
    {
        "cases": by_name(
            {
                **by_name(MAYBE_NUMBER),
                # the summary of a cross-validation also has the fold of each case
                "properties": {
                    "dice": {
                        "type": ["number", "null", "object"],
                        "additionalProperties": MAYBE_NUMBER,
                    }
                },
            }
        ),
        "mean": by_name(MAYBE_NUMBER),
        "mean_dice": MAYBE_NUMBER,
        "num_cases": by_name(COUNT),
        "nsd_tolerance_mm": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "nsd_tolerance_px": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "statistics": by_name(CLASS_STATISTICS),
        "measures": by_name(by_name(by_name(MAYBE_NUMBER))),
        "trained_cases": list_of(TEXT),
    },
    ("cases",),
    description="Pass a scores.json written by evaluate.py.",
)
"""Schema of ``scores.json``, and of the summary of a cross-validation."""

MEASURES = (
    "dice",
    "iou",
    "hd95_mm",
    "assd_mm",
    "nsd",
    "sensitivity",
    "precision",
    "volume_ml",
    "reference_volume_ml",
    "volume_difference_ml",
)

PIXEL_NAMES = {
    "hd95_mm": "hd95_px",
    "assd_mm": "assd_px",
    "volume_ml": "area_px2",
    "reference_volume_ml": "reference_area_px2",
    "volume_difference_ml": "area_difference_px2",
}
"""Names of the measures of a plain picture, which has no physical size."""

PIXEL_MEASURES = tuple(PIXEL_NAMES.get(measure, measure) for measure in MEASURES)
ALL_MEASURES = tuple(
    dict.fromkeys(name for pair in zip(MEASURES, PIXEL_MEASURES, strict=True) for name in pair)
)

TOLERANCES = {"nsd_tolerance_mm": "mm", "nsd_tolerance_px": "px"}
"""Keys of the NSD tolerance in ``scores.json``, and their units."""

Measures = dict[str, float | None]
"""All ``MEASURES`` (of a picture ``PIXEL_MEASURES``) of one class or region in one case."""

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 0
MIN_CASES = 2


def bootstrap_interval(values: Sequence[float]) -> list[float] | None:
    """95 % percentile bootstrap interval of the mean (Efron and Tibshirani 1993, chapter 13), by scipy.

    2000 resamples of the cases with a fixed seed, so that equal values always give equal intervals. For paired data,
    pass the differences: pairs are then resampled. For few cases the percentile interval is too narrow; with ten
    cases it covers the true mean in about 90 % of samples, not 95 %.

    Args:
        values: one per case.

    Returns:
        Lower and upper end, or None for fewer than two values.
    """
    if len(values) < MIN_CASES:
        return None
    interval = stats.bootstrap(
        (np.asarray(values, float),),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return [float(interval.low), float(interval.high)]


def measure_statistics(
    cases: Mapping[str, Sequence[Measures]], names: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Statistics over cases, for each class or region and measure.

    Args:
        cases: results of ``measure_case``, by case.
        names: of the classes or regions, in the order of the measures.

    Returns:
        By name and measure: ``mean``, ``median`` and ``ci95`` (of the mean, None for fewer than two cases) over the
        ``num_cases`` in which the measure is defined; ``num_undefined`` counts the cases where it is undefined although
        at least one mask has the class.
    """
    return {
        name: {
            measure: _statistics([rows[index] for rows in cases.values()], measure)
            for measure in measures_of(cases)
        }
        for index, name in enumerate(names)
    }


def measures_of(cases: Mapping[str, Sequence[Measures]]) -> list[str]:
    """Names of the measures of some cases in their order; of pictures and volumes together, those of both."""
    known = {measure for rows in cases.values() for row in rows for measure in row}
    return [measure for measure in ALL_MEASURES if measure in known]


def _statistics(rows: Sequence[Measures], measure: str) -> dict[str, Any]:
    rows = [row for row in rows if measure in row]
    values = [value for row in rows if (value := row[measure]) is not None]
    present = [row for row in rows if row["dice"] is not None]
    return {
        "mean": float(np.mean(values)) if values else None,
        "median": float(np.median(values)) if values else None,
        "ci95": bootstrap_interval(values),
        "num_cases": len(values),
        "num_undefined": sum(row[measure] is None for row in present),
    }

"""Paired comparison of two sets of masks: how much better B is than A, and with what confidence.

Stored on disk: the keys of ``compare_files``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dynunet_bundle.errors import ConfigError, counted, some_of
from dynunet_bundle.evaluation.statistics import (
    ALL_MEASURES,
    MEASURES,
    PIXEL_NAMES,
    SCORES_SCHEMA,
    TOLERANCES,
    bootstrap_interval,
)
from dynunet_bundle.evaluation.text_tables import columns_text, interval_text
from dynunet_bundle.files import read_json
from dynunet_bundle.terminal import printable

NUM_CHANGED = 5
DECIMALS = 9
"""Decimals to which differences (mm, ml or fractions) are compared: later ones differ by rounding only."""

REFERENCE_MEASURES = ("reference_volume_ml", "reference_area_px2")
COMPARED = tuple(measure for measure in ALL_MEASURES if measure not in REFERENCE_MEASURES)

SIGNIFICANCE = 0.05
"""p value below which the verdict calls a difference shown."""

Rows = dict[str, dict[str, dict[str, float | None]]]
"""Measures by case and class."""


def compare_files(first: Path, second: Path) -> dict[str, Any]:
    """Compare two ``scores.json``, paired by case; of files without ``measures``, only the Dice is compared.

    Args:
        first: A.
        second: B; a difference is B - A.

    Returns:
        ``a`` and ``b`` (the files), ``num_cases`` in both, ``only_in_a`` and ``only_in_b`` (names of cases that are
        left out), ``other_references`` (names of cases in which the reference volume of a class differs: A and B were
        scored on different labels), ``differences`` by class and measure, see ``paired_difference``, and ``verdict`` by
        class: what the differences of the Dice show, in words.

    Raises:
        ConfigError: if a file holds no scores, if the files share no case or no class, or if their NSD tolerances
            differ.
    """
    ours, theirs = read_scores(first), read_scores(second)
    _require_one_tolerance(ours, theirs, first, second)
    ours, theirs = _rows(ours), _rows(theirs)
    common = [case for case in ours if case in theirs]
    if not common:
        raise ConfigError(
            f"the files share no case: {first} has {some_of(sorted(ours))}, {second} has {some_of(sorted(theirs))}. "
            "Compare scores of the same cases."
        )
    names = _common_names(ours[common[0]], theirs[common[0]], first, second)

    def pair(case: str, name: str, measure: str) -> tuple[float | None, float | None]:
        return ours[case].get(name, {}).get(measure), theirs[case].get(name, {}).get(measure)

    differences = {
        name: {
            measure: paired_difference({case: pair(case, name, measure) for case in common})
            for measure in _compared(name, ours, theirs)
        }
        for name in names
    }
    return {
        "a": str(first),
        "b": str(second),
        "num_cases": len(common),
        "only_in_a": [case for case in ours if case not in theirs],
        "only_in_b": [case for case in theirs if case not in ours],
        "other_references": [
            case
            for case in common
            if any(
                _other_reference(pair(case, name, measure))
                for name in names
                for measure in REFERENCE_MEASURES
            )
        ],
        "differences": differences,
        "verdict": {name: _verdict(rows["dice"]) for name, rows in differences.items()},
    }


def _require_one_tolerance(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], first: Path, second: Path
) -> None:
    for key, unit in TOLERANCES.items():
        tolerances = [scores.get(key) for scores in (ours, theirs)]
        if None not in tolerances and tolerances[0] != tolerances[1]:
            raise ConfigError(
                f"the NSD tolerance is {tolerances[0]} {unit} in {first} but {tolerances[1]} {unit} in {second}. "
                "Evaluate again with the same --nsd_tolerance_mm."
            )


def _compared(name: str, *files: Rows) -> list[str]:
    """Measures of a class: those of volumes, of pictures, or both."""
    known = {measure for rows in files for row in rows.values() for measure in row.get(name, {})}
    of_pictures = known & set(PIXEL_NAMES.values())
    listed = known if of_pictures else {*known, *MEASURES}
    return [measure for measure in COMPARED if measure in listed]


def paired_difference(
    pairs: Mapping[str, tuple[float | None, float | None]],
) -> dict[str, Any]:
    """Statistics of the differences B - A of one measure.

    Args:
        pairs: the values of A and B by case; a case counts if both are defined.

    Returns:
        ``mean`` of the differences, ``ci95`` (bootstrap over pairs, see ``bootstrap_interval``), ``p_value`` of
        the two-sided Wilcoxon signed-rank test by scipy (equal pairs are dropped; 1 if all pairs are equal),
        ``smallest_p_value`` that this number of differing pairs can give, ``num_pairs``, ``num_left_out`` (cases with a
        value in one file only), and ``changed_most``: up to five cases that differ, the largest difference first.
    """
    known = {case: (a, b) for case, (a, b) in pairs.items() if a is not None and b is not None}
    differences = {case: round(b - a, DECIMALS) for case, (a, b) in known.items()}
    values = list(differences.values())
    changed = sorted(
        (case for case in known if differences[case] != 0),
        key=lambda case: (-abs(differences[case]), case),
    )
    return {
        "mean": float(np.mean(values)) if values else None,
        "ci95": bootstrap_interval(values),
        "p_value": _signed_rank(values) if values else None,
        "smallest_p_value": _smallest_p(len(changed)) if values else None,
        "num_pairs": len(values),
        "num_left_out": sum((a is None) != (b is None) for a, b in pairs.values()),
        "changed_most": [
            {
                "case": case,
                "a": known[case][0],
                "b": known[case][1],
                "difference": differences[case],
            }
            for case in changed[:NUM_CHANGED]
        ],
    }


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """One block per class: one row per measure, then the cases whose Dice changed most."""
    lines = [
        f"A: {printable(comparison['a'])}",
        f"B: {printable(comparison['b'])}",
        f"B - A, paired by case: {counted(comparison['num_cases'], 'case')} in both",
    ]
    for letter in "ab":
        others = comparison[f"only_in_{letter}"]
        if others:
            lines.append(f"only in {letter.upper()}, left out: {some_of(sorted(others))}")
    if comparison["other_references"]:
        lines.append(
            f"scored on different reference labels: {some_of(sorted(comparison['other_references']))}"
        )
    for name, rows in comparison["differences"].items():
        shown = {measure: row for measure, row in rows.items() if row["num_pairs"]}
        columns = [
            ("mean [95 % interval]", [interval_text(r["mean"], r["ci95"]) for r in shown.values()]),
            ("p (Wilcoxon)", [f"{row['p_value']:.2g}" for row in shown.values()]),
            ("smallest possible p", [f"{row['smallest_p_value']:.2g}" for row in shown.values()]),
            ("pairs", [str(row["num_pairs"]) for row in shown.values()]),
        ]
        lines += ["", *columns_text((name, list(shown)), columns)]
        lines += [
            f"Dice of {printable(case['case'])}: {case['a']:.4f} -> {case['b']:.4f}"
            for case in rows["dice"]["changed_most"]
        ]
    verdict = comparison["verdict"]
    lines += [
        "",
        "verdict, by the Dice",
        *(f"{printable(name)}: {verdict[name]}" for name in verdict),
    ]
    if len(verdict) > 1:
        lines.append(
            f"{len(verdict)} classes are {len(verdict)} tests: decide beforehand which one counts."
        )
    return "\n".join(lines)


def _verdict(row: Mapping[str, Any]) -> str:
    """What the differences of the Dice show, as a sentence."""
    if not row["num_pairs"]:
        return "no case has a Dice in both."
    mean, smallest = row["mean"], row["smallest_p_value"]
    found = (
        f"B - A is {interval_text(mean, row['ci95'])} on average over "
        f"{counted(row['num_pairs'], 'pair')}, p = {row['p_value']:.2g}"
    )
    if not row["changed_most"]:
        return f"A and B are equal in {counted(row['num_pairs'], 'pair')}."
    if smallest >= SIGNIFICANCE:
        return (
            f"the test cannot show a difference: {found}, which cannot fall below {smallest:.2g} here. "
            "Compare more cases."
        )
    if row["p_value"] < SIGNIFICANCE:
        return f"{'B' if mean > 0 else 'A'} is better: {found}."
    return f"no difference shown: {found}. This does not show that A and B are equal."


def _smallest_p(num_differing: int) -> float:
    """Smallest p value of the exact signed-rank test: all differences have one sign, 2 of 2^n signs."""
    return float(min(1.0, 2.0 ** (1 - num_differing)))


def _signed_rank(values: Sequence[float]) -> float:
    # scipy divides by zero if all values are zero
    return float(stats.wilcoxon(values).pvalue) if any(values) else 1.0


def _other_reference(pair: tuple[float | None, float | None]) -> bool:
    a, b = pair
    return a is not None and b is not None and round(a - b, DECIMALS) != 0


def read_scores(path: Path) -> dict[str, Any]:
    """Read a scores.json.

    Raises:
        ConfigError: if it is missing or malformed.
    """
    scores: dict[str, Any] = read_json(path, ConfigError, SCORES_SCHEMA)
    return scores


def _rows(scores: Mapping[str, Any]) -> Rows:
    """Measures by case and class."""
    if "measures" in scores:
        return scores["measures"]
    return {
        # the summary of a cross-validation also holds the fold of each case
        case: {name: {"dice": dice} for name, dice in row.get("dice", row).items()}
        if isinstance(row.get("dice", row), dict)
        else {}
        for case, row in scores["cases"].items()
    }


def _common_names(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], first: Path, second: Path
) -> list[str]:
    names = [name for name in ours if name in theirs]
    if not names:
        raise ConfigError(
            f"the files share no class: {first} has {some_of(sorted(ours))}, {second} has {some_of(sorted(theirs))}. "
            "Evaluate both with the same --label_names."
        )
    return names

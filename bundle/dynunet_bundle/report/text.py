"""Numbers and texts for a report: numbers rounded, a dash for undefined values, texts without folders."""

import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any

from dynunet_bundle.terminal import LAYOUT, printable

DASH = "\N{EN DASH}"
SECONDS_A_MINUTE = 60
SHOWN_VALUE_CHARACTERS = 300

_PATH_START = r"(?<![\w.)\]])(?:[A-Za-z]:[\\/]|\\\\|~?/)(?=[^\s/\\])"
_FOLDERS = re.compile(rf"{_PATH_START}.*[\\/]")
_ROOTED = re.compile(_PATH_START)


@dataclass(frozen=True)
class Measure:
    """How one measure of scores.json is shown.

    Attributes:
        key: its name in scores.json.
        title: its name for people.
        unit: of its values, or empty.
        digits: decimals.
        best: value of a perfect mask, which the axis of a chart must include; None if not needed.
        meaning: one sentence.
    """

    key: str
    title: str
    unit: str = ""
    digits: int = 3
    best: float | None = None
    meaning: str = ""


HD95 = (
    "95th percentile of the distances from each surface to the other, the larger of both directions. "
    "0 is perfect; undefined if only one mask has the class."
)
ASSD = "Mean distance between the surfaces of both masks. 0 is perfect; undefined if only one mask has the class."
MEASURES = (
    Measure(
        "dice",
        "Dice",
        best=1,
        meaning="Overlap divided by the mean of both volumes. 1 is perfect, 0 no overlap.",
    ),
    Measure(
        "nsd",
        "NSD",
        best=1,
        meaning="Normalised surface Dice: share of both surfaces within the tolerance of the other. 1 is perfect.",
    ),
    Measure("hd95_mm", "HD95", "mm", 2, 0, HD95),
    Measure("hd95_px", "HD95", "px", 2, 0, HD95),
    Measure("assd_mm", "ASSD", "mm", 2, 0, ASSD),
    Measure("assd_px", "ASSD", "px", 2, 0, ASSD),
    Measure(
        "iou",
        "IoU",
        best=1,
        meaning="Overlap divided by the union of both masks. 1 is perfect; below the Dice.",
    ),
    Measure("sensitivity", "Sensitivity", best=1, meaning="Share of the reference that was found."),
    Measure(
        "precision",
        "Precision",
        best=1,
        meaning="Share of the prediction that is in the reference.",
    ),
    Measure(
        "volume_difference_ml",
        "Volume difference",
        "ml",
        2,
        meaning="Predicted minus reference volume: above 0, too much was segmented.",
    ),
    Measure(
        "area_difference_px2",
        "Area difference",
        "px\u00b2",
        0,
        meaning="Predicted minus reference area: above 0, too much was segmented.",
    ),
    Measure("volume_ml", "Volume", "ml", 2, meaning="Volume of the prediction."),
    Measure("area_px2", "Area", "px\u00b2", 0, meaning="Area of the prediction."),
    Measure("reference_volume_ml", "Reference volume", "ml", 2, meaning="Volume of the reference."),
    Measure(
        "reference_area_px2", "Reference area", "px\u00b2", 0, meaning="Area of the reference."
    ),
)
"""Measures in column order, most wanted first."""


def measure_of(key: str, tolerance: float | None = None, unit: str = "mm") -> Measure:
    """How a measure is shown; an unlisted measure is titled by its key.

    Args:
        key: as in scores.json.
        tolerance: tolerance of the normalised surface Dice, added to its title.
        unit: of the tolerance.
    """
    for measure in MEASURES:
        if measure.key == key:
            if key == "nsd" and tolerance is not None:
                return replace(measure, title=f"NSD at {tolerance:g} {unit}")
            return measure
    return Measure(key, clean(key).replace("_", " "))


def finite(value: Any) -> float | None:
    """The number, or None for null, NaN and infinity."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def number(value: Any, digits: int = 3) -> str:
    """A number with a fixed number of decimals, or a dash if it is undefined."""
    known = finite(value)
    return DASH if known is None else f"{known:.{digits}f}"


def duration(seconds: Any) -> str:
    """Seconds in readable form: ``0.42 s``, ``12.3 s``, ``3 min 20 s``, ``2 h 05 min``."""
    known = finite(seconds)
    if known is None:
        return DASH
    if known < SECONDS_A_MINUTE:
        return f"{known:.2f} s" if known < 1 else f"{known:.1f} s"
    minutes, rest = divmod(round(known), SECONDS_A_MINUTE)
    if minutes < SECONDS_A_MINUTE:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, SECONDS_A_MINUTE)
    return f"{hours} h {minutes:02d} min"


def clean(text: Any) -> str:
    """Text without folders, its control characters escaped; the template escapes markup.

    An absolute path or one from the home folder reveals the machine and often a patient; only the part after its last
    separator is kept. If spaces make the end of a path ambiguous, more text is removed rather than less. Line breaks
    stay; HTML shows them as spaces.
    """
    return printable(_ROOTED.sub("", _FOLDERS.sub("", str(text))), LAYOUT)


def shown_value(value: Any) -> str:
    """A setting as text: strings unquoted, other values as JSON; long texts are truncated."""
    text = value if isinstance(value, str) else json.dumps(_cleaned(value), default=str)
    text = clean(text) if isinstance(value, str) else text
    if len(text) > SHOWN_VALUE_CHARACTERS:
        return f"{text[:SHOWN_VALUE_CHARACTERS]}..."
    return text


def _cleaned(value: Any) -> Any:
    """The value with every string in it cleaned; cleaned after ``json.dumps``, quotes would hide the end of a path."""
    if isinstance(value, dict):
        return {clean(key): _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner) for inner in value]
    return clean(value) if isinstance(value, str) else value

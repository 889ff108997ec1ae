"""Numbers and texts for a report: numbers rounded, a dash for undefined values, texts without folders."""

import json
import math
import re
from dataclasses import dataclass
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
    """

    key: str
    title: str
    unit: str = ""
    digits: int = 3
    best: float | None = None


MEASURES = (
    Measure("dice", "Dice", best=1),
    Measure("nsd", "NSD", best=1),
    Measure("hd95_mm", "HD95", "mm", 2, best=0),
    Measure("assd_mm", "ASSD", "mm", 2, best=0),
    Measure("iou", "IoU", best=1),
    Measure("sensitivity", "Sensitivity", best=1),
    Measure("precision", "Precision", best=1),
    Measure("volume_difference_ml", "Volume difference", "ml", 2),
    Measure("volume_ml", "Volume", "ml", 2),
    Measure("reference_volume_ml", "Reference volume", "ml", 2),
)
"""Measures in column order, most wanted first."""


def measure_of(key: str, tolerance_mm: float | None = None) -> Measure:
    """How a measure is shown; an unlisted measure is titled by its key.

    Args:
        key: as in scores.json.
        tolerance_mm: tolerance of the normalised surface Dice, added to its title.
    """
    for measure in MEASURES:
        if measure.key == key:
            if key == "nsd" and tolerance_mm is not None:
                return Measure(key, f"NSD at {tolerance_mm:g} mm", best=measure.best)
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

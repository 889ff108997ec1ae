"""Quality flags of a prediction, each with its grade: what a person should check, and what is probably unusable.

Stored on disk: the kinds and grades of ``find_flags``, in ``run.json``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dynunet_bundle.errors import counted
from dynunet_bundle.labels.extents import MM3_PER_ML

LOOK, UNUSABLE = "look", "probably unusable"
GRADES = (UNUSABLE, LOOK)
"""From the worst to the mildest."""

VOLUME_MARGIN = 0.1
"""Fraction by which a volume may be outside the range of the training cases without a flag."""

FAR_VOLUME = 3.0
"""Factor between a volume and the range of the training cases above which a mask is probably unusable."""

MANY_COMPONENTS = 20
"""Number of components above which a mask is probably unusable, if the training cases have fewer."""

FAR_ENTROPY = 2.0
"""Factor of the limit of the entropy above which a mask is probably unusable."""

FAR_CLIPPED = 0.5
"""Fraction of foreground voxels outside the training's intensities above which a mask is probably unusable."""

MAX_SHEARED_DEGREES = 0.5
"""Shear above which a case is flagged; rounded headers give less."""


def grade_of(kind: str, value: float | None, span: Sequence[float] | None) -> str:
    """How serious a flag is: one of ``GRADES``.

    Args:
        kind: of the flag.
        value: what was found.
        span: smallest and largest usual value, or None.
    """
    if kind == "empty":
        return UNUSABLE
    if value is None or span is None:
        return LOOK
    low, high = span
    is_far = {
        "volume": value > FAR_VOLUME * high or FAR_VOLUME * value < low,
        "components": value > max(MANY_COMPONENTS, high),
        "entropy": value > FAR_ENTROPY * high,
        "intensity": value > FAR_CLIPPED,
    }
    return UNUSABLE if is_far.get(kind, False) else LOOK


def find_flags(
    facts: Mapping[str, Any],
    training: Mapping[str, Any],
    max_entropy: float,
    max_clipped: float,
) -> list[dict[str, Any]]:
    """Quality flags of a case, in the form of run.json.

    Args:
        facts: a case of run.json: ``volumes_ml`` (of a picture ``areas_px2``), ``components``, ``entropy``,
            ``clipped``, ``sheared_degrees``.
        training: ``training`` of model.json, on the training cases; may be empty.
        max_entropy: mean entropy in bits above which a class is flagged.
        max_clipped: fraction of foreground voxels outside the training's intensities above which a case is flagged.
    """
    flags = _size_flags(facts, training)
    for name, value in facts["components"].items():
        span = training.get("components", {}).get(name)
        if span and value > span[1]:
            text = f"{name} has {value} components; training cases have at most {span[1]}"
            flags.append(_flag("components", name, text, value, span))
    for name, value in (facts["entropy"] or {}).items():
        if value is not None and value > max_entropy:
            unit = "pixel" if "areas_px2" in facts else "voxel"
            text = f"the network is uncertain about {name}: {value:.2f} bits per {unit}"
            flags.append(_flag("entropy", name, text, value, [0.0, max_entropy]))
    return [*flags, *_image_flags(facts, max_clipped)]


def flag_total(cases: Mapping[str, Mapping[str, Any]]) -> str | None:
    """How many masks of a run have flags, as text; None if none has.

    Args:
        cases: ``cases`` of run.json.
    """
    grades = [[flag["grade"] for flag in facts.get("flags", ())] for facts in cases.values()]
    flagged = sum(map(bool, grades))
    if not flagged:
        return None
    unusable = sum(UNUSABLE in own for own in grades)
    worst = f", {unusable} {UNUSABLE}" if unusable else ""
    return f"{flagged} of {counted(len(cases), 'case')} flagged{worst}"


def _size_flags(facts: Mapping[str, Any], training: Mapping[str, Any]) -> list[dict[str, Any]]:
    # pixels of a picture count as voxels of 1 mm3 in the training, too
    of_picture = "areas_px2" in facts
    sizes = facts["areas_px2" if of_picture else "volumes_ml"]
    factor, unit, digits = (MM3_PER_ML, "px\u00b2", 0) if of_picture else (1.0, "ml", 2)
    flags = []
    if sizes and not any(sizes.values()):
        flags.append(_flag("empty", None, "nothing was found", 0))
    for name, value in sizes.items():
        span = [end * factor for end in training.get("volumes_ml", {}).get(name, ())]
        if value and span and not _within(value, span, VOLUME_MARGIN):
            text = (
                f"{name} has {value:.{digits}f} {unit}; "
                f"training cases have {span[0]:.{digits}f} to {span[1]:.{digits}f} {unit}"
            )
            flags.append(_flag("volume", name, text, value, span))
    return flags


def _image_flags(facts: Mapping[str, Any], max_clipped: float) -> list[dict[str, Any]]:
    """Flags of the image, whatever the mask is."""
    flags = []
    for channel, value in enumerate(facts["clipped"]):
        if value is not None and value > max_clipped:
            text = f"{value:.0%} of the foreground in channel {channel} is brighter or darker than in training"
            flags.append(_flag("intensity", None, text, value, [0.0, max_clipped]))
    if facts.get("sheared_degrees", 0) > MAX_SHEARED_DEGREES:
        text = f"the slices are sheared by {facts['sheared_degrees']:.1f} degrees; the network saw them as straight"
        flags.append(_flag("sheared", None, text, facts["sheared_degrees"]))
    return flags


def _within(value: float, span: Sequence[float], margin: float) -> bool:
    return span[0] * (1 - margin) <= value <= span[1] * (1 + margin)


def _flag(
    kind: str, label: str | None, message: str, value: float, span: Sequence[float] | None = None
) -> dict[str, Any]:
    return {
        "kind": kind,
        "grade": grade_of(kind, value, span),
        "label": label,
        "message": message,
        "value": value,
        "range": None if span is None else list(span),
    }

"""Which of the series of a study is the image: chosen by rules, never by guess."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from dynunet_bundle.clinical.dicom_names import short_name
from dynunet_bundle.clinical.dicom_source import PLANES, Series
from dynunet_bundle.errors import ConfigError, DatasetError

MAX_SHOWN = 10


@dataclass(frozen=True)
class Rules:
    """What a series must be; what is not set does not matter.

    Attributes:
        series: its SeriesInstanceUID, or its short name as the list of an ambiguous study has it.
        series_number: SeriesNumber.
        modality: as ``MR``.
        description: a regular expression that is found in SeriesDescription, whatever the case of its letters.
        image_type: a value of ImageType, or several that must all be there, as ``ORIGINAL``.
        min_slices: smallest number of images.
        plane: axial, coronal or sagittal.
        select: values of tags that part a series into stacks, by keyword, as ``{"EchoNumbers": 2}``.
    """

    series: str | None = None
    series_number: int | None = None
    modality: str | None = None
    description: str | None = None
    image_type: str | Sequence[str] = ()
    min_slices: int = 1
    plane: str | None = None
    select: Mapping[str, Any] = field(default_factory=dict)


def parse_rules(rules: Mapping[str, Any]) -> Rules:
    """Check rules from a config.

    Raises:
        ConfigError: if there is no such rule, or its value cannot be one.
    """
    known = [one.name for one in fields(Rules)]
    unknown = sorted(set(rules) - set(known))
    if unknown:
        raise ConfigError(f"no DICOM rule is named {unknown[0]!r}; there are {', '.join(known)}.")
    parsed = Rules(**rules)
    try:
        re.compile(parsed.description or "")
    except re.error as error:
        raise ConfigError(
            f"the DICOM rule description={parsed.description!r} is no regular expression: {error}."
        ) from None
    if parsed.plane not in (None, *PLANES):
        raise ConfigError(f"the DICOM rule plane={parsed.plane!r} is none of {', '.join(PLANES)}.")
    for name in ("series_number", "min_slices"):
        value = getattr(parsed, name)
        if value is not None and not isinstance(value, int):
            raise ConfigError(f"the DICOM rule {name}={value!r} is no whole number.")
    if not isinstance(parsed.select, Mapping):
        raise ConfigError(f"the DICOM rule select={parsed.select!r} maps no tags to values.")
    return parsed


def fits(series: Series, rules: Rules) -> bool:
    """Whether a series is what the rules want."""
    wanted_types = [rules.image_type] if isinstance(rules.image_type, str) else rules.image_type
    return (
        rules.series in (None, series.uid, short_name(series.uid))
        and rules.series_number in (None, series.number)
        and (rules.modality is None or rules.modality.upper() == series.modality.upper())
        and re.search(rules.description or "", series.description, re.IGNORECASE) is not None
        and {word.upper() for word in wanted_types} <= series.image_types
        and series.num_images >= rules.min_slices
        and rules.plane in (None, series.plane)
    )


def choose(series: Sequence[Series], rules: Rules, skipped: Mapping[str, int]) -> Series:
    """The one series that fits.

    Args:
        series: of one study.
        rules: what it must be.
        skipped: numbers of files that are no images, for the error.

    Raises:
        DatasetError: if none fits, none of those that fit can be read, or several can.
    """
    fitting = [one for one in series if fits(one, rules)]
    usable = [one for one in fitting if not one.problem]
    if len(usable) == 1:
        return usable[0]
    if usable:
        raise DatasetError(
            f"the DICOM input holds {len(usable)} series that fit: {_listed(usable)}. "
            f'Choose one by the rules {_rules_that_part(usable)}, as "series": "{short_name(usable[0].uid)}".'
        )
    if fitting:
        reasons = "; ".join(f"{one}: {one.problem}" for one in fitting[:MAX_SHOWN])
        raise DatasetError(f"the DICOM input holds no series that can be read: {reasons}.")
    if series:
        raise DatasetError(
            f"no series of the DICOM input fits the rules; it holds {_listed(series)}. Change the rules."
        )
    raise DatasetError(
        f"the DICOM input holds no series of images{skipped_note(skipped, '; skipped: ')}. Pass another folder."
    )


def _listed(series: Sequence[Series]) -> str:
    shown = "; ".join(map(str, series[:MAX_SHOWN]))
    more = len(series) - MAX_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _rules_that_part(series: Sequence[Series]) -> str:
    """Rules by which these series differ; ``description`` may always be one, but its values are not shown."""
    values: dict[str, set[Any]] = {
        "series_number": {one.number for one in series},
        "modality": {one.modality for one in series},
        "plane": {one.plane for one in series},
        "min_slices": {one.num_images for one in series},
        "image_type": {one.image_types for one in series},
        "description": {one.description for one in series},
    }
    return ", ".join(["series", *(name for name, found in values.items() if len(found) > 1)])


def study_name(uid: str) -> str:
    """``study_`` and 8 hex digits, made as the short name of a series is."""
    return short_name(uid).replace("series", "study", 1)


def skipped_note(skipped: Mapping[str, int], start: str = "") -> str:
    """``2 x secondary capture, 1 x localiser``; nothing where nothing was skipped."""
    counts = ", ".join(f"{count} x {reason}" for reason, count in sorted(skipped.items()))
    return f"{start}{counts}" if counts else ""

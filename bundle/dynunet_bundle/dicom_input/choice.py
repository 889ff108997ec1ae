"""Which of the series of a study is the image: chosen by rules, never by guess."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from dynunet_bundle.dicom_input.names import UID, short_name
from dynunet_bundle.dicom_input.scan import PLANES, Series
from dynunet_bundle.errors import ConfigError, DatasetError

MAX_SERIES_SHOWN = 10

SOURCE_RULES = ("channels", "all")
"""Rules of a whole source, which ``find_cases`` takes beside those of ``SeriesRules``."""


@dataclass(frozen=True)
class SeriesRules:
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


def parse_rules(rules: Mapping[str, Any]) -> SeriesRules:
    """Check rules from a config.

    Raises:
        ConfigError: if there is no such rule, or its value cannot be one.
    """
    known = [one.name for one in fields(SeriesRules)]
    unknown = sorted(set(rules) - set(known))
    if unknown and unknown[0] in SOURCE_RULES:
        raise ConfigError(f'the DICOM rule "{unknown[0]}" cannot stand within "channels".')
    if unknown:
        names = ", ".join((*known, *SOURCE_RULES))
        raise ConfigError(f"no DICOM rule is named {unknown[0]!r}; there are {names}.")
    parsed = SeriesRules(**rules)
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
    if not isinstance(parsed.series, str | None):
        raise ConfigError(f"the DICOM rule series={parsed.series!r} is no text.")
    if not isinstance(parsed.select, Mapping):
        raise ConfigError(f"the DICOM rule select={parsed.select!r} maps no tags to values.")
    return parsed


def is_named(series: Series, rules: SeriesRules) -> bool:
    """Whether a series has the name that the rules want, if they want one."""
    return rules.series in (None, series.uid, short_name(series.uid))


def fits(series: Series, rules: SeriesRules) -> bool:
    """Whether a series is what the rules want."""
    wanted_types = [rules.image_type] if isinstance(rules.image_type, str) else rules.image_type
    return (
        is_named(series, rules)
        and rules.series_number in (None, series.number)
        and (rules.modality is None or rules.modality.upper() == series.modality.upper())
        and re.search(rules.description or "", series.description, re.IGNORECASE) is not None
        and {word.upper() for word in wanted_types} <= series.image_types
        and series.num_images >= rules.min_slices
        and rules.plane in (None, series.plane)
    )


def choose_series(
    series: Sequence[Series], rules: SeriesRules, skipped: Mapping[str, int]
) -> Series:
    """The one series that fits.

    Args:
        series: of one study.
        rules: what it must be.
        skipped: numbers of files that are no images, for the error.

    Raises:
        DatasetError: if none fits, none of those that fit can be read, or several can.
    """
    usable = usable_of(series, rules)
    if len(usable) == 1:
        return usable[0]
    if usable:
        raise ambiguous([usable])
    fitting = [one for one in series if fits(one, rules)]
    if fitting:
        reasons = "; ".join(f"{one}: {one.problem}" for one in fitting[:MAX_SERIES_SHOWN])
        raise DatasetError(f"the DICOM input holds no series that can be read: {reasons}.")
    if series and not any(is_named(one, rules) for one in series):
        wanted = rules.series or ""
        # a UID is not shown, also if it is that of no series here
        name = short_name(wanted) if UID.fullmatch(wanted) else wanted
        raise DatasetError(
            f"no series of the DICOM input is named {name}; there are: {_listed(series)}. Pass one of these names."
        )
    if series:
        raise DatasetError(
            f"no series of the DICOM input fits the rules; it holds {_listed(series)}. Change the rules."
        )
    raise DatasetError(
        f"the DICOM input holds no series of images{skipped_note(skipped, '; skipped: ')}. Pass another folder."
    )


def usable_of(series: Sequence[Series], rules: SeriesRules) -> list[Series]:
    """The series that fit and can be read, as far as their headers show."""
    return [one for one in series if fits(one, rules) and not one.problem]


def ambiguous(studies: Sequence[Sequence[Series]]) -> DatasetError:
    """The error that tells of all series to choose from.

    Args:
        studies: for each study the series that fit, where there are several.
    """
    first = short_name(studies[0][0].uid)
    both_ways = f'--series {first} (in a config: "series_rules": {{"series": "{first}"}})'
    rules = ", ".join(dict.fromkeys(rule for found in studies for rule in _rules_that_part(found)))
    if len(studies) == 1:
        what = f"{len(studies[0])} series that fit: {_listed(studies[0])}"
        each = "by the rules"
    else:
        lists = ". ".join(f"{study_name(found[0].study)}: {_listed(found)}" for found in studies)
        what = f"{len(studies)} studies with several series that fit. {lists}"
        each = "one in each study by the rules"
    return DatasetError(
        f"the DICOM input holds {what}. Choose one with {both_ways}{f', or {each} {rules}' if rules else ''}."
    )


def _listed(series: Sequence[Series]) -> str:
    shown = "; ".join(map(str, series[:MAX_SERIES_SHOWN]))
    more = len(series) - MAX_SERIES_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _rules_that_part(series: Sequence[Series]) -> list[str]:
    """Rules by which these series differ; values of ``description`` may name a patient, so they are not shown."""
    values: dict[str, set[Any]] = {
        "series_number": {one.number for one in series},
        "modality": {one.modality for one in series},
        "plane": {one.plane for one in series},
        "min_slices": {one.num_images for one in series},
        "image_type": {one.image_types for one in series},
        "description": {one.description for one in series},
    }
    return [name for name, found in values.items() if len(found) > 1]


def study_name(uid: str) -> str:
    """``study_`` and 8 hex digits, made as the short name of a series is."""
    return short_name(uid).replace("series", "study", 1)


def skipped_note(skipped: Mapping[str, int], start: str = "") -> str:
    """``2 x secondary capture, 1 x localiser``; nothing where nothing was skipped."""
    counts = ", ".join(f"{count} x {reason}" for reason, count in sorted(skipped.items()))
    return f"{start}{counts}" if counts else ""

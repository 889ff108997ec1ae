"""Choose the series of a study by rules, never by guessing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from dynunet_bundle.dicom_input.names import UID, short_name
from dynunet_bundle.dicom_input.scan import PLANES, Series
from dynunet_bundle.errors import ConfigError, DatasetError

MAX_SERIES_SHOWN = 10  # series listed in a message

SOURCE_RULES = ("channels", "all")
"""Rules for a whole source, which ``find_cases`` accepts in addition to those of ``SeriesRules``."""


@dataclass(frozen=True)
class SeriesRules:
    """Conditions on a series; those that are not set are not checked.

    Attributes:
        series: its SeriesInstanceUID, or its short name from the message about an ambiguous study.
        series_number: SeriesNumber.
        modality: e.g. ``MR``.
        description: a regular expression to find in SeriesDescription, ignoring case.
        image_type: a value that ImageType must contain, or several, e.g. ``ORIGINAL``.
        min_slices: smallest number of images.
        plane: axial, coronal or sagittal.
        select: values of tags that split a series into stacks, by keyword, e.g. ``{"EchoNumbers": 2}``.
        tilt: whether to read a series with gantry tilt as it is, with a sheared affine, for a NIfTI mask alone.
    """

    series: str | None = None
    series_number: int | None = None
    modality: str | None = None
    description: str | None = None
    image_type: str | Sequence[str] = ()
    min_slices: int = 1
    plane: str | None = None
    select: Mapping[str, Any] = field(default_factory=dict)
    tilt: bool = False


def parse_rules(rules: Mapping[str, Any]) -> SeriesRules:
    """Check rules from a config.

    Raises:
        ConfigError: if a rule is unknown or has an invalid value.
    """
    known = [one.name for one in fields(SeriesRules)]
    unknown = sorted(set(rules) - set(known))
    if unknown and unknown[0] in SOURCE_RULES:
        raise ConfigError(
            f'the DICOM rule "{unknown[0]}" is not allowed inside "channels". Move it out of "channels".'
        )
    if unknown:
        names = ", ".join((*known, *SOURCE_RULES))
        raise ConfigError(f"unknown DICOM rule {unknown[0]!r}. Known rules: {names}.")
    parsed = SeriesRules(**rules)
    try:
        re.compile(parsed.description or "")
    except re.error as error:
        raise ConfigError(
            f"the DICOM rule description={parsed.description!r} is not a regular expression: {error}."
        ) from None
    if parsed.plane not in (None, *PLANES):
        raise ConfigError(
            f"the DICOM rule plane={parsed.plane!r} must be one of {', '.join(PLANES)}."
        )
    for name in ("series_number", "min_slices"):
        value = getattr(parsed, name)
        if value is not None and not isinstance(value, int):
            raise ConfigError(f"the DICOM rule {name}={value!r} must be a whole number.")
    if not isinstance(parsed.series, str | None):
        raise ConfigError(f"the DICOM rule series={parsed.series!r} must be a string.")
    if not isinstance(parsed.tilt, bool):
        raise ConfigError(f"the DICOM rule tilt={parsed.tilt!r} must be true or false.")
    if not isinstance(parsed.select, Mapping):
        raise ConfigError(
            f'the DICOM rule select={parsed.select!r} must be an object such as {{"EchoNumbers": 2}}.'
        )
    return parsed


def is_named(series: Series, rules: SeriesRules) -> bool:
    """Whether a series has the name in the rules, or the rules have none."""
    return rules.series in (None, series.uid, short_name(series.uid))


def fits(series: Series, rules: SeriesRules) -> bool:
    """Whether a series fits the rules."""
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
    """The only series that fits.

    Args:
        series: the series of one study.
        rules: conditions on the series.
        skipped: number of skipped files by reason, for the error.

    Raises:
        DatasetError: if no series fits, no fitting series can be read, or several can.
    """
    usable = usable_of(series, rules)
    if len(usable) == 1:
        return usable[0]
    if usable:
        raise ambiguous([usable])
    fitting = [one for one in series if fits(one, rules)]
    if fitting:
        reasons = "; ".join(f"{one}: {one.problem}" for one in fitting[:MAX_SERIES_SHOWN])
        remedies = " ".join(dict.fromkeys(one.remedy for one in fitting if one.remedy))
        raise DatasetError(f"the DICOM input contains no readable series: {reasons}. {remedies}")
    if series and not any(is_named(one, rules) for one in series):
        wanted = rules.series or ""
        # a UID is never shown, not even an unknown one
        name = short_name(wanted) if UID.fullmatch(wanted) else wanted
        raise DatasetError(
            f"no series of the DICOM input has the name {name}. Pass one of these: {_listed(series)}."
        )
    if series:
        raise DatasetError(
            f"no series of the DICOM input fits the rules; it contains {_listed(series)}. Change the rules."
        )
    raise DatasetError(
        f"the DICOM input contains no series of images{skipped_note(skipped, '; skipped: ')}. Pass another folder."
    )


def usable_of(series: Sequence[Series], rules: SeriesRules) -> list[Series]:
    """The series that fit and can be read, judging by their headers."""
    return [one for one in series if fits(one, rules) and not one.problem]


def ambiguous(studies: Sequence[Sequence[Series]]) -> DatasetError:
    """The error that lists all series to choose from.

    Args:
        studies: the fitting series of each study that has several.
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
        f"the DICOM input contains {what}. Choose one with {both_ways}{f', or {each} {rules}' if rules else ''}."
    )


def _listed(series: Sequence[Series]) -> str:
    shown = "; ".join(map(str, series[:MAX_SERIES_SHOWN]))
    more = len(series) - MAX_SERIES_SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _rules_that_part(series: Sequence[Series]) -> list[str]:
    """Rules in which these series differ, without their values, since a description may contain a patient's name."""
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
    """Short name of a study, ``study_`` and 8 hex digits, like that of a series."""
    return short_name(uid).replace("series", "study", 1)


def skipped_note(skipped: Mapping[str, int], start: str = "") -> str:
    """``2 x secondary capture, 1 x localiser``; empty if nothing was skipped."""
    counts = ", ".join(f"{count} x {reason}" for reason, count in sorted(skipped.items()))
    return f"{start}{counts}" if counts else ""

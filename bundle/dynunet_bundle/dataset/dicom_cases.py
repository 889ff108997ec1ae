"""The cases of a DICOM source: one a study, its series chosen by rules."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.cases import Case
from dynunet_bundle.dicom_input.choice import (
    SeriesRules,
    ambiguous,
    choose_series,
    fits,
    parse_rules,
    skipped_note,
    study_name,
    usable_of,
)
from dynunet_bundle.dicom_input.frames import as_text
from dynunet_bundle.dicom_input.names import SeriesName, parse_name, short_name
from dynunet_bundle.dicom_input.scan import Series, scan
from dynunet_bundle.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)


def find_cases(source: str | Path, rules: Mapping[str, Any] | None = None) -> list[Case]:
    """Find what to predict on in a folder, a zip archive or a file of DICOM.

    Args:
        source: searched with all folders in it, whatever the files are called; or a series' name, with its UID.
        rules: what the series of each study must be, by the attributes of ``dicom_choice.Rules``. Beside them
            ``"channels"``: a list of such rules, one a channel of the image, each added to the rest; and
            ``"all": true``: a case for each series that fits.

    Returns:
        Cases sorted by name: ``image`` is a series' name, or a list with one a channel, and ``name`` names no patient.

    Raises:
        BundleError: if pydicom is missing.
        ConfigError: if a rule is none.
        DatasetError: if nothing fits, or several series of a study do; it lists them.
    """
    parsed = parse_name(str(source))
    given = dict(rules or {})
    every, channels = given.pop("all", False), given.pop("channels", None) or [{}]
    if every and len(channels) > 1:
        raise ConfigError('the DICOM rules "all" and "channels" exclude each other.')
    if parsed.uid is not None:
        given |= {"series": parsed.uid, "select": {**parsed.select, **given.get("select", {})}}
    sets = [parse_rules({**given, **one}) for one in channels]
    found = scan(parsed.source)
    _note(found.skipped)
    location = parsed.source.expanduser().resolve()
    if every:
        chosen: list[tuple[Series, ...]] = [
            (one,) for one in found.series if fits(one, sets[0]) and not one.problem
        ]
        if not chosen:
            choose_series(found.series, sets[0], found.skipped)
    else:
        chosen = _of_studies(found.series, sets, found.skipped)
    cases = [_case(location, series, sets) for series in chosen]
    return sorted(cases, key=lambda case: str(case["name"]))


def _note(skipped: Mapping[str, int]) -> None:
    if skipped:
        logger.info("skipped in the DICOM input: %s", skipped_note(skipped))


def _of_studies(
    series: tuple[Series, ...], sets: list[SeriesRules], skipped: Mapping[str, int]
) -> list[tuple[Series, ...]]:
    """For each study its series, one a channel; a study where none fits is left out where others have one."""
    studies: dict[str, list[Series]] = {}
    for one in series:
        studies.setdefault(one.study, []).append(one)
    fitting = {
        uid: found
        for uid, found in studies.items()
        if all(any(fits(one, rules) for one in found) for rules in sets)
    }
    for uid in studies.keys() - fitting.keys() if fitting else ():
        logger.warning("%s: no series fits the rules; left out", study_name(uid))
    if not fitting:
        for rules in sets:
            if not usable_of(series, rules):
                choose_series(series, rules, skipped)
        raise DatasetError(
            "no study of the DICOM input has a series for each channel. Change the rules."
        )
    _require_one_each(list(fitting.values()), sets)
    return [
        tuple(choose_series(found, rules, skipped) for rules in sets) for found in fitting.values()
    ]


def _require_one_each(studies: Sequence[Sequence[Series]], sets: Sequence[SeriesRules]) -> None:
    """Refuse all studies in which something is left to choose at once, not one after the other."""
    for rules in sets:
        found = [usable_of(study, rules) for study in studies]
        crowded = [usable for usable in found if len(usable) > 1]
        if crowded:
            raise ambiguous(crowded)


def _case(source: Path, series: tuple[Series, ...], sets: list[SeriesRules]) -> Case:
    names = []
    for one, rules in zip(series, sets, strict=True):
        select = {tag: as_text(value) for tag, value in rules.select.items()}
        names.append(SeriesName(source, one.uid, select))
    name = short_name(names[0].uid or "", names[0].select)
    # a whole series is shown by the name of its case
    alias = "" if len(names) == 1 and not names[0].select else f", as {name}"
    logger.info("chosen: %s%s", " and ".join(map(str, series)), alias)
    images = [str(one) for one in names]
    return {"image": images[0] if len(images) == 1 else images, "name": name}

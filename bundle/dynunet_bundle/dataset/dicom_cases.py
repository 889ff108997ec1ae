"""The cases of a DICOM source: one per study, with its series chosen by rules."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.cases import Case, absolute
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
from dynunet_bundle.dicom_input.names import TILT, SeriesName, parse_name, short_name
from dynunet_bundle.dicom_input.scan import Series, scan
from dynunet_bundle.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)


def find_cases(source: str | Path, rules: Mapping[str, Any] | None = None) -> list[Case]:
    """Find the cases to predict in a DICOM folder, zip archive or file.

    Args:
        source: folder, zip archive or file, searched recursively; or the name of a series, with its UID.
        rules: conditions on the series of each study, by the attributes of ``choice.SeriesRules``. Two more keys:
            ``"channels"``, a list of such rules with one entry per channel of the image, each added to the others;
            and ``"all": true``, which makes a case of every series that fits.

    Returns:
        Cases sorted by name. ``image`` is the name of a series, or a list with one per channel; ``name`` does not
        identify a patient.

    Raises:
        BundleError: if pydicom is missing.
        ConfigError: if a rule is invalid.
        DatasetError: if no series fits, or several series of a study do; it lists them.
    """
    parsed = parse_name(str(source))
    given = dict(rules or {})
    every, channels = given.pop("all", False), given.pop("channels", None) or [{}]
    if every and len(channels) > 1:
        raise ConfigError(
            'the DICOM rules "all" and "channels" exclude each other. Give one of them.'
        )
    if parsed.uid is not None:
        given |= {"series": parsed.uid, "select": {**parsed.select, **given.get("select", {})}}
    sets = [parse_rules({**given, **one}) for one in channels]
    found = scan(parsed.source)
    location = absolute(parsed.source)
    if every:
        chosen: list[tuple[Series, ...]] = [
            (one,) for one in found.series if fits(one, sets[0]) and not one.problem
        ]
        if not chosen:
            choose_series(found.series, sets[0], found.skipped)
    else:
        chosen = _of_studies(found.series, sets, found.skipped)
    used = {file for series in chosen for one in series for file in one.damaged}
    unused = len(set(found.damaged) - used)
    _note({**found.skipped, **({"damaged file": unused} if unused else {})})
    cases = [_case(location, series, sets) for series in chosen]
    return sorted(cases, key=lambda case: str(case["name"]))


def _note(skipped: Mapping[str, int]) -> None:
    if skipped:
        logger.info("skipped in the DICOM input: %s", skipped_note(skipped))


def _of_studies(
    series: tuple[Series, ...], sets: list[SeriesRules], skipped: Mapping[str, int]
) -> list[tuple[Series, ...]]:
    """The series of each study, one per channel. Studies without a fitting series are skipped if others have one."""
    studies: dict[str, list[Series]] = {}
    for one in series:
        studies.setdefault(one.study, []).append(one)
    fitting = {
        uid: found
        for uid, found in studies.items()
        if all(any(fits(one, rules) for one in found) for rules in sets)
    }
    for uid in studies.keys() - fitting.keys() if fitting else ():
        logger.warning("%s: no series fits the rules; the study is skipped", study_name(uid))
    if not fitting:
        for rules in sets:
            if not usable_of(series, rules):
                choose_series(series, rules, skipped)
        raise DatasetError(
            "no study of the DICOM input has a series for each channel. Change the rules."
        )
    _require_one_each(list(fitting.values()), sets)
    return [
        tuple(_of_study(found, rules, skipped, alone=len(fitting) == 1) for rules in sets)
        for found in fitting.values()
    ]


def _of_study(
    series: Sequence[Series], rules: SeriesRules, skipped: Mapping[str, int], *, alone: bool
) -> Series:
    """The series of a study; beside other studies one that cannot be read, so that only its own case fails."""
    if not alone and not usable_of(series, rules):
        return next(one for one in series if fits(one, rules))
    return choose_series(series, rules, skipped)


def _require_one_each(studies: Sequence[Sequence[Series]], sets: Sequence[SeriesRules]) -> None:
    """Refuse ambiguous studies, all of them in one error."""
    for rules in sets:
        found = [usable_of(study, rules) for study in studies]
        crowded = [usable for usable in found if len(usable) > 1]
        if crowded:
            raise ambiguous(crowded)


def _case(source: Path, series: tuple[Series, ...], sets: list[SeriesRules]) -> Case:
    names = []
    for one, rules in zip(series, sets, strict=True):
        select = {tag: as_text(value) for tag, value in rules.select.items()}
        select |= dict([TILT]) if rules.tilt else {}
        names.append(SeriesName(source, one.uid, select))
    name = short_name(names[0].uid or "", names[0].select)
    # a single, whole series is already shown with the name of its case
    alias = "" if len(names) == 1 and not names[0].select else f", as {name}"
    logger.info("chosen: %s%s", " and ".join(map(str, series)), alias)
    images = [str(one) for one in names]
    return {"image": images[0] if len(images) == 1 else images, "name": name}

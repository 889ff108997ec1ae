"""A survey of every file of a data set: its problems, and the facts that planning needs.

Results are cached with the identity of the files, so the next survey reads only new and changed files. Files that were
moved or copied are recognised by their content.

Stored on disk: fields of ``Finding`` and the keys of the notes, in the cache. Increase ``FORMAT_VERSION`` to change
them.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.dataset.case_errors import too_large, unreadable
from dynunet_bundle.dataset.cases import (
    Case,
    all_files,
    content_of,
    file_identity,
    image_files,
    name_in,
    name_of,
    unique_stem,
)
from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.errors import BundleError, CaseError, ConfigError, first_line
from dynunet_bundle.files import atomic_write, ensure_writable
from dynunet_bundle.images.read import Volume, read_channels
from dynunet_bundle.shapes import OBJECT, SHA256, TEXT, by_name, list_of, object_with, require_shape
from dynunet_bundle.survey.case_facts import CaseFacts
from dynunet_bundle.survey.findings import Finding, case_findings, duplicate_findings
from dynunet_bundle.terminal import progress

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2  # of the cached files; files of another version are read again

FINDING = {field.name: TEXT for field in fields(Finding)}
NOTES_SCHEMA = object_with(
    {
        "identity": object_with({"files": by_name(OBJECT)}, ("files",)),
        "content": by_name(SHA256),
        "digest": TEXT,
        "findings": list_of(object_with(FINDING, tuple(FINDING), additionalProperties=False)),
    },
    ("identity", "digest", "findings"),
)
"""Shape of the notes that are kept with the facts of a case."""

Known = Mapping[str, Sequence[Path]]
"""Cached files by the name of the case."""


@dataclass(frozen=True)
class CaseSurvey:
    """Survey of one case.

    Attributes:
        name: name of the case.
        findings: its problems.
        digest: hash of the image's voxels; empty if the image could not be read.
        facts: facts for planning; None for a case without a label or with errors.
    """

    name: str
    findings: tuple[Finding, ...]
    digest: str = ""
    facts: CaseFacts | None = None


def survey_dataset(
    dataset: DatasetDescription, num_workers: int = 4, cache_dir: str | Path | None = None
) -> list[CaseSurvey]:
    """Survey all cases in parallel.

    Args:
        dataset: the data set; its files exist.
        num_workers: number of reading threads.
        cache_dir: folder in which results are kept for the next survey; None keeps nothing.

    Returns:
        One survey per case, training cases first.

    Raises:
        OutputError: if the cache cannot be written.
    """
    cases = (*dataset.training, *dataset.test)
    cache = None if cache_dir is None else ensure_writable(Path(cache_dir))
    known: dict[str, list[Path]] = defaultdict(list)
    for path in [] if cache is None else sorted(cache.glob("*.npz")):
        known[name_in(path.stem)].append(path)
    pool = ThreadPoolExecutor(num_workers)
    try:
        looks = pool.map(lambda case: _survey_case(case, dataset, cache, known), cases)
        return list(progress(looks, "survey", total=len(cases)))
    finally:
        pool.shutdown(cancel_futures=True)


def all_findings(surveys: Sequence[CaseSurvey]) -> list[Finding]:
    """Findings of all cases in their order, then those that concern several cases."""
    found = [finding for survey in surveys for finding in survey.findings]
    return found + duplicate_findings([(survey.name, survey.digest) for survey in surveys])


def _survey_case(
    case: Case, dataset: DatasetDescription, cache: Path | None, known: Known
) -> CaseSurvey:
    name = name_of(case)
    identity = {
        "format": FORMAT_VERSION,
        "files": file_identity(case),
        "channels": list(dataset.channel_names),
        "label_values": list(dataset.labels.values),
    }
    if dataset.labels.ignore_value is not None:
        identity["ignore_value"] = dataset.labels.ignore_value
    if cache is None:
        return _look(name, case, dataset)
    path = cache / f"{unique_stem(case)}.npz"
    found = _read_cached(path, name)
    if found and found[1]["identity"] == identity:
        return _remembered(name, *found)
    others = [other for other in known.get(name_in(path.stem), ()) if other != path]
    content, survey = _moved(case, identity, others)
    survey = survey or _look(name, case, dataset)
    # only surveys without errors are kept: a damaged file may be replaced in place, so it is read again
    if survey.facts is not None:
        notes = {
            "identity": identity,
            "content": content or content_of(case),
            "digest": survey.digest,
            "findings": [finding.to_json() for finding in survey.findings],
        }
        with atomic_write(path) as file:
            survey.facts.save(file, notes)
    return survey


def _moved(
    case: Case, identity: Mapping[str, Any], others: Sequence[Path]
) -> tuple[dict[str, str], CaseSurvey | None]:
    """The survey of the same files under an earlier path, or None; and their content, if it was needed."""
    content: dict[str, str] = {}
    for other in others:
        found = _read_cached(other, name_of(case))
        if found is None or "content" not in found[1]:
            continue
        if _unmoved(found[1]["identity"]) == _unmoved(identity):
            content = content or content_of(case)
            if found[1]["content"] == content:
                return content, _remembered(name_of(case), *found)
    return content, None


def _unmoved(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an identity that a move does not change."""
    sizes = {role: source.get("size") for role, source in identity["files"].items()}
    return {**identity, "files": sizes}


def _remembered(name: str, facts: CaseFacts, notes: Mapping[str, Any]) -> CaseSurvey:
    findings = tuple(Finding(**finding) for finding in notes["findings"])
    return CaseSurvey(name, findings, notes["digest"], facts)


def _read_cached(path: Path, name: str) -> tuple[CaseFacts, dict[str, Any]] | None:
    """Facts and notes of a cached file; None if it is missing or damaged."""
    try:
        facts, notes = CaseFacts.load(path)
        require_shape(notes, NOTES_SCHEMA, path, ConfigError)
        return facts, notes
    except FileNotFoundError:
        return None
    except Exception as error:  # zip, zlib and numpy raise a dozen types for a damaged file
        logger.info(
            "the survey cache %s is damaged (%s); case %s is read again",
            path.name,
            type(error).__name__,
            name,
        )
        return None


def _look(name: str, case: Case, dataset: DatasetDescription) -> CaseSurvey:
    try:
        return _survey_content(name, case, dataset)
    except CaseError as error:
        failure = error
    except MemoryError as error:
        failure = too_large(name, first_line(error))
    return CaseSurvey(name, (Finding(name, "error", failure.problem, failure.remedy),))


def _survey_content(name: str, case: Case, dataset: DatasetDescription) -> CaseSurvey:
    image, label, headers = _read(case)
    findings = tuple(case_findings(name, image, label, headers, dataset))
    usable = all(finding.severity != "error" for finding in findings)
    facts = None
    if usable and label is not None:
        facts = CaseFacts.of(image, label, dataset.labels.ignore_value)
    digest = hashlib.sha256(image.array.data).hexdigest()
    return CaseSurvey(name, findings, digest, facts)


def _read(case: Case) -> tuple[Volume, Volume | None, dict[str, Any]]:
    """Image, label and the headers of all files by role, without MONAI, whose import takes seconds.

    Raises:
        CaseError: if a file is damaged, or channels have different grids.
    """
    try:
        image, headers = read_channels(image_files(case))
        label = None
        if "label" in case:
            label, label_headers = read_channels([str(case["label"])])
            label, headers = _single(label), headers + label_headers
        return _single(image), label, dict(zip(all_files(case), headers, strict=True))
    except BundleError:
        raise
    except Exception as error:  # nibabel, zlib and SimpleITK raise a dozen types for a damaged file
        raise unreadable(case, error) from error


def _single(volume: Volume) -> Volume:
    """The volume in the data type and memory order that preprocessing gets from ``LoadImaged``."""
    return Volume(np.ascontiguousarray(volume.array, np.float32), volume.affine)

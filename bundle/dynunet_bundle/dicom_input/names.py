"""How a DICOM series is named: one string with where it lies, its UID and, where it needs parting, a tag and its value.

    FOLDER_OR_ZIP
    FOLDER_OR_ZIP::SERIES_INSTANCE_UID
    FOLDER_OR_ZIP::SERIES_INSTANCE_UID::EchoNumbers=2

Nothing here needs pydicom, so that files of other formats are told apart without it.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from dynunet_bundle.dicom_input.start import is_dicom_file
from dynunet_bundle.files import IMAGE_SUFFIXES

SEPARATOR = "::"
UID = re.compile(r"[0-9.]{1,64}")
"""DICOM PS3.5 section 9: digits and points, 64 characters at most."""

ARCHIVE_SUFFIX = ".zip"
SHORT_DIGITS = 8


@dataclass(frozen=True)
class SeriesName:
    """The parts of a series' name.

    Attributes:
        source: a folder, a zip archive or a DICOM file.
        uid: SeriesInstanceUID, or None where the source holds one series only.
        select: values of tags, by keyword, that the images must have.
    """

    source: Path
    uid: str | None = None
    select: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The string that ``parse_name`` takes apart; values are quoted as in a URL."""
        parts = [str(self.source)]
        if self.uid:
            parts.append(self.uid)
            parts += [f"{tag}={quote(value, safe='')}" for tag, value in self.select.items()]
        return SEPARATOR.join(parts)


def parse_name(name: str) -> SeriesName:
    """Take a series' name apart; folders may hold ``::`` in their own names."""
    parts = name.split(SEPARATOR)
    select: dict[str, str] = {}
    while len(parts) > 1 and re.fullmatch(r"[A-Za-z0-9]+=.*", parts[-1]):
        tag, _, value = parts.pop().partition("=")
        select = {tag: unquote(value), **select}
    uid = parts.pop() if len(parts) > 1 and UID.fullmatch(parts[-1]) else None
    return SeriesName(Path(SEPARATOR.join(parts)), uid, select)


def is_series_name(name: Any) -> bool:
    """Whether a name is one of a DICOM series: a folder, a zip, a DICOM file, or any of them with a UID."""
    parsed = parse_name(str(name))
    return parsed.uid is not None or is_dicom_source(parsed.source)


def is_dicom_source(path: Path) -> bool:
    """Whether a path is a folder, a zip archive, or a file that says it is DICOM."""
    if path.is_dir():
        return True
    if path.name.lower().endswith(ARCHIVE_SUFFIX):
        return path.is_file()
    return path.is_file() and is_dicom_file(path)


def is_dicom_input(path: Path) -> bool:
    """Whether what a user passes as images is DICOM: a series' name, an archive, a DICOM file, or a folder with one.

    A folder that holds images of other formats directly in it is theirs.
    """
    if not path.is_dir():
        return is_series_name(path)
    return not any(name.lower().endswith(IMAGE_SUFFIXES) for name in os.listdir(path)) and any(
        is_dicom_source(Path(root) / name) for root, _, names in os.walk(path) for name in names
    )


def short_name(uid: str, select: Mapping[str, str] | None = None) -> str:
    """Name of a series' case: ``series_`` and 8 hex digits of the SHA-256 of its UID, so that it names no patient.

    Args:
        uid: SeriesInstanceUID.
        select: what parts the series, as ``series_0123abcd_EchoNumbers2``.
    """
    digest = hashlib.sha256(uid.encode()).hexdigest()[:SHORT_DIGITS]
    chosen = (
        f"_{tag}{re.sub(r'[^A-Za-z0-9.-]', '', value)}" for tag, value in (select or {}).items()
    )
    return f"series_{digest}{''.join(chosen)}"

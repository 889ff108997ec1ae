"""The name of a DICOM series: one string of its source, its UID and, to select one of several stacks, tags and values.

    FOLDER_OR_ZIP
    FOLDER_OR_ZIP::SERIES_INSTANCE_UID
    FOLDER_OR_ZIP::SERIES_INSTANCE_UID::EchoNumbers=2
    FOLDER_OR_ZIP::SeriesInstanceUID=UID_THAT_IS_NOT_VALID

Nothing here needs pydicom, so other formats work without it.

Stored on disk: short names (``series_0123abcd``), in file names of masks and in run.json.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from dynunet_bundle.dicom_input.start import is_dicom_file
from dynunet_bundle.files import IMAGE_SUFFIXES

SEPARATOR = "::"
UID = re.compile(r"[0-9.]{1,64}")
"""Form of a UID (DICOM PS3.5 section 9): digits and points, at most 64 characters."""

TILT = ("GantryTilt", "kept")
"""A tag of ours and its value in the name of a series that is read with its tilt, and so in the name of its case."""

UID_TAG = "SeriesInstanceUID"
"""Tag that precedes a UID of another form, such as one with letters, in the name of a series."""

ARCHIVE_SUFFIX = ".zip"
SHORT_DIGITS = 8  # hex digits of a short name


@dataclass(frozen=True)
class SeriesName:
    """The parts of a series' name.

    Attributes:
        source: a folder, a zip archive or a DICOM file.
        uid: SeriesInstanceUID, or None for the only series of the source.
        select: values of tags that the images must have, by keyword.
    """

    source: Path
    uid: str | None = None
    select: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The string that ``parse_name`` reads; values are quoted as in a URL."""
        parts = [str(self.source)]
        if self.uid:
            valid = UID.fullmatch(self.uid)
            parts.append(self.uid if valid else f"{UID_TAG}={quote(self.uid, safe='')}")
            parts += [f"{tag}={quote(value, safe='')}" for tag, value in self.select.items()]
        return SEPARATOR.join(parts)


def parse_name(name: str) -> SeriesName:
    """Split the name of a series into its parts; the names of folders may contain ``::``."""
    parts = name.split(SEPARATOR)
    select: dict[str, str] = {}
    while len(parts) > 1 and re.fullmatch(r"[A-Za-z0-9]+=.*", parts[-1]):
        tag, _, value = parts.pop().partition("=")
        select = {tag: unquote(value), **select}
    uid = select.pop(UID_TAG, None)
    if uid is None and len(parts) > 1 and UID.fullmatch(parts[-1]):
        uid = parts.pop()
    return SeriesName(Path(SEPARATOR.join(parts)), uid, select)


def is_series_name(name: Any) -> bool:
    """Whether a name is that of a DICOM series: a folder, a zip archive or a DICOM file, with or without a UID."""
    if str(name) == "":
        # pathlib takes it for the current folder
        return False
    parsed = parse_name(str(name))
    return parsed.uid is not None or is_dicom_source(parsed.source)


def is_dicom_source(path: Path) -> bool:
    """Whether a path is a folder, a zip archive or a DICOM file."""
    if path.is_dir():
        return True
    if path.name.lower().endswith(ARCHIVE_SUFFIX):
        return path.is_file()
    return path.is_file() and is_dicom_file(path)


def is_dicom_input(path: Path) -> bool:
    """Whether the user's input is DICOM: the name of a series, an archive, a DICOM file, or a folder with one.

    A folder that directly contains images of other formats is not DICOM.
    """
    if not path.is_dir():
        return is_series_name(path)
    return not any(name.lower().endswith(IMAGE_SUFFIXES) for name in os.listdir(path)) and any(
        map(is_dicom_source, files_within(path))
    )


def files_within(folder: Path) -> Iterator[Path]:
    """All files in a folder, its subfolders and the folders that links in it lead to; each folder once.

    Hidden folders are left out: that of git-annex has the targets of the links.
    """
    seen = {os.path.realpath(folder)}
    for root, folders, names in os.walk(folder, followlinks=True):
        yield from (Path(root) / name for name in names)
        visible = sorted(name for name in folders if not name.startswith("."))
        targets = {name: os.path.realpath(Path(root) / name) for name in visible}
        folders[:] = [name for name in visible if targets[name] not in seen]
        seen |= set(targets.values())


def short_name(uid: str, select: Mapping[str, str] | None = None) -> str:
    """Short name of a series: ``series_`` and 8 hex digits of the SHA-256 of its UID; it does not identify a patient.

    Args:
        uid: SeriesInstanceUID.
        select: tags and values of a stack, which are appended: ``series_0123abcd_EchoNumbers2``.
    """
    digest = hashlib.sha256(uid.encode()).hexdigest()[:SHORT_DIGITS]
    chosen = (
        f"_{tag}{re.sub(r'[^A-Za-z0-9.-]', '', value)}" for tag, value in (select or {}).items()
    )
    return f"series_{digest}{''.join(chosen)}"

"""Damaged files beside a series: may one of them be a slice of it?

A slice that is missing at an end of a series leaves no gap. So a damaged file stops the series to which it may belong,
and only that one. Names of files may identify a patient: messages give their numbers, and the name of a list of them.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dynunet_bundle.dicom_input.archives import name_in_archive
from dynunet_bundle.errors import CaseError
from dynunet_bundle.terminal import printable

LIST_PREFIX = "dynunet-files-"
"""Start of the names of lists of files, in the system's temporary folder; only this user can read them."""


@dataclass(frozen=True)
class DamagedFile:
    """A file that cannot be read, although it may be DICOM.

    Attributes:
        file: its path.
        where: its place among all files, for messages.
        reason: why it cannot be read.
        uid: SeriesInstanceUID as far as it was read, perhaps only its first part; empty if unknown.
    """

    file: Path
    where: str
    reason: str
    uid: str

    def may_belong(self, uid: str, files: Sequence[Path], is_complete: bool = False) -> bool:
        """Whether this file may be a part of a series.

        A file without a UID does not belong to a series that is complete, whose files are all in another folder, or
        all have names of another form, such as ``0001.dcm``, ``0002.dcm`` beside ``page.dcm``.

        Args:
            uid: SeriesInstanceUID of the series.
            files: its other files.
            is_complete: whether its headers say that it has as many images as these files.
        """
        if self.uid:
            return uid.startswith(self.uid)
        if is_complete:
            return False
        folders = {file.parent for file in files}
        forms = {_form(file) for file in files}
        elsewhere = len(folders) == 1 and self.file.parent not in folders
        named_otherwise = len(forms) == 1 and _form(self.file) not in forms
        return not (elsewhere or named_otherwise)


def damage_error(case: str, damaged: Sequence[DamagedFile]) -> CaseError:
    """The error for a series to which damaged files may belong."""
    first, more = damaged[0], len(damaged) - 1
    others = f", and {more} more" if more else ""
    return CaseError(
        case,
        f"{first.where} is damaged: {first.reason}{others}",
        f"Send it again or remove it.{list_of_names([one.file for one in damaged])}",
    )


def list_of_names(files: Sequence[Path]) -> str:
    """Write the names of files into a list, and return a sentence with its path; empty if it cannot be written."""
    lines = [printable(name_in_archive(file)) + "\n" for file in files]
    try:
        descriptor, path = tempfile.mkstemp(prefix=LIST_PREFIX, suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.writelines(lines)
    except OSError:
        return ""
    return f" The names of such files are in {path}."


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Add the list with the name of a file to a CaseError about it."""
    try:
        yield
    except CaseError as error:
        raise type(error)(
            error.case, error.problem, f"{error.remedy}{list_of_names([file])}"
        ) from None


def _form(file: Path) -> str:
    """Form of a file name: numbers count as equal."""
    return re.sub(r"[0-9.]+", "0", Path(name_in_archive(file)).name.lower())

"""How a DICOM file begins, and whether a file does; needs no pydicom."""

from pathlib import Path

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
MAGIC_OFFSET = 128
MAGIC = b"DICM"
"""DICOM PS3.10 section 7.1: a preamble of 128 bytes, then these four."""

AFTER_MAGIC = MAGIC_OFFSET + len(MAGIC)
ELEMENT_HEAD = 8
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
"""A data set begins with group 0002 (of a file) or 0008 (of an object without its file meta information)."""

MAX_FIRST_LENGTH = 64
"""Bytes; the first element of a data set is a length, a UID or a character set."""


class NotDicomError(Exception):
    """A file of another kind; not the user's error."""


class DamagedError(Exception):
    """A DICOM file that cannot be read, with the reason in words that name no patient."""


def start_of(path: Path) -> int | None:
    """Where the data set starts in a file without DICOM's own start; None for a file that has it.

    Raises:
        NotDicomError: if it is a file of another kind.
        DamagedError: if only its name says that it is DICOM.
    """
    with path.open("rb") as file:
        head = file.read(AFTER_MAGIC + ELEMENT_HEAD)
    if head[MAGIC_OFFSET:AFTER_MAGIC] == MAGIC:
        return None
    if head.startswith(MAGIC):
        return len(MAGIC)
    for start in (0, AFTER_MAGIC, MAGIC_OFFSET):
        if _is_element(head[start : start + ELEMENT_HEAD]):
            return start
    if path.name.lower().endswith(DICOM_SUFFIXES):
        raise DamagedError("it does not begin as DICOM does")
    raise NotDicomError


def _is_element(head: bytes) -> bool:
    """Whether 8 bytes are the start of a data element, in little endian, that a data set may begin with."""
    if len(head) < ELEMENT_HEAD or head[:2] not in FIRST_GROUPS or head[3] != 0:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], "little") <= MAX_FIRST_LENGTH


def is_dicom_file(path: Path) -> bool:
    """Whether a file is DICOM, or is called so."""
    try:
        start_of(path)
    except DamagedError:
        return True
    except (NotDicomError, OSError):
        return False
    return True

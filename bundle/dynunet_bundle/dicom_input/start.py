"""Detect DICOM files by their first bytes, without pydicom."""

from pathlib import Path

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
MAGIC_OFFSET = 128  # bytes of the preamble
MAGIC = b"DICM"
"""The four bytes after the preamble (DICOM PS3.10 section 7.1)."""

AFTER_MAGIC = MAGIC_OFFSET + len(MAGIC)
ELEMENT_HEAD = 8  # bytes of a data element's tag, value representation and length
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
"""First group of a data set: 0002 (file meta information) or 0008 (an object without it)."""

MAX_FIRST_LENGTH = 64
"""Largest length in bytes of a data set's first element: a length, a UID or a character set."""


class NotDicomError(Exception):
    """A file is not DICOM; not an error of the user."""


class DamagedError(Exception):
    """A DICOM file that cannot be read; the text gives the reason without patient data."""


def start_of(path: Path) -> int | None:
    """Offset in bytes of the data set in a file without preamble or magic; None for a standard DICOM file.

    Raises:
        NotDicomError: if it is not a DICOM file.
        DamagedError: if it is not a DICOM file but has the suffix of one.
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
        raise DamagedError("it does not start like a DICOM file")
    raise NotDicomError


def _is_element(head: bytes) -> bool:
    """Whether 8 bytes are the head of a data element, in little endian, with which a data set may start."""
    if len(head) < ELEMENT_HEAD or head[:2] not in FIRST_GROUPS or head[3] != 0:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], "little") <= MAX_FIRST_LENGTH


def is_dicom_file(path: Path) -> bool:
    """Whether a file is DICOM by its content or its suffix."""
    try:
        start_of(path)
    except DamagedError:
        return True
    except (NotDicomError, OSError):
        return False
    return True

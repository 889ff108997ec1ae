"""Common parts of all written DICOM objects: UIDs derived from the content, and errors without patient data."""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from dynunet_bundle.dicom_input.parse import INSTALL, quiet_pydicom
from dynunet_bundle.dicom_output.codes import PRIVATE_SCHEME, Code
from dynunet_bundle.dicom_output.headers import REMEDY, derived_uid
from dynunet_bundle.errors import BundleError, ObjectError, place_of, ran_out_of_memory
from dynunet_bundle.files import atomic_write

MANUFACTURER = "dynunet-bundle"
SERIAL_NUMBER = "1"
"""Placeholder of DeviceSerialNumber, which the Enhanced General Equipment module requires, also of software."""

CHANGES_WITH_TIME = (
    "InstanceCreationDate",
    "InstanceCreationTime",
    "ContentDate",
    "ContentTime",
    "StructureSetDate",
    "StructureSetTime",
)


HEADER_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""Exceptions of pydicom and highdicom for missing and malformed values."""


@dataclass(frozen=True)
class Algorithm:
    """The algorithm that made the masks.

    Attributes:
        name: e.g. the task name.
        version: e.g. the first digits of the weights' SHA-256; cut to 64 characters.
    """

    name: str
    version: str


def require_highdicom() -> None:
    """Refuse to continue without highdicom.

    Raises:
        BundleError: with the command that installs it.
    """
    try:
        import highdicom  # noqa: F401, PLC0415
    except ImportError:
        raise BundleError(
            f"DICOM output needs highdicom, which is not installed. {INSTALL}."
        ) from None


@contextmanager
def building(what: str) -> Iterator[None]:
    """Build an object without warnings of highdicom and pydicom, which may quote patient data.

    Args:
        what: name of the object, for the error.

    Raises:
        ObjectError: instead of any exception that is not a BundleError, without its text, which may hold a patient's
            name. Tags in the text are named.
        MemoryError: if memory runs out, which has nothing to do with the headers.
    """
    log = logging.getLogger("highdicom")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with quiet_pydicom():
            yield
    except BundleError:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        if not isinstance(error, HEADER_ERRORS):
            raise ObjectError(
                f"the {what} failed unexpectedly ({place_of(error)}). Report this line, and take "
                "the mask as NIfTI alone (--dicom without values)."
            ) from None
        raise ObjectError(
            f"the headers of the series do not allow a {what}: {_reason(error)}. {REMEDY}"
        ) from None
    finally:
        log.setLevel(level)


def _reason(error: Exception) -> str:
    """Tags that an exception names, and what is wrong with them, in no words of the exception."""
    from pydicom.datadict import tag_for_keyword

    words = dict.fromkeys(re.findall(r"[A-Z][A-Za-z]+", str(error)))
    tags = ", ".join(word for word in words if tag_for_keyword(word) is not None)
    if isinstance(error, (AttributeError, KeyError)) and tags:
        return f"they lack {tags}"
    return f"{tags or 'a value'} is not valid here ({type(error).__name__})"


def coded(code: Code) -> Any:
    """A code as highdicom's type."""
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def private_schemes(designators: Iterable[str]) -> list[Any] | None:
    """Identification of our private coding scheme if one of the designators is ``PRIVATE_SCHEME``, else None."""
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    if PRIVATE_SCHEME not in designators:
        return None
    name = "Labels of dynunet-bundle"
    return [
        CodingSchemeIdentificationItem(
            PRIVATE_SCHEME, name=name, responsible_organization=MANUFACTURER
        )
    ]


def write_object(dataset: Any, path: Path) -> Path:
    """Set the UIDs of an object and write it.

    The UIDs are derived from a SHA-256 of the content without UIDs and time of writing. The same mask of the same
    series by the same algorithm gives the same object; any difference gives another.

    Args:
        dataset: a ``pydicom.Dataset`` with ``file_meta``; changed in place.
        path: the file to write.

    Returns:
        ``path``.

    Raises:
        OutputError: if the file cannot be written.
    """
    for item in dataset.get("ContributingEquipmentSequence") or ():
        item.pop("ContributionDateTime", None)
    _set_dimension_uid(dataset, "2.25.0")
    digest = _digest(dataset)
    _set_dimension_uid(dataset, derived_uid(digest, "dimensions"))
    dataset.SeriesInstanceUID = derived_uid(digest, "series")
    dataset.SOPInstanceUID = derived_uid(digest, "instance")
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    with atomic_write(path) as file:
        dataset.save_as(file, enforce_file_format=True)
    return path


def _set_dimension_uid(dataset: Any, uid: str) -> None:
    """Set the dimension organization's UID, which highdicom draws at random, in both sequences."""
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in dataset.get(keyword) or ():
            item.DimensionOrganizationUID = uid


def _digest(dataset: Any) -> str:
    from pydicom import dcmwrite
    from pydicom.dataset import Dataset

    content = Dataset()
    for element in dataset:
        if element.keyword not in (*CHANGES_WITH_TIME, "SOPInstanceUID", "SeriesInstanceUID"):
            content.add(element)
    buffer = BytesIO()
    dcmwrite(buffer, content, implicit_vr=False, little_endian=True)
    return hashlib.sha256(buffer.getbuffer()).hexdigest()

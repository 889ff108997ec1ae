"""Read DICOM files, intact or damaged, without patient data in logs or errors."""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dynunet_bundle.dicom_input.start import DamagedError, NotDicomError, start_of
from dynunet_bundle.errors import BundleError, in_label_server

INSTALL = (
    'Run pip install --constraint constraints.txt ".[dicom]" in a clone of the repository; elsewhere, as beside a '
    "packaged bundle, "
    "pip install pydicom highdicom pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg pyjpegls"
)
"""How to install the packages for DICOM, as in pyproject.toml; the project itself is not in a package index."""

MAX_HEADER = 64 << 20
"""Bytes of a file without a preamble that are read for its header; 20 000 frames take 60 MB of it."""

MAX_OBJECT_BYTES = 1 << 31
"""Bytes of a file without a preamble that are read for its pixels."""

VALUE_KINDS = {"IS": "a whole number", "DS": "a decimal number", "US": "a number of 16 bits"}
"""Value representations in words, for messages."""

DEFLATED = "1.2.840.10008.1.2.1.99"
"""Transfer syntax Deflated Explicit VR Little Endian."""


def require_pydicom() -> None:
    """Refuse to continue without pydicom 3.

    Raises:
        BundleError: with the command that installs it.
    """
    if find_spec("pydicom") is None:
        raise BundleError(f"DICOM needs pydicom, which is not installed. {INSTALL}.")
    if find_spec("pydicom.pixels") is None:
        remedy = INSTALL
        if in_label_server():
            remedy = "MONAI Label itself needs pydicom 2: send NIfTI, or use a DICOMweb server as its studies"
        raise BundleError(f"DICOM needs pydicom 3; an older version is installed. {remedy}.")


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings, which may quote patient data; values are not validated inside."""
    from pydicom import config

    log = logging.getLogger("pydicom")
    before = config.settings.reading_validation_mode, log.level
    config.settings.reading_validation_mode = config.IGNORE
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = before[0]
        log.setLevel(before[1])


def read_dicom(path: Path, *, pixels: bool = False, tags: Sequence[Any] | None = None) -> Any:
    """Read a DICOM file; its preamble may be damaged or missing.

    Args:
        path: the file.
        pixels: whether to read PixelData.
        tags: keywords to keep; all by default.

    Returns:
        A ``pydicom.Dataset`` with ``file_meta.TransferSyntaxUID``.

    Raises:
        NotDicomError: if it is not a DICOM file.
        DamagedError: if it cannot be parsed, or is deflated (a small file can expand to any size).
    """
    from pydicom import dcmread

    try:
        start = start_of(path)
        source: Any = path
        if start is not None:
            source = io.BytesIO(_read_from(path, start, MAX_OBJECT_BYTES if pixels else MAX_HEADER))
        elif _is_deflated(path):
            raise DamagedError("it is deflated, which is not supported")
        header = dcmread(
            source, stop_before_pixels=not pixels, specific_tags=tags, force=start is not None
        )
    except (NotDicomError, DamagedError):
        raise
    except Exception as error:
        raise DamagedError(f"it cannot be parsed ({type(error).__name__})") from None
    _complete_syntax(header)
    return header


def value_of(header: Any, keyword: str) -> Any:
    """Value of a tag that is not needed: None if it is missing, empty or cannot be converted."""
    try:
        value = header.get(keyword)
    except Exception:
        # pydicom converts a value on first access; its exceptions have no common base
        return None
    return None if value is None or value == "" else value


def convert_values(header: Any, tags: Sequence[str]) -> None:
    """Let pydicom convert values now instead of on first access.

    Raises:
        DamagedError: if a value cannot be converted.
    """
    from pydicom.datadict import dictionary_VM, dictionary_VR
    from pydicom.multival import MultiValue

    for tag in tags:
        try:
            value = header.get(tag)
        except Exception:
            kind = dictionary_VR(tag)
            what = VALUE_KINDS.get(kind, f"a valid {kind}")
            raise DamagedError(f"{tag} is not {what}") from None
        if isinstance(value, MultiValue) and dictionary_VM(tag) == "1":
            raise DamagedError(f"{tag} has {len(value)} values instead of one")


def _read_from(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _is_deflated(path: Path) -> bool:
    from pydicom.filereader import read_file_meta_info

    return str(read_file_meta_info(path).get("TransferSyntaxUID", "")) == DEFLATED


def media_class(path: Path) -> str:
    """SOP class in the file meta information, which is readable in deflated and cut files; empty if it is not."""
    from pydicom.filereader import read_file_meta_info

    try:
        return str(read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))
    except Exception:
        # pydicom's exceptions for damaged files have no common base
        return ""


def _complete_syntax(header: Any) -> None:
    """Set a missing transfer syntax to the one that pydicom detected."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not hasattr(header, "file_meta"):
        header.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in header.file_meta:
        implicit = header.original_encoding[0]
        header.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        )


def is_encapsulated(header: Any) -> bool:
    """Whether pixels are compressed; an unknown transfer syntax counts as compressed."""
    try:
        return bool(header.file_meta.TransferSyntaxUID.is_encapsulated)
    except ValueError:
        return True

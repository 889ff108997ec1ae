"""DICOM files read so that nothing of a patient reaches a log, whatever state the files are in."""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynunet_bundle.dicom_input.start import DamagedError, NotDicomError, start_of
from dynunet_bundle.errors import BundleError

INSTALL = (
    'Run pip install -e ".[dicom]" in a clone of the repository; elsewhere, as beside a packaged bundle, '
    "pip install pydicom highdicom pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg pyjpegls"
)
"""What brings all that DICOM needs; pyproject.toml lists the same packages. The project itself is in no index."""

DEFLATED = "1.2.840.10008.1.2.1.99"


def require_pydicom() -> None:
    """Refuse to go on without pydicom.

    Raises:
        BundleError: naming the command that installs it.
    """
    try:
        import pydicom  # noqa: F401, PLC0415
    except ImportError:
        raise BundleError(f"DICOM needs pydicom, which is not installed. {INSTALL}.") from None


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from warning of values and files: both may name a patient. Values are not validated in here."""
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
    """Read a DICOM file, also one with a damaged preamble or none.

    Args:
        path: the file.
        pixels: with PixelData.
        tags: keywords to keep; all by default.

    Returns:
        A ``pydicom.Dataset`` with ``file_meta.TransferSyntaxUID``.

    Raises:
        NotDicomError: if it is a file of another kind.
        DamagedError: if it cannot be parsed, or is deflated (which can hide any amount of data).
    """
    from pydicom import dcmread

    try:
        start = start_of(path)
        source: Any = path
        if start is not None:
            source = io.BytesIO(path.read_bytes()[start:])
        elif _is_deflated(path):
            raise DamagedError("it is deflated, which is not read")
        header = dcmread(
            source, stop_before_pixels=not pixels, specific_tags=tags, force=start is not None
        )
    except (NotDicomError, DamagedError):
        raise
    except Exception as error:
        raise DamagedError(f"it cannot be parsed ({type(error).__name__})") from None
    _complete_syntax(header)
    return header


def convert_values(header: Any, tags: Sequence[str]) -> None:
    """Let pydicom convert values now, which it else does when they are asked for.

    Raises:
        DamagedError: if one cannot be.
    """
    try:
        for tag in tags:
            header.get(tag)
    except Exception as error:
        raise DamagedError(f"a value cannot be read ({type(error).__name__})") from None


def _is_deflated(path: Path) -> bool:
    from pydicom.filereader import read_file_meta_info

    return str(read_file_meta_info(path).get("TransferSyntaxUID", "")) == DEFLATED


def _complete_syntax(header: Any) -> None:
    """Note the transfer syntax that pydicom found where the file does not name it."""
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
    """Whether pixels are compressed; also where the transfer syntax is unknown, since then nothing is known of them."""
    try:
        return bool(header.file_meta.TransferSyntaxUID.is_encapsulated)
    except ValueError:
        return True

"""The DICOM series in a folder, an archive or a file, and the number of skipped files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.dicom_input.archives import extracted
from dynunet_bundle.dicom_input.frames import num_frames
from dynunet_bundle.dicom_input.names import ARCHIVE_SUFFIX, files_within, short_name
from dynunet_bundle.dicom_input.parse import quiet_pydicom, read_dicom, require_pydicom
from dynunet_bundle.dicom_input.refusals import image_type, refusal, skip_reason
from dynunet_bundle.dicom_input.start import DamagedError, NotDicomError
from dynunet_bundle.errors import DatasetError

PLANES = ("sagittal", "coronal", "axial")
"""Names of planes, by the axis of the patient (x, y, z) that is closest to the normal of the slices."""

GEOMETRY = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
SCANNED_TAGS = (
    *("SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "SeriesNumber", "SeriesDescription"),
    *("Modality", "ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", *GEOMETRY),
    *("ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


@dataclass(frozen=True)
class Series:
    """A series of images.

    Attributes:
        uid: SeriesInstanceUID.
        study: StudyInstanceUID.
        number: SeriesNumber, or None.
        modality: e.g. ``MR``.
        description: SeriesDescription; it may contain a patient's name, so it is matched but never shown.
        image_types: values of ImageType that all its images have.
        files: files of its images.
        num_images: number of frames in all files.
        plane: axial, coronal, sagittal, or None if its images have several planes or none.
        problem: why it cannot be read, judging by its headers, or None.
    """

    uid: str
    study: str
    number: int | None
    modality: str
    description: str = field(repr=False)
    image_types: frozenset[str]
    files: tuple[Path, ...] = field(repr=False)
    num_images: int
    plane: str | None
    problem: str | None

    def __str__(self) -> str:
        """The facts that may be shown, without patient data."""
        number = "without a number" if self.number is None else f"number {self.number}"
        parts = (number, self.modality, self.plane or "no plane", f"{self.num_images} images")
        return f"{short_name(self.uid)} ({', '.join(parts)})"


@dataclass(frozen=True)
class Scan:
    """Content of a source.

    Attributes:
        series: sorted by study, number and UID.
        skipped: number of skipped files by reason.
    """

    series: tuple[Series, ...]
    skipped: Mapping[str, int]


def scan(source: Path) -> Scan:
    """Read the headers of all files; results are cached until a file changes.

    Args:
        source: a folder, searched recursively, a zip archive, or a DICOM file.

    Raises:
        BundleError: if pydicom is missing.
        DatasetError: if it does not exist, or a DICOM file in it is damaged.
    """
    require_pydicom()
    if not source.exists():
        raise DatasetError(
            "the DICOM input does not exist. Pass a folder, a zip archive or a file."
        )
    if source.is_file() and source.name.lower().endswith(ARCHIVE_SUFFIX):
        source = extracted(source)
    files = _walk(source) if source.is_dir() else [source]
    try:
        states = [(file, file.stat()) for file in files]
    except OSError as error:
        # its text holds the name of a file
        raise DatasetError(
            f"a file of the DICOM input is gone, or is a link to a missing file ({type(error).__name__}). Run the same "
            "command again, or fetch the files (git annex get, dvc pull)."
        ) from None
    return _scan(tuple((file, state.st_size, state.st_mtime_ns) for file, state in states))


def _walk(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in files_within(folder)
        if not file.name.startswith(".")
        and file.name.upper() != "DICOMDIR"
        and (file.is_file() or file.is_symlink())
    )


@lru_cache(maxsize=4)
def _scan(files: tuple[tuple[Path, int, int], ...]) -> Scan:
    found: dict[str, list[tuple[Path, Any]]] = {}
    skipped: Counter[str] = Counter()
    for index, (file, _, _) in enumerate(files):
        try:
            uid, reason, header = _look_at(file)
        except NotDicomError:
            uid, reason, header = "", "file that is not DICOM", None
        except DamagedError as error:
            raise DatasetError(
                f"file {index + 1} of {len(files)} of the DICOM input, in order of names, is damaged: {error}. "
                "Send it again or remove it."
            ) from None
        if reason:
            skipped[reason] += 1
        else:
            found.setdefault(uid, []).append((file, header))
    series = [_summary(uid, objects) for uid, objects in found.items()]
    series.sort(key=lambda one: (one.study, one.number is None, one.number or 0, one.uid))
    return Scan(tuple(series), skipped)


def _look_at(file: Path) -> tuple[str, str | None, Any]:
    """SeriesInstanceUID of an object, why it is skipped, and its header."""
    with quiet_pydicom():
        header = read_dicom(file, tags=SCANNED_TAGS)
        try:
            reason, uid = skip_reason(header), str(header.get("SeriesInstanceUID") or "")
        except DamagedError:
            raise
        except Exception as error:  # pydicom converts a value on first access and may fail
            raise DamagedError(f"a value cannot be read ({type(error).__name__})") from None
    if not reason and not uid:
        raise DamagedError("it is truncated, or lacks SeriesInstanceUID")
    return uid, reason, header


def _summary(uid: str, objects: Sequence[tuple[Path, Any]]) -> Series:
    try:
        with quiet_pydicom():
            return _summarised(uid, objects)
    except Exception as error:
        raise DatasetError(
            f"{short_name(uid)} of the DICOM input has a damaged header ({type(error).__name__}). "
            "Send it again or remove it."
        ) from None


def _summarised(uid: str, objects: Sequence[tuple[Path, Any]]) -> Series:
    headers = [header for _, header in objects]
    first = headers[0]
    planes = {_plane(header) for header in headers}
    number = first.get("SeriesNumber")
    return Series(
        uid=uid,
        study=str(first.get("StudyInstanceUID") or ""),
        number=int(number) if str(number).isdecimal() else None,
        modality=str(first.get("Modality") or "unknown modality"),
        description=str(first.get("SeriesDescription") or ""),
        image_types=frozenset.intersection(*(frozenset(image_type(one)) for one in headers)),
        files=tuple(file for file, _ in objects),
        num_images=sum(map(num_frames, headers)),
        plane=next(iter(planes)) if len(planes) == 1 else None,
        problem=_problem(headers, planes),
    )


def _problem(headers: Sequence[Any], planes: set[str | None]) -> str | None:
    """Why this series cannot be chosen, judging by these headers; None if it can."""
    for header in headers:
        found = refusal(header)
        if found:
            return found[0]
        if num_frames(header) == 1 and "PerFrameFunctionalGroupsSequence" not in header:
            missing = [tag for tag in GEOMETRY if not header.get(tag)]
            if missing:
                return f"an image lacks {missing[0]}"
    if len(planes) > 1:
        return "its images are in different planes"
    return None


def _plane(header: Any) -> str | None:
    """Plane of an object; None if its orientation is missing, or its frames are in different planes."""
    groups = [
        *(header.get("SharedFunctionalGroupsSequence") or []),
        *(header.get("PerFrameFunctionalGroupsSequence") or []),
    ]
    orientations = [header.get("ImageOrientationPatient")] + [
        group.PlaneOrientationSequence[0].get("ImageOrientationPatient")
        for group in groups
        if group.get("PlaneOrientationSequence")
    ]
    try:
        normals = [
            np.cross(*np.array(list(map(float, one))).reshape(2, 3)) for one in orientations if one
        ]
    except (TypeError, ValueError):
        return None
    planes = {PLANES[int(np.abs(normal).argmax())] for normal in normals}
    return planes.pop() if len(planes) == 1 else None

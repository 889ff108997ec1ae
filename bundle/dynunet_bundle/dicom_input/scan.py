"""The DICOM series in a folder, an archive or a file, and the number of skipped files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynunet_bundle.dicom_input.archives import extracted
from dynunet_bundle.dicom_input.damage import DamagedFile, list_of_names
from dynunet_bundle.dicom_input.frames import SEND_AGAIN, find, num_frames
from dynunet_bundle.dicom_input.identity import KIND_TAGS, PATIENT_TAGS, mixed
from dynunet_bundle.dicom_input.names import ARCHIVE_SUFFIX, files_within, short_name
from dynunet_bundle.dicom_input.parse import (
    convert_values,
    media_class,
    quiet_pydicom,
    read_dicom,
    require_pydicom,
    value_of,
)
from dynunet_bundle.dicom_input.refusals import image_type, refusal, skip_reason, skipped_class
from dynunet_bundle.dicom_input.start import DamagedError, NotDicomError
from dynunet_bundle.errors import DatasetError, counted

PLANES = ("sagittal", "coronal", "axial")
"""Names of planes, by the axis of the patient (x, y, z) that is closest to the normal of the slices."""

GEOMETRY = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
NEEDED_TAGS = (
    *("SOPClassUID", "SeriesInstanceUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
"""Tags without which an image cannot be read; a file with an invalid value of one is damaged."""

SCANNED_TAGS = (
    *(*NEEDED_TAGS, "StudyInstanceUID", "SeriesNumber", "SeriesDescription"),
    *("ImageType", "ModalityLUTSequence", *GEOMETRY, *PATIENT_TAGS, *KIND_TAGS),
    *("SOPInstanceUID", "AcquisitionNumber", "ImagesInAcquisition"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


@dataclass(frozen=True)
class Series:
    """A series of images.

    Attributes:
        uid: SeriesInstanceUID.
        study: StudyInstanceUID.
        number: SeriesNumber, or None.
        modality: e.g. ``MR``.
        description: SeriesDescription; it may contain a patient's name, so it is matched, and shown on request only.
        image_types: values of ImageType that all its images have.
        files: files of its images.
        num_images: number of frames in all files.
        plane: axial, coronal, sagittal, or None if its images have several planes or none.
        problem: why it cannot be read, judging by its headers, or None.
        remedy: what to do about the problem, or None.
        damaged: unreadable files that may belong to it.
        size: columns and rows of its first image.
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
    remedy: str | None = None
    damaged: tuple[DamagedFile, ...] = field(default=(), repr=False)
    size: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        """The facts that may be shown, without patient data."""
        number = "without a number" if self.number is None else f"number {self.number}"
        parts = (number, self.modality, self.plane or "no plane", counted(self.num_images, "image"))
        return f"{short_name(self.uid)} ({', '.join(parts)})"


@dataclass(frozen=True)
class Scan:
    """Content of a source.

    Attributes:
        series: sorted by study, number and UID.
        skipped: number of skipped files by reason.
        damaged: files that cannot be read.
    """

    series: tuple[Series, ...]
    skipped: Mapping[str, int]
    damaged: tuple[DamagedFile, ...] = ()


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


class _Looked(NamedTuple):
    """What a file is: an image of a series, a skipped file with the reason, or a damaged one with the reason."""

    uid: str = ""
    header: Any = None
    skipped: str | None = None
    damage: str | None = None


@lru_cache(maxsize=4)
def _scan(files: tuple[tuple[Path, int, int], ...]) -> Scan:
    found: dict[str, list[tuple[Path, Any]]] = {}
    skipped: Counter[str] = Counter()
    damaged: list[DamagedFile] = []
    for index, (file, _, _) in enumerate(files):
        looked = _look_at(file)
        if looked.damage:
            where = f"file {index + 1} of {len(files)} of the DICOM input, in order of names,"
            damaged.append(DamagedFile(file, where, looked.damage, looked.uid))
        elif looked.skipped:
            skipped[looked.skipped] += 1
        else:
            found.setdefault(looked.uid, []).append((file, looked.header))
    if damaged and not found:
        raise DatasetError(
            f"{damaged[0].where} is damaged: {damaged[0].reason}. Send it again or remove it."
            f"{list_of_names([one.file for one in damaged])}"
        )
    series = [_summary(uid, objects, damaged) for uid, objects in found.items()]
    series.sort(key=lambda one: (one.study, one.number is None, one.number or 0, one.uid))
    return Scan(tuple(series), skipped, tuple(damaged))


def _look_at(file: Path) -> _Looked:
    header = None
    with quiet_pydicom():
        try:
            header = read_dicom(file, tags=SCANNED_TAGS)
            if reason := _skip_reason(header):
                return _Looked(skipped=reason)
            convert_values(header, NEEDED_TAGS)
            if not (uid := _series_uid(header)):
                raise DamagedError("it is truncated, or lacks SeriesInstanceUID")
            return _Looked(uid, header)
        except NotDicomError:
            return _Looked(skipped="file that is not DICOM")
        except DamagedError as error:
            # a class in the file meta information is enough to skip a file
            name = skipped_class(media_class(file))
            return _Looked(_series_uid(header), skipped=name, damage=None if name else str(error))


def _skip_reason(header: Any) -> str | None:
    try:
        return skip_reason(header)
    except DamagedError:
        raise
    except Exception as error:  # pydicom converts a value on first access and may fail
        convert_values(header, NEEDED_TAGS)
        raise DamagedError(f"a value cannot be read ({type(error).__name__})") from None


def _series_uid(header: Any) -> str:
    return "" if header is None else str(value_of(header, "SeriesInstanceUID") or "").strip()


def _summary(
    uid: str, objects: Sequence[tuple[Path, Any]], damaged: Sequence[DamagedFile]
) -> Series:
    headers = [header for _, header in objects]
    files = tuple(file for file, _ in objects)
    first = headers[0]
    with quiet_pydicom():
        planes = {_plane(header) for header in headers}
        complete = _is_complete(headers)
        problem = _problem(headers, planes)
        number = value_of(first, "SeriesNumber")
        return Series(
            uid=uid,
            study=str(value_of(first, "StudyInstanceUID") or ""),
            number=int(number) if str(number).isdecimal() else None,
            modality=str(value_of(first, "Modality") or "unknown modality"),
            description=str(value_of(first, "SeriesDescription") or ""),
            image_types=frozenset.intersection(*(frozenset(image_type(one)) for one in headers)),
            files=files,
            num_images=sum(map(num_frames, headers)),
            plane=next(iter(planes)) if len(planes) == 1 else None,
            problem=problem and problem[0],
            remedy=problem and problem[1],
            damaged=tuple(one for one in damaged if one.may_belong(uid, files, complete)),
            size=(int(value_of(first, "Columns") or 0), int(value_of(first, "Rows") or 0)),
        )


def _is_complete(headers: Sequence[Any]) -> bool:
    """Whether the headers say that an acquisition has as many images as there are (PS3.3 C.7.6.1)."""

    def values(tag: str) -> set[str]:
        return {str(value_of(header, tag) or "").strip() for header in headers}

    # copies of an image do not stand for others
    number = len(values("SOPInstanceUID"))
    return values("ImagesInAcquisition") == {str(number)} and len(values("AcquisitionNumber")) == 1


def _problem(headers: Sequence[Any], planes: set[str | None]) -> tuple[str, str] | None:
    """Why this series cannot be chosen, judging by these headers, and what to do; None if it can."""
    for header in headers:
        if found := refusal(header):
            return found
        if num_frames(header) == 1 and "PerFrameFunctionalGroupsSequence" not in header:
            missing = [tag for tag in GEOMETRY if find([header], tag) is None]
            if missing:
                return f"an image lacks {missing[0]}", SEND_AGAIN
    if found := mixed(headers):
        return found
    if len(planes) > 1:
        return "its images are in different planes", "Export its images as separate series."
    return None


def _plane(header: Any) -> str | None:
    """Plane of an object; None if its orientation is missing, or its frames are in different planes."""
    groups = [
        *(value_of(header, "SharedFunctionalGroupsSequence") or []),
        *(value_of(header, "PerFrameFunctionalGroupsSequence") or []),
    ]
    orientations = [
        header,
        *(
            group.PlaneOrientationSequence[0]
            for group in groups
            if group.get("PlaneOrientationSequence")
        ),
    ]
    try:
        found = [value_of(one, "ImageOrientationPatient") for one in orientations]
        normals = [np.cross(*np.array(list(map(float, one))).reshape(2, 3)) for one in found if one]
    except (TypeError, ValueError):
        return None
    planes = {PLANES[int(np.abs(normal).argmax())] for normal in normals}
    return planes.pop() if len(planes) == 1 else None

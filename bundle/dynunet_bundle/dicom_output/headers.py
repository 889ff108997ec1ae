"""Headers of a series as derived objects need them: complete, and with where slices lie on which grid.

Patient and study go from the source into the object, and nowhere else: no log, no exception, no file name has them.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from dynunet_bundle.dicom_input.geometry import LPS_TO_RAS
from dynunet_bundle.errors import OutputError

if TYPE_CHECKING:
    from dynunet_bundle.dicom_input.series import DicomSeries

SERIES_NUMBER_OFFSET = 1000
"""Added to the number of the source series, so that results stand behind the images they belong to."""

EMPTY_WHERE_ABSENT = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Type 2 in the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): must be there, may be empty."""

NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality")
"""Type 1 in what refers to the source."""

PLANE = ("Rows", "Columns", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
SEXES = ("M", "F", "O", "")
LOSSY_SYNTAXES = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
"""Transfer syntaxes that lose something, and their terms for Lossy Image Compression Method (PS3.3 C.7.6.1.1.5).

JPEG-LS near-lossless, JPEG 2000 and HTJ2K can also be lossless; the source says so itself where it knows.
"""
MAX_DIRECTION_DIFFERENCE = 1e-3


def source_headers(series: "DicomSeries") -> list[Any]:
    """Copies of a series' headers in which everything that a derived object needs is there.

    Args:
        series: as ``load_series`` gives it.

    Returns:
        ``pydicom.Dataset`` by slice; a single one for an Enhanced object. Absent values of type 2 are empty,
        impossible dates and sexes too; directions are those of the first slice where they differ by rounding; lossy
        compression is noted; a series without frame of reference gets one that no other series has.

    Raises:
        OutputError: if a UID is missing, or the series has several Enhanced objects.
    """
    if is_multi_frame(series.headers[0]) and len(series.headers) > 1:
        raise OutputError(
            f"the series has {len(series.headers)} multi-frame objects, and a DICOM result can refer to one only. "
            "Write NIfTI instead."
        )
    first = _complete(series.headers[0])
    _fill_thickness(first, float(np.linalg.norm(series.affine[:3, 2])))
    headers = [first, *(_reference(header, first) for header in series.headers[1:])]
    if not first.get("FrameOfReferenceUID"):
        reference = derived_uid(first.SeriesInstanceUID, "frame of reference")
        for header in headers:
            header.FrameOfReferenceUID = reference
    return headers


def _complete(original: Any) -> Any:
    header = deepcopy(original)
    _require_identified(header)
    for keyword in EMPTY_WHERE_ABSENT:
        if header.get(keyword) is None or not _is_valid(keyword, header.get(keyword)):
            setattr(header, keyword, "")
    syntax = str(getattr(getattr(original, "file_meta", None), "TransferSyntaxUID", ""))
    if syntax in LOSSY_SYNTAXES and "LossyImageCompression" not in header:
        header.LossyImageCompression = "01"
        header.LossyImageCompressionMethod = LOSSY_SYNTAXES[syntax]
    if is_multi_frame(header):
        _share_plane(header)
    return header


def _require_identified(header: Any) -> None:
    missing = [keyword for keyword in NEEDED if not header.get(keyword)]
    if missing:
        raise OutputError(
            f"the series lacks {', '.join(missing)}, which a DICOM result must refer to. Write NIfTI instead."
        )


def _reference(original: Any, first: Any) -> Any:
    """As much of a further slice as is needed to refer to it; a whole copy of hundreds would take seconds."""
    from pydicom.dataset import Dataset

    _require_identified(original)
    header = Dataset()
    for keyword in (*NEEDED, *PLANE, "FrameOfReferenceUID"):
        if keyword in original:
            setattr(header, keyword, original.get(keyword))
    directions = header.get("ImageOrientationPatient"), first.get("ImageOrientationPatient")
    if None not in directions and directions[0] != directions[1]:
        difference = np.abs(np.subtract(*[np.array(value, float) for value in directions]))
        if difference.max() <= MAX_DIRECTION_DIFFERENCE:
            # highdicom wants directions that are equal to the last digit
            header.ImageOrientationPatient = first.ImageOrientationPatient
    return header


def _fill_thickness(header: Any, step_mm: float) -> None:
    """Give slices without a thickness that of the step between them; a segmentation has to have one."""
    places = [header]
    if is_multi_frame(header):
        places = header.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence") or []
    for place in places:
        if not place.get("SliceThickness"):
            place.SliceThickness = f"{step_mm:.6g}"


def _share_plane(header: Any) -> None:
    """Put orientation and voxel size among what the frames of an Enhanced object share, where each repeats them."""
    shared = header.SharedFunctionalGroupsSequence[0]
    frame = header.PerFrameFunctionalGroupsSequence[0]
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if keyword not in shared and keyword in frame:
            setattr(shared, keyword, frame[keyword].value)


def _is_valid(keyword: str, value: Any) -> bool:
    from pydicom.valuerep import DA, TM

    try:
        if keyword.endswith("Date"):
            DA(value)
        elif keyword.endswith("Time"):
            TM(value)
    except ValueError:
        return False
    return keyword != "PatientSex" or value in SEXES


def slice_positions(series: "DicomSeries") -> np.ndarray:
    """Where the slices of a series lie, as its headers say.

    Args:
        series: with Z slices.

    Returns:
        Centre of the first voxel of each slice, ``[Z, 3]``, mm, LPS+.
    """
    first = series.headers[0]
    if not is_multi_frame(first):
        return np.array([header.ImagePositionPatient for header in series.headers], float)
    groups = first.PerFrameFunctionalGroupsSequence
    frames = [groups[number - 1] for number in series.frame_numbers]
    return np.array(
        [frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float
    )


def is_multi_frame(header: Any) -> bool:
    """Whether a header is that of an Enhanced object, which holds all slices."""
    return "PerFrameFunctionalGroupsSequence" in header


def lps_affine(series: "DicomSeries") -> np.ndarray:
    """The affine of a series in DICOM's LPS+ millimetres, ``[4, 4]``."""
    return LPS_TO_RAS @ series.affine


def voxel_ml(series: "DicomSeries") -> float:
    """Volume of a voxel in millilitres."""
    return float(abs(np.linalg.det(series.affine[:3, :3])) / 1000)


def require_grid(array: np.ndarray, series: "DicomSeries") -> None:
    """Refuse an array that is not on the series' grid.

    Args:
        array: ``[..., X, Y, Z]``.
        series: what it should lie on.

    Raises:
        OutputError: with both shapes.
    """
    if array.shape[-3:] != series.array.shape[-3:]:
        raise OutputError(
            f"the mask has the shape {array.shape[-3:]}, the series {series.array.shape[-3:]}. "
            "Resample the mask to the series."
        )


def series_number(header: Any) -> int:
    """A number for the new series, from that of the source; 0 where it has none."""
    return SERIES_NUMBER_OFFSET + max(0, int(header.get("SeriesNumber") or 0))


def character_set(header: Any, texts: Sequence[str]) -> Any:
    """The source's character set where it is a single one and has all characters of our texts, else UTF-8."""
    from highdicom.enum import SpecificCharacterSetValues

    value = header.get("SpecificCharacterSet") or None
    known = value in [one.value for one in SpecificCharacterSetValues]
    return value if (value is None or known) and "".join(texts).isascii() else "ISO_IR 192"


def derived_uid(*sources: str) -> str:
    """A UID that follows from texts, as pydicom derives it from their SHA-512."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=list(sources)))

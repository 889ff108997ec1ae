"""Headers of a series, completed for derived objects, and the geometry of its slices.

Patient and study data are copied from the source into the object and nowhere else: not into logs, exceptions or file
names.
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
"""Added to the number of the source series, so that viewers list results after the images."""

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
"""Attributes of type 2 (required, may be empty) in the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1)."""

NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality")
"""Attributes of type 1 (required, not empty) in references to the source."""

PLANE = ("Rows", "Columns", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
SEXES = ("M", "F", "O", "")
LOSSY_SYNTAXES = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
"""Lossy transfer syntaxes and their terms for Lossy Image Compression Method (PS3.3 C.7.6.1.1.5).

The syntaxes of JPEG-LS near-lossless, JPEG 2000 and HTJ2K also allow lossless data; then the source's own attribute
counts, if present.
"""
MAX_DIRECTION_DIFFERENCE = 1e-3  # of a direction cosine between slices, taken for rounding


def source_headers(series: "DicomSeries") -> list[Any]:
    """Copies of a series' headers, completed with everything that a derived object needs.

    Args:
        series: the series of ``load_series``.

    Returns:
        One ``pydicom.Dataset`` per slice, or a single one for an Enhanced object. Missing values of type 2 and invalid
        dates and sexes are empty. Directions that differ by rounding are those of the first slice. Lossy compression is
        noted. A series without a frame of reference gets a unique one.

    Raises:
        OutputError: if a UID is missing, or the series has several Enhanced objects.
    """
    if is_multi_frame(series.headers[0]) and len(series.headers) > 1:
        raise OutputError(
            f"the series has {len(series.headers)} multi-frame objects, but a DICOM result can refer to only one. "
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
            f"the series has no {', '.join(missing)}, which a DICOM result needs. Write NIfTI instead."
        )


def _reference(original: Any, first: Any) -> Any:
    """The attributes of a further slice that references need; full copies of hundreds of slices would take seconds."""
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
            # highdicom requires identical directions
            header.ImageOrientationPatient = first.ImageOrientationPatient
    return header


def _fill_thickness(header: Any, step_mm: float) -> None:
    """Set a missing slice thickness, which a segmentation needs, to the distance between slices."""
    places = [header]
    if is_multi_frame(header):
        places = header.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence") or []
    for place in places:
        if not place.get("SliceThickness"):
            place.SliceThickness = f"{step_mm:.6g}"


def _share_plane(header: Any) -> None:
    """Copy orientation and voxel size of an Enhanced object to the shared groups if only its frames have them."""
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
    """Positions of the slices of a series, from its headers.

    Args:
        series: a series of Z slices.

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
    """Whether a header is of an Enhanced object, which contains all slices."""
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
        series: the series with the expected grid.

    Raises:
        OutputError: if the shapes differ.
    """
    if array.shape[-3:] != series.array.shape[-3:]:
        raise OutputError(
            f"the mask has the shape {array.shape[-3:]}, the series has {series.array.shape[-3:]}. "
            "Resample the mask to the series."
        )


def series_number(header: Any) -> int:
    """Number of the new series: that of the source (0 if missing) plus ``SERIES_NUMBER_OFFSET``."""
    return SERIES_NUMBER_OFFSET + max(0, int(header.get("SeriesNumber") or 0))


def character_set(header: Any, texts: Sequence[str]) -> Any:
    """The source's character set if it is a single one and our texts are ASCII, else UTF-8."""
    from highdicom.enum import SpecificCharacterSetValues

    value = header.get("SpecificCharacterSet") or None
    known = value in [one.value for one in SpecificCharacterSetValues]
    return value if (value is None or known) and "".join(texts).isascii() else "ISO_IR 192"


def derived_uid(*sources: str) -> str:
    """A UID derived from texts by pydicom, from their SHA-512."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=list(sources)))

"""Headers of a series, completed for derived objects.

Patient and study data are copied from the source into the object and nowhere else: not into logs, exceptions or file
names.
"""

import logging
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from dynunet_bundle.dicom_input.parse import value_of
from dynunet_bundle.dicom_output.clean import drop_invalid
from dynunet_bundle.dicom_output.slice_grid import is_multi_frame, require_straight, straighten
from dynunet_bundle.errors import ObjectError, counted

if TYPE_CHECKING:
    from dynunet_bundle.dicom_input.series import DicomSeries

logger = logging.getLogger(__name__)

SERIES_NUMBER_OFFSET = 1000
"""Added to the number of the source series, so that viewers list results after the images."""

MAX_SERIES_NUMBER = 2**31 - 1
"""Largest integer string (PS3.5 section 6.2); a report has the number after that of the segmentation."""

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
FRAMES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
KEPT = ("FrameOfReferenceUID", "SpecificCharacterSet")
"""Attributes that are checked where they are used."""

SEXES = ("M", "F", "O", "")
REMEDY = "Repair the headers, or take the mask as NIfTI alone (--dicom without values)."
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
        One ``pydicom.Dataset`` per slice, or a single one for an Enhanced object. Invalid values are left out, and
        missing values of type 2 are empty. Positions are even and directions orthogonal, see ``straighten``. Lossy
        compression is noted. A series without a frame of reference gets a unique one.

    Raises:
        ObjectError: if a UID is missing, malformed or not unique, or there are several studies or Enhanced objects.
    """
    _require_one_source(series.headers)
    require_straight(series)
    first = _complete(series)
    headers = [first, *(_reference(header, first) for header in series.headers[1:])]
    straighten(headers, series)
    return headers


def _require_one_source(headers: Sequence[Any]) -> None:
    """Refuse headers to which an object cannot refer: an object has one study, and refers to images by their UIDs."""
    if is_multi_frame(headers[0]) and len(headers) > 1:
        raise ObjectError(
            f"the series has {len(headers)} multi-frame objects, but a DICOM result can refer to only one. "
            "Write NIfTI instead."
        )
    uids = {keyword: [str(header.get(keyword) or "") for header in headers] for keyword in NEEDED}
    missing = [keyword for keyword, found in uids.items() if not all(found)]
    if missing:
        raise ObjectError(
            f"the series has no {', '.join(missing)}, which a DICOM result needs. Write NIfTI instead."
        )
    malformed = [
        keyword
        for keyword, found in uids.items()
        if keyword.endswith("UID") and not all(map(_is_uid, found))
    ]
    if malformed:
        raise ObjectError(
            f"{' and '.join(malformed)} of the series is not a UID, which has numbers without leading zeros, "
            f"joined by points, and at most 64 characters. {REMEDY}"
        )
    studies, images = (set(uids[keyword]) for keyword in ("StudyInstanceUID", "SOPInstanceUID"))
    if len(studies) > 1:
        raise ObjectError(
            f"the images of the series have {len(studies)} values of StudyInstanceUID, and a DICOM result belongs to "
            f"one study. {REMEDY}"
        )
    if len(images) < len(headers):
        raise ObjectError(
            f"the {len(headers)} images of the series have {counted(len(images), 'value')} of SOPInstanceUID, by which "
            f"a DICOM result refers to each. {REMEDY}"
        )


def _complete(series: "DicomSeries") -> Any:
    """A copy of the first header, without invalid values, and with all that an object needs."""
    original = series.headers[0]
    header = deepcopy(original)
    dropped = drop_invalid(header, (*NEEDED, *PLANE, *FRAMES, *KEPT))
    if header.get("PatientSex") not in SEXES:
        header.PatientSex = ""
    emptied = [keyword for keyword in dropped if keyword in EMPTY_WHERE_ABSENT]
    if emptied:
        logger.warning(
            "%s: %s is empty in DICOM objects, because its value is not valid or not decoded",
            series.name,
            " and ".join(emptied),
        )
    for keyword in EMPTY_WHERE_ABSENT:
        if header.get(keyword) is None:
            setattr(header, keyword, "")
    syntax = str(getattr(getattr(original, "file_meta", None), "TransferSyntaxUID", ""))
    if syntax in LOSSY_SYNTAXES and "LossyImageCompression" not in header:
        header.LossyImageCompression = "01"
        header.LossyImageCompressionMethod = LOSSY_SYNTAXES[syntax]
    if is_multi_frame(header):
        _share_plane(header)
    _fill_thickness(header, float(np.linalg.norm(series.affine[:3, 2])))
    if not _is_uid(str(header.get("FrameOfReferenceUID") or "")):
        header.FrameOfReferenceUID = derived_uid(header.SeriesInstanceUID, "frame of reference")
    return header


def _reference(original: Any, first: Any) -> Any:
    """The attributes of a further slice that references need; full copies of hundreds of slices would take seconds."""
    from pydicom.dataset import Dataset

    header = Dataset()
    for keyword in (*NEEDED, *PLANE):
        if keyword in original:
            setattr(header, keyword, original.get(keyword))
    header.FrameOfReferenceUID = first.FrameOfReferenceUID
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
        if not value_of(place, "SliceThickness"):
            place.SliceThickness = f"{step_mm:.6g}"


def _share_plane(header: Any) -> None:
    """Copy orientation and voxel size of an Enhanced object to the shared groups if only its frames have them."""
    from pydicom.dataset import Dataset

    if not header.get("SharedFunctionalGroupsSequence"):
        header.SharedFunctionalGroupsSequence = [Dataset()]
    shared = header.SharedFunctionalGroupsSequence[0]
    frame = header.PerFrameFunctionalGroupsSequence[0]
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if keyword not in shared and keyword in frame:
            setattr(shared, keyword, frame[keyword].value)
    for measures in shared.get("PixelMeasuresSequence") or ():
        drop_invalid(measures, ("PixelSpacing",))


def series_number(header: Any) -> int:
    """Number of the new series: that of the source plus ``SERIES_NUMBER_OFFSET``.

    A source without a valid number counts as 0, also if the sum would be too large for an integer string.
    """
    number = int(value_of(header, "SeriesNumber") or 0) + SERIES_NUMBER_OFFSET
    return number if SERIES_NUMBER_OFFSET <= number < MAX_SERIES_NUMBER else SERIES_NUMBER_OFFSET


def character_set(header: Any, texts: Sequence[str]) -> Any:
    """The source's character set if it is a single one and our texts are ASCII, else UTF-8."""
    from highdicom.enum import SpecificCharacterSetValues

    value = header.get("SpecificCharacterSet") or None
    known = value in [
        one.value for one in SpecificCharacterSetValues if not _is_extended(one.value)
    ]
    return value if (value is None or known) and "".join(texts).isascii() else "ISO_IR 192"


def _is_extended(character_set: str) -> bool:
    """Whether a character set needs others beside it (PS3.3 C.12.1.1.2), or is too new for some readers."""
    return character_set.startswith("ISO 2022") or character_set == "GBK"


def _is_uid(text: str) -> bool:
    """Whether a text is a UID by PS3.5 section 9.1; ``1.02`` and ``1..2`` are not."""
    from pydicom import config
    from pydicom.uid import UID

    return bool(UID(text, config.IGNORE).is_valid)


def derived_uid(*sources: str) -> str:
    """A UID derived from texts by pydicom, from their SHA-512."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=list(sources)))

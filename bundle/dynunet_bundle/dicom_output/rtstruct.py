"""Masks -> RT Structure Sets (RTSTRUCT): polygons of each slice in patient coordinates, for radiotherapy systems.

rt-utils 1.2.7 is not used. It confuses the spacings of rows and columns, so contours are displaced if pixels are not
square. Its polygons run through the centres of border voxels and are half a voxel too small on each side. A single
voxel becomes a point. Slices that are not square are read back with swapped axes.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from dynunet_bundle import __version__
from dynunet_bundle.dicom_output.codes import LabelCodes
from dynunet_bundle.dicom_output.headers import (
    character_set,
    derived_uid,
    series_number,
    source_headers,
)
from dynunet_bundle.dicom_output.labels import VALUE_NOTE, present_labels, short_label
from dynunet_bundle.dicom_output.object import (
    MANUFACTURER,
    Algorithm,
    building,
    coded,
    private_schemes,
    require_highdicom,
    write_object,
)
from dynunet_bundle.dicom_output.outlines import outlines
from dynunet_bundle.dicom_output.slice_grid import (
    is_multi_frame,
    lps_affine,
    require_grid,
    slice_positions,
)

if TYPE_CHECKING:
    from dynunet_bundle.dicom_input.series import DicomSeries

CONTOUR_DATA = 0x30060050
"""Tag of Contour Data, the points of a contour."""

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management: retired, but still the class of RTReferencedStudySequence (PS3.3 C.8.8.5)."""


def write_rtstruct(
    mask: np.ndarray,
    series: "DicomSeries",
    labels: Mapping[str, int],
    path: Path,
    *,
    algorithm: Algorithm,
    task_name: str = "",
    codes: Mapping[str, Any] | None = None,
) -> Path | None:
    """Write a mask as a structure set, with one region of interest per label in the mask.

    Args:
        mask: ``[X, Y, Z]``, label values, on the grid of ``series.array``.
        series: the images that the mask belongs to.
        labels: label values by name; 0 is the background.
        path: the file to write; its name must not identify the patient.
        algorithm: the algorithm that made the mask.
        task_name: see ``codes_of_labels``.
        codes: overrides of ``codes_of_labels``.

    Returns:
        ``path``; None if the mask is empty, in which case an older file is removed and a warning is logged.

    Raises:
        ObjectError: if mask, labels and series do not fit, or the headers do not allow a structure set.
        OutputError: if the file cannot be written.
        ConfigError: if ``codes`` is malformed.
    """
    require_highdicom()
    require_grid(mask, series)
    present = present_labels(mask, labels, task_name, codes, path)
    if not present:
        return None
    with building("RT structure set"):
        headers = source_headers(series)
        dataset = _structure_set(headers[0], algorithm, [codes for codes, _ in present])
        dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(headers)]
        dataset.StructureSetROISequence = []
        dataset.ROIContourSequence = []
        dataset.RTROIObservationsSequence = []
        images = _references(headers, series)
        boxes = ndimage.find_objects(mask if mask.dtype.kind in "ui" else mask.astype(np.int32))
        for number, (found, value) in enumerate(present, start=1):
            dataset.StructureSetROISequence.append(
                _region(number, found, value, headers[0].FrameOfReferenceUID, algorithm)
            )
            box = boxes[value - 1]
            contours = _contours(mask[box] == value, box, series, images)
            dataset.ROIContourSequence.append(_contour_item(number, found, contours))
            dataset.RTROIObservationsSequence.append(_observation(number, found))
        return write_object(dataset, path)


def _structure_set(header: Any, algorithm: Algorithm, labels: list[LabelCodes]) -> Any:
    from highdicom.base import SOPClass

    now = datetime.now()
    name = short_label(f"Segmentation by {algorithm.name}")
    dataset = SOPClass(
        study_instance_uid=header.StudyInstanceUID,
        series_instance_uid=derived_uid("series"),
        series_number=series_number(header),
        sop_instance_uid=derived_uid("instance"),
        sop_class_uid=RT_STRUCTURE_SET,
        instance_number=1,
        modality="RTSTRUCT",
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        series_description=name,
        patient_id=header.PatientID,
        patient_name=header.PatientName,
        patient_birth_date=header.PatientBirthDate,
        patient_sex=header.PatientSex,
        accession_number=header.AccessionNumber,
        study_id=header.StudyID,
        study_date=header.StudyDate,
        study_time=header.StudyTime,
        referring_physician_name=header.ReferringPhysicianName,
        coding_schemes=private_schemes(codes.type.scheme for codes in labels),
        specific_character_set=character_set(
            header, [algorithm.name, *(codes.name for codes in labels)]
        ),
    )
    dataset.copy_patient_and_study_information(header)
    dataset.OperatorsName = ""
    dataset.StructureSetLabel = "SEGMENTATION"
    dataset.StructureSetName = name
    dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.StructureSetTime = now.strftime("%H%M%S")
    dataset.FrameOfReferenceUID = header.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = header.get("PositionReferenceIndicator", "")
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _references(headers: list[Any], series: "DicomSeries") -> list[Any]:
    """A reference to the image of each slice."""
    from pydicom.dataset import Dataset

    references = []
    for place, number in enumerate(series.frame_numbers):
        header = headers[0] if is_multi_frame(headers[0]) else headers[place]
        reference = Dataset()
        reference.ReferencedSOPClassUID = header.SOPClassUID
        reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
        if is_multi_frame(header):
            reference.ReferencedFrameNumber = number
        references.append(reference)
    return references


def _frame_of_reference(headers: list[Any]) -> Any:
    from pydicom.dataset import Dataset

    images = []
    for header in headers:
        image = Dataset()
        image.ReferencedSOPClassUID = header.SOPClassUID
        image.ReferencedSOPInstanceUID = header.SOPInstanceUID
        images.append(image)
    source = Dataset()
    source.SeriesInstanceUID = headers[0].SeriesInstanceUID
    source.ContourImageSequence = images
    study = Dataset()
    study.ReferencedSOPClassUID = STUDY_CLASS
    study.ReferencedSOPInstanceUID = headers[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [source]
    frame = Dataset()
    frame.FrameOfReferenceUID = headers[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _region(number: int, codes: LabelCodes, value: int, frame: str, algorithm: Algorithm) -> Any:
    from pydicom.dataset import Dataset

    region = Dataset()
    region.ROINumber = number
    region.ReferencedFrameOfReferenceUID = frame
    region.ROIName = short_label(codes.name)
    region.ROIDescription = VALUE_NOTE.format(value)
    region.ROIGenerationAlgorithm = "AUTOMATIC"
    region.ROIGenerationDescription = short_label(f"{algorithm.name} {algorithm.version}")
    return region


def _contour_item(number: int, codes: LabelCodes, contours: list[Any]) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedROINumber = number
    item.ROIDisplayColor = list(codes.rgb or (255, 255, 255))
    item.ContourSequence = contours
    return item


def _observation(number: int, codes: LabelCodes) -> Any:
    from pydicom.dataset import Dataset

    kind = coded(codes.type)
    if codes.modifiers and codes.region is None:
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(code) for code in codes.modifiers]
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    item.RTROIIdentificationCodeSequence = [kind]
    item.RTROIInterpretedType = "ORGAN" if codes.is_anatomy else ""
    item.ROIInterpreter = ""
    return item


def _contours(
    region: np.ndarray, box: tuple[slice, ...], series: "DicomSeries", images: list[Any]
) -> list[Any]:
    """Contours of the voxels of a label, ``[X, Y, Z]`` bool, in its box of the mask."""
    from pydicom.dataset import Dataset

    in_plane = lps_affine(series)[:3, :2]
    positions = slice_positions(series)
    contours: list[Any] = []
    # slices contiguous in memory, which is several times faster
    planes = np.ascontiguousarray(region.transpose(2, 0, 1))
    corner = np.array([box[0].start, box[1].start], float)
    for place, plane in enumerate(planes, start=box[2].start):
        for polygon in outlines(plane):
            points = positions[place] + (polygon + corner) @ in_plane.T
            contour = Dataset()
            contour.ContourNumber = len(contours) + 1
            contour.ContourImageSequence = [images[place]]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour[CONTOUR_DATA] = _coordinates(points)
            contours.append(contour)
    return contours


def _coordinates(points: np.ndarray) -> Any:
    """Contour Data in its encoded form; pydicom takes five times as long to encode a million numbers."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    # precise to a tenth of a micrometre, within the 16 characters of a decimal string
    text = "\\".join([f"{value:.4f}" for value in points.ravel().tolist()])
    value = (text + " " * (len(text) % 2)).encode()
    return RawDataElement(Tag(CONTOUR_DATA), "DS", len(value), value, 0, False, True)

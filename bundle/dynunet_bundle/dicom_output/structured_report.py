"""Volumes of the segments of a DICOM Segmentation -> a Measurement Report (TID 1500 of PS3.16) as Comprehensive SR.

Names, codes and voxels of the segments are read from the segmentation, so that report and segmentation agree.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynunet_bundle import __version__
from dynunet_bundle.dicom_output.codes import Code
from dynunet_bundle.dicom_output.count_voxels import count_voxels
from dynunet_bundle.dicom_output.headers import derived_uid, series_number, source_headers
from dynunet_bundle.dicom_output.object import (
    MANUFACTURER,
    Algorithm,
    building,
    coded,
    private_schemes,
    require_highdicom,
    write_object,
)
from dynunet_bundle.dicom_output.slice_grid import voxel_ml

if TYPE_CHECKING:
    from dynunet_bundle.dicom_input.series import DicomSeries

MILLILITRE = Code("mL", "UCUM", "milliliter")
PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
"""General code of CID 100, since the headers of a series do not give the procedure as a code."""

SIDES = ("Left", "Right", "Bilateral", "Unilateral")
"""Meanings of CID 244 Laterality. All other modifiers are topographical."""


def write_measurements(
    segmentation: Path, series: "DicomSeries", path: Path, *, algorithm: Algorithm
) -> Path:
    """Write the volume in millilitres of each segment of a BINARY segmentation.

    Args:
        segmentation: a file of ``write_seg``.
        series: the images that it belongs to.
        path: the report to write; its name must not identify the patient.
        algorithm: the algorithm that made the segmentation.

    Returns:
        ``path``.

    Raises:
        ObjectError: if the segmentation cannot be read or is on another grid, or the headers do not allow a report.
        OutputError: if the file cannot be written.
    """
    require_highdicom()
    from highdicom.sr import ComprehensiveSR, MeasurementReport

    source, voxels = count_voxels(segmentation, series)
    with building("structured report"):
        headers = source_headers(series)
        report = MeasurementReport(
            observation_context=_observer(),
            procedure_reported=coded(PROCEDURE),
            imaging_measurements=[
                _measurement(
                    source, segment, voxels[segment.SegmentNumber] * voxel_ml(series), algorithm
                )
                for segment in source.SegmentSequence
            ],
        )
        dataset = ComprehensiveSR(
            evidence=[*headers, source],
            content=report,
            series_instance_uid=derived_uid("series"),
            # listed after the segmentation
            series_number=series_number(headers[0]) + 1,
            sop_instance_uid=derived_uid("instance"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=__version__,
            is_complete=True,
            series_description="Volumes of segments",
            coding_schemes=private_schemes(
                segment.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator
                for segment in source.SegmentSequence
            ),
            specific_character_set=source.get("SpecificCharacterSet"),
            transfer_syntax_uid="1.2.840.10008.1.2.1",
        )
        return write_object(dataset, path)


def _observer() -> Any:
    from highdicom.sr import (
        DeviceObserverIdentifyingAttributes,
        ObservationContext,
        ObserverContext,
    )
    from pydicom.sr.codedict import codes

    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid(MANUFACTURER, __version__),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=MANUFACTURER,
    )
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        )
    )


def _measurement(source: Any, segment: Any, volume_ml: float, algorithm: Algorithm) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    number = int(segment.SegmentNumber)
    images = source.ReferencedSeriesSequence[0]
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=derived_uid(source.SOPInstanceUID, str(number)), identifier=segment.SegmentLabel
        ),
        referenced_segment=sr.ReferencedSegment(
            source.SOPClassUID,
            source.SOPInstanceUID,
            number,
            source_series=sr.SourceSeriesForSegmentation(images.SeriesInstanceUID),
        ),
        finding_category=_concept(segment.SegmentedPropertyCategoryCodeSequence[0]),
        finding_type=_concept(segment.SegmentedPropertyTypeCodeSequence[0]),
        finding_sites=_sites(segment),
        algorithm_id=sr.AlgorithmIdentification(algorithm.name, algorithm.version),
        measurements=[
            sr.Measurement(codes.SCT.Volume, float(f"{volume_ml:.6g}"), coded(MILLILITRE))
        ],
    )


def _sites(segment: Any) -> list[Any] | None:
    """Finding sites: the region with its modifiers, or the type if it has modifiers; else None."""
    from highdicom.sr import FindingSite

    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    region = segment.get("AnatomicRegionSequence")
    if region:
        place, modifiers = region[0], region[0].get("AnatomicRegionModifierSequence")
    else:
        place, modifiers = kind, kind.get("SegmentedPropertyTypeModifierCodeSequence")
    if not region and not modifiers:
        return None
    concepts = [_concept(modifier) for modifier in modifiers or ()]
    sides = [concept for concept in concepts if concept.meaning in SIDES]
    parts = [concept for concept in concepts if concept.meaning not in SIDES]
    return [
        FindingSite(
            _concept(place),
            laterality=sides[0] if sides else None,
            topographical_modifier=parts[0] if parts else None,
        )
    ]


def _concept(item: Any) -> Any:
    return coded(Code(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning))

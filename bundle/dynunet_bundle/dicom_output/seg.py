"""Masks and probabilities -> DICOM Segmentation objects on the grid of their series.

highdicom builds the object. This module does what highdicom leaves to the caller: codes, empty classes, missing type-2
attributes of the source, UIDs, and the label value of each segment. Frames are at the positions of the series' slices,
so nothing is resampled or flipped.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynunet_bundle import __version__
from dynunet_bundle.dicom_output.codes import LabelCodes
from dynunet_bundle.dicom_output.headers import (
    character_set,
    derived_uid,
    series_number,
    source_headers,
)
from dynunet_bundle.dicom_output.labels import (
    VALUE_NOTE,
    Present,
    coded_labels,
    present_labels,
    say_nothing,
    short_label,
)
from dynunet_bundle.dicom_output.object import (
    MANUFACTURER,
    SERIAL_NUMBER,
    Algorithm,
    building,
    coded,
    private_schemes,
    require_highdicom,
    write_object,
)
from dynunet_bundle.dicom_output.slice_grid import is_multi_frame, require_grid, slice_positions
from dynunet_bundle.errors import ObjectError

if TYPE_CHECKING:
    from dynunet_bundle.dicom_input.series import DicomSeries

MAX_FRACTION = 255
"""Largest value of a FRACTIONAL segmentation of 8 bits; the rounding error of a probability is at most 1/510."""


def write_seg(
    mask: np.ndarray,
    series: "DicomSeries",
    labels: Mapping[str, int],
    path: Path,
    *,
    algorithm: Algorithm,
    task_name: str = "",
    codes: Mapping[str, Any] | None = None,
) -> Path | None:
    """Write a mask as a BINARY segmentation, with one segment per label in the mask.

    Args:
        mask: ``[X, Y, Z]``, label values, on the grid of ``series.array``.
        series: the images that the mask belongs to.
        labels: label values by name; 0 is the background.
        path: the file to write; its name must not identify the patient.
        algorithm: the algorithm that made the mask.
        task_name: see ``codes_of_labels``.
        codes: overrides of ``codes_of_labels``.

    Returns:
        ``path``; None if the mask is empty, since an object without segments is invalid (PS3.3 C.8.20.2). Then an older
        file is removed and a warning is logged.

    Raises:
        ObjectError: if mask, labels and series do not fit, or the headers do not allow a segmentation.
        OutputError: if the file cannot be written.
        ConfigError: if ``codes`` is malformed.
    """
    require_grid(mask, series)
    present = present_labels(mask, labels, task_name, codes, path)
    if not present:
        return None
    numbers = np.zeros(1 + max(labels.values()), np.uint8 if len(present) < 256 else np.uint16)
    for number, (_, value) in enumerate(present, start=1):
        numbers[value] = number
    planes = _used_planes(np.asarray(mask.any(axis=(0, 1))))
    values = mask[:, :, planes].transpose(2, 1, 0)
    # contiguous planes: highdicom compares each of them with each segment
    pixels = np.ascontiguousarray(
        numbers[values if values.dtype.kind in "ui" else values.astype(np.int64)]
    )
    return _write(pixels, planes, "BINARY", series, present, algorithm, path)


def write_probabilities(
    probability: np.ndarray,
    series: "DicomSeries",
    labels: Mapping[str, int],
    path: Path,
    *,
    algorithm: Algorithm,
    task_name: str = "",
    codes: Mapping[str, Any] | None = None,
) -> Path | None:
    """Write probabilities as a FRACTIONAL segmentation, in steps of 1/255.

    Args:
        probability: ``[C, X, Y, Z]``, 0 to 1, one channel per label in the order of ``labels``.
        series: the images that they belong to.
        labels: label values by name; 0 is the background, which is not written.
        path: the file to write; its name must not identify the patient.
        algorithm: the algorithm that made the probabilities.
        task_name: see ``codes_of_labels``.
        codes: overrides of ``codes_of_labels``.

    Returns:
        ``path``; None if all probabilities are zero, in which case an older file is removed and a warning is logged.

    Raises:
        ObjectError: if probabilities, labels and series do not fit, or the headers do not allow a segmentation.
        OutputError: if the file cannot be written.
        ConfigError: if ``codes`` is malformed.
    """
    require_grid(probability, series)
    if len(probability) != len(labels):
        raise ObjectError(
            f"there are {len(probability)} channels of probabilities and {len(labels)} labels. Pass one per label."
        )
    if not (probability.min() >= 0 and probability.max() <= 1):
        raise ObjectError(
            "probabilities are below 0, above 1 or NaN. Apply softmax or sigmoid first."
        )
    names = [name for name, value in labels.items() if value]
    steps = {
        name: np.round(channel.astype(np.float32) * MAX_FRACTION).astype(np.uint8)
        for name, channel in zip(labels, probability, strict=True)
        if name in names
    }
    found = coded_labels(labels, task_name, codes)
    present = [(code, value) for code, value in found if steps[code.name].any()]
    if not present:
        say_nothing(path)
        return None
    used = np.any([steps[code.name].any(axis=(0, 1)) for code, _ in present], axis=0)
    planes = _used_planes(used)
    stacked = [steps[code.name][:, :, planes].transpose(2, 1, 0) for code, _ in present]
    # highdicom requires floats, and rounds them to the same steps
    pixels = np.stack(stacked, axis=-1) / np.float32(MAX_FRACTION)
    return _write(pixels, planes, "FRACTIONAL", series, present, algorithm, path)


def _used_planes(used: np.ndarray) -> slice:
    """From the first to the last plane with content, plus one on each side: the step between planes needs two."""
    places = np.flatnonzero(used)
    return slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2)


def _write(
    pixels: np.ndarray,
    planes: slice,
    kind: str,
    series: "DicomSeries",
    present: Present,
    algorithm: Algorithm,
    path: Path,
) -> Path:
    """Write planes in DICOM's axis order: ``[Z, Y, X]`` segment numbers or ``[Z, Y, X, segment]`` fractions."""
    require_highdicom()
    from highdicom import PlanePositionSequence
    from highdicom.seg import Segmentation

    with building("DICOM segmentation"):
        headers = source_headers(series)
        names = [found.name for found, _ in present]
        description = short_label(f"Segmentation by {algorithm.name}")
        dataset = Segmentation(
            source_images=headers,
            pixel_array=pixels,
            segmentation_type=kind,
            segment_descriptions=[
                _describe(number, found, value, algorithm)
                for number, (found, value) in enumerate(present, start=1)
            ],
            series_instance_uid=derived_uid("series"),
            series_number=series_number(headers[0]),
            sop_instance_uid=derived_uid("instance"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=__version__,
            device_serial_number=SERIAL_NUMBER,
            max_fractional_value=MAX_FRACTION,
            content_label="SEGMENTATION",
            content_description=description,
            series_description=description,
            plane_positions=[
                PlanePositionSequence("PATIENT", position)
                for position in slice_positions(series)[planes]
            ],
            specific_character_set=character_set(headers[0], [*names, algorithm.name]),
            coding_schemes=private_schemes(found.type.scheme for found, _ in present),
        )
        # type 2 (required) in PS3.3 of 2020, type 3 (optional) now and in highdicom; an empty value is valid in both
        dataset.ContentCreatorName = ""
        if is_multi_frame(headers[0]):
            _refer_to_frames(dataset, series)
        return write_object(dataset, path)


def _refer_to_frames(dataset: Any, series: "DicomSeries") -> None:
    """Refer to the frames of the segmented stack; highdicom refers to any frame at the same position."""
    positions = slice_positions(series)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        place = int(np.linalg.norm(positions - position, axis=1).argmin())
        for derivation in frame.get("DerivationImageSequence") or ():
            derivation.SourceImageSequence[0].ReferencedFrameNumber = series.frame_numbers[place]


def _describe(number: int, codes: LabelCodes, value: int, algorithm: Algorithm) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes as dictionary

    segment = SegmentDescription(
        segment_number=number,
        segment_label=short_label(codes.name),
        segmented_property_category=coded(codes.category),
        segmented_property_type=coded(codes.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=short_label(algorithm.name),
            family=dictionary.DCM.ArtificialIntelligence,
            version=short_label(algorithm.version),
        ),
        anatomic_regions=[coded(codes.region)] if codes.region else None,
        display_color=CIELabColor.from_rgb(*codes.rgb) if codes.rgb else None,
    )
    segment.SegmentDescription = VALUE_NOTE.format(value)
    if codes.modifiers:
        modifiers = [coded(code) for code in codes.modifiers]
        if codes.region:
            segment.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = modifiers
        else:
            kind = segment.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = modifiers
    return segment

"""DICOM Segmentation of series with missing or unusual attributes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom")

from helpers.dicom_readers import read_seg
from out_checks import KNOWN, NO_DICOMDIR, require_valid, write
from out_series import LABELS, OBLIQUE, made_mask, made_series
from pydicom import config, dcmread
from pydicom.dataelem import DataElement


def test_frames_that_each_have_their_geometry(tmp_path: Path) -> None:
    series = made_series(OBLIQUE, enhanced=True)
    shared = series.headers[0].SharedFunctionalGroupsSequence[0]
    for frame in series.headers[0].PerFrameFunctionalGroupsSequence:
        frame.PlaneOrientationSequence = shared.PlaneOrientationSequence
        frame.PixelMeasuresSequence = shared.PixelMeasuresSequence
    del shared.PlaneOrientationSequence, shared.PixelMeasuresSequence
    path = write(made_mask(), series, tmp_path / "seg.dcm", labels=KNOWN)
    np.testing.assert_array_equal(read_seg(path, series), made_mask())
    require_valid(path)


ABSENT = dict.fromkeys(
    (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate"),
        *("StudyTime", "AccessionNumber", "ReferringPhysicianName", "SeriesNumber"),
        *("PositionReferenceIndicator", "SpecificCharacterSet", "Manufacturer"),
    )
)
ODD: dict[str, dict[str, Any]] = {
    "type 2 absent": ABSENT,
    "type 2 empty": {"PatientBirthDate": "", "PatientSex": "", "StudyDate": "", "StudyTime": ""},
    "no thickness": {"SliceThickness": None},
    "no frame of reference": {"FrameOfReferenceUID": None},
}


@pytest.mark.parametrize("enhanced", [False, True], ids=["slices", "enhanced"])
@pytest.mark.parametrize("tags", ODD.values(), ids=ODD)
def test_sources_that_lack_attributes(tags: dict[str, Any], enhanced: bool, tmp_path: Path) -> None:
    series = made_series(OBLIQUE, enhanced=enhanced, **tags)
    if enhanced and "SliceThickness" in tags:
        shared = series.headers[0].SharedFunctionalGroupsSequence[0]
        del shared.PixelMeasuresSequence[0].SliceThickness
    mask = made_mask()
    path = write(mask, series, tmp_path / "seg.dcm", labels=KNOWN)
    require_valid(path, NO_DICOMDIR)
    np.testing.assert_array_equal(read_seg(path, series), mask)


def test_impossible_values_become_empty(tmp_path: Path) -> None:
    series = made_series()
    for keyword, kind, value in (
        ("PatientSex", "CS", "W"),
        ("PatientBirthDate", "DA", "1.5.1934"),
        ("StudyTime", "TM", "noon"),
    ):
        series.headers[0][keyword] = DataElement(
            keyword, kind, value, validation_mode=config.IGNORE
        )
    dataset = dcmread(write(made_mask(), series, tmp_path / "seg.dcm"))
    assert (dataset.PatientSex, dataset.PatientBirthDate, dataset.StudyTime) == ("", "", "")
    assert series.headers[0].PatientSex == "W"


def test_directions_that_differ_by_rounding(tmp_path: Path) -> None:
    series = made_series()
    series.headers[3].ImageOrientationPatient = [1, 0, 0.00001, 0, 1, 0]
    mask = made_mask()
    path = write(mask, series, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_seg(path, series), mask)


def test_lossy_compression_of_the_source_is_noted(tmp_path: Path) -> None:
    series = made_series()
    assert dcmread(write(made_mask(), series, tmp_path / "a.dcm")).LossyImageCompression == "00"
    series.headers[0].file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    dataset = dcmread(write(made_mask(), series, tmp_path / "b.dcm"))
    assert dataset.LossyImageCompression == "01"
    assert dataset.LossyImageCompressionMethod == "ISO_10918_1"
    require_valid(write(made_mask(), series, tmp_path / "c.dcm", labels=KNOWN))


@pytest.mark.parametrize("label", ["liver", "Leberläsion", "肝臓"])
def test_names_in_other_scripts_survive(label: str, tmp_path: Path) -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    series = made_series(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name)
    path = write(made_mask(), series, tmp_path / "seg.dcm", labels={**LABELS, label: 1, "x": 1})
    dataset = dcmread(path)
    assert dataset.PatientName == name
    assert label in [item.SegmentLabel for item in dataset.SegmentSequence]

"""Properties of all written objects: UIDs derived from the content, and no patient data in messages."""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom")

from out_checks import ALGORITHM
from out_series import LABELS, SHAPE, made_mask, made_series
from pydicom import config, dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag

from dynunet_bundle.dicom_output.object import Algorithm
from dynunet_bundle.dicom_output.rtstruct import write_rtstruct
from dynunet_bundle.dicom_output.seg import write_probabilities, write_seg
from dynunet_bundle.dicom_output.structured_report import write_measurements
from dynunet_bundle.errors import BundleError, OutputError

Write = Callable[..., Any]


def write_fractions(mask: np.ndarray, series: Any, labels: Any, path: Path, **rest: Any) -> Any:
    channels = np.stack([mask == value for value in labels.values()])
    return write_probabilities(channels * 0.7, series, labels, path, **rest)


def write_report(mask: np.ndarray, series: Any, labels: Any, path: Path, **rest: Any) -> Any:
    write_seg(mask, series, labels, path.with_suffix(".seg"), **rest)
    settings = {"algorithm": rest["algorithm"]}
    return write_measurements(path.with_suffix(".seg"), series, path, **settings)


WRITERS = {
    "seg": write_seg,
    "fractions": write_fractions,
    "rtstruct": write_rtstruct,
    "report": write_report,
}
each = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def with_other_images() -> Any:
    series = made_series()
    for number, header in enumerate(series.headers):
        header.SOPInstanceUID = f"1.2.3.4.{number}"
    return series


@each
def test_uids_follow_from_the_content(write: Write, tmp_path: Path) -> None:
    def uids(name: str, **changes: Any) -> tuple[str, ...]:
        settings: dict[str, Any] = {
            "mask": made_mask(),
            "series": made_series(),
            "labels": LABELS,
            "algorithm": ALGORITHM,
            **changes,
        }
        write(**settings, path=tmp_path / name)
        dataset = dcmread(tmp_path / name)
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.StudyInstanceUID == settings["series"].headers[0].StudyInstanceUID
        return dataset.SOPInstanceUID, dataset.SeriesInstanceUID

    first = uids("first.dcm")
    assert uids("again.dcm") == first
    other = made_mask()
    other[0, 0, 1] ^= 1
    later = Algorithm(ALGORITHM.name, "of today")
    changes: list[dict[str, Any]] = [
        {"mask": other},
        {"series": made_series(SeriesInstanceUID="1.2.3")},
        {"series": with_other_images()},
        {"series": made_series(PatientName="Renamed^Patient")},
        {"algorithm": later},
        {"labels": {**LABELS, "liver": 2, "cancer": 1}},
        *([] if write is write_rtstruct else [{"task_name": "Task06_Lung"}]),
        {"codes": {"odd thing": "spleen"}},
    ]
    found = [first, *(uids("other.dcm", **change) for change in changes)]
    everything = [uid for pair in found for uid in pair]
    assert len(set(everything)) == len(everything)


def leaking() -> list[Any]:
    """Series whose headers cause warnings of pydicom and highdicom."""
    odd = made_series()
    for header in odd.headers:
        for keyword, kind, value in (
            ("PatientName", "PN", "Secret=a=b=c=d"),
            ("PatientID", "LO", "SECRET-" * 20),
            ("PatientBirthDate", "DA", "SECRET"),
            ("PatientSex", "CS", "SECRET"),
            ("AccessionNumber", "SH", "SECRET" * 10),
        ):
            header[keyword] = DataElement(keyword, kind, value, validation_mode=config.IGNORE)
    broken = made_series()
    broken.headers[2].PixelSpacing = None
    broken.headers[2].ImagePositionPatient = None
    wrong = made_series()
    tag = Tag("SeriesNumber")
    wrong.headers[0][tag] = RawDataElement(tag, "IS", 6, b"SECRET", 0, False, True)
    unknown = made_series(SOPClassUID="1.2.3.4.5")
    return [odd, broken, wrong, unknown, made_series(StudyInstanceUID=None)]


@each
@pytest.mark.parametrize("number", range(5))
def test_no_message_identifies_the_patient(
    write: Write,
    number: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    series = leaking()[number]
    caplog.set_level(logging.DEBUG, "dynunet_bundle")
    said = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            write(made_mask(), series, LABELS, tmp_path / "out.dcm", algorithm=ALGORITHM)
        except BundleError as error:
            said.append(str(error))
            assert error.__cause__ is None
    said += [str(warning.message) for warning in caught]
    said += [*capfd.readouterr(), caplog.text, *(file.name for file in tmp_path.iterdir())]
    assert "secret" not in " ".join(said).lower()
    # two have only invalid values that an object does not need
    assert (tmp_path / "out.dcm").exists() == (number in (0, 2))


@each
def test_the_source_stays_as_it_was(write: Write, tmp_path: Path) -> None:
    series = made_series(PatientBirthDate=None, StudyID=None, SliceThickness=None)
    before = [str(header) for header in series.headers]
    write(made_mask(), series, LABELS, tmp_path / "out.dcm", algorithm=ALGORITHM)
    assert [str(header) for header in series.headers] == before


@each
def test_a_folder_that_cannot_be_written_to(write: Write, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write(made_mask(), made_series(), LABELS, tmp_path / "no" / "out.dcm", algorithm=ALGORITHM)


@each
def test_without_highdicom(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(
        BundleError, match=r'pip install --constraint constraints.txt "\.\[dicom\]"'
    ):
        write(made_mask(), made_series(), LABELS, tmp_path / "out.dcm", algorithm=ALGORITHM)


def test_patient_and_study_go_into_the_object(tmp_path: Path) -> None:
    series = made_series()
    for name, write in WRITERS.items():
        write(made_mask(), series, LABELS, tmp_path / name, algorithm=ALGORITHM)
        dataset = dcmread(tmp_path / name)
        for keyword in (
            "PatientName",
            "PatientID",
            "PatientBirthDate",
            "AccessionNumber",
            "StudyID",
        ):
            assert dataset[keyword].value == series.headers[0][keyword].value
        assert dataset.SeriesNumber in (1004, 1005)
    assert made_mask().shape == SHAPE

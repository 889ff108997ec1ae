"""Series with one fault each: read and written, written without objects, or refused with the reason."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom")

from helpers.dicom_faults import FAULTS, MASK, REFUSED
from helpers.dicom_readers import read_seg
from helpers.made_dicom import make_series, straight, volume
from out_checks import ALGORITHM, NO_DICOMDIR, require_valid
from out_series import made_series
from pydicom import Dataset, dcmread

from dynunet_bundle.dataset.dicom_cases import find_cases
from dynunet_bundle.dicom_input.series import DicomSeries, load_series
from dynunet_bundle.dicom_output.rtstruct import write_rtstruct
from dynunet_bundle.dicom_output.seg import write_seg
from dynunet_bundle.errors import DatasetError, ObjectError

LABELS = {"background": 0, "liver": 1}


def spoiled(folder: Path, name: str) -> DicomSeries:
    make_series(folder, volume((16, 14, 8)), straight(), reverse=False)
    FAULTS[name].spoil(folder)
    (case,) = find_cases(folder)
    return load_series(case["image"])


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_tolerated_or_refused(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    if fault.now == REFUSED:
        with pytest.raises(DatasetError, match=fault.words) as caught:
            spoiled(tmp_path / "in", name)
        assert "Doe" not in str(caught.value) and ".py" not in str(caught.value)
        return
    series = spoiled(tmp_path / "in", name)
    mask = np.zeros(series.array.shape[1:], np.uint8)
    mask[3:9, 2:7, 1:6] = 1
    for write in (write_seg, write_rtstruct):
        path = tmp_path / f"{write.__name__}.dcm"
        if fault.now == MASK:
            with pytest.raises(ObjectError, match=fault.words) as refused:
                write(mask, series, LABELS, path, algorithm=ALGORITHM)
            assert "Doe" not in str(refused.value) and not path.exists()
        else:
            write(mask, series, LABELS, path, algorithm=ALGORITHM)
            require_valid(path, NO_DICOMDIR)
    if fault.now != MASK:
        np.testing.assert_array_equal(read_seg(tmp_path / "write_seg.dcm", series), mask)


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("gb2312", "Wang^XiaoDong=王^小东"),
        ("gbk", "张^小东"),
        ("unknown_set", ""),
        ("bad_utf8", ""),
        ("no_set_umlaut", ""),
        ("ascii_umlaut", ""),
        ("gb2312_unescaped", ""),
        ("two_names", ""),
    ],
)
def test_text_is_written_as_it_was_meant_or_not_at_all(
    fault: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    series = spoiled(tmp_path / "in", fault)
    path = tmp_path / "seg.dcm"
    mask = np.ones(series.array.shape[1:], np.uint8)
    write_seg(mask, series, LABELS, path, algorithm=ALGORITHM)
    assert dcmread(path).PatientName == name
    assert ("PatientName is empty" in caplog.text) == (not name)


def test_items_have_the_character_set_of_their_header(tmp_path: Path) -> None:
    series = made_series(SpecificCharacterSet="ISO_IR 100")
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99X", "Schädel"
    incomplete = Dataset()
    incomplete.CodeValue, incomplete.CodingSchemeDesignator = "2", "99X"
    series.headers[0].ProcedureCodeSequence = [code, incomplete]
    path = tmp_path / "seg.dcm"
    write_seg(np.ones(series.array.shape[1:], int), series, LABELS, path, algorithm=ALGORITHM)
    written = dcmread(path)
    assert written.SpecificCharacterSet == "ISO_IR 100"
    assert [item.CodeMeaning for item in written.ProcedureCodeSequence] == ["Schädel"]

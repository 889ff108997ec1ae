"""Damaged files beside a series: they stop the series to which they may belong, and no other."""

import os
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydicom")

from helpers.dicom_faults import HTML, cut_localiser_header, deflated_report
from helpers.made_dicom import make_series, straight, volume
from pydicom import dcmread

from dynunet_bundle.dataset.dicom_cases import find_cases
from dynunet_bundle.dicom_input.series import load_series
from dynunet_bundle.errors import CaseError, DatasetError

NEIGHBOURS = {
    "empty.dcm": b"",
    "page.dcm": HTML,
    "report.dcm": deflated_report,
    "scout.dcm": cut_localiser_header,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_series(tmp_path / "Doe", volume(), straight(), series_uid="1.2.3")


def put(folder: Path, name: str) -> None:
    content = NEIGHBOURS[name]
    first = min(folder.glob("0*.dcm"))
    (folder / name).write_bytes(content if isinstance(content, bytes) else content(first))


def only_array(folder: Path) -> np.ndarray:
    (case,) = find_cases(folder)
    return load_series(case["image"]).array[0]


def test_neighbours_are_skipped_and_counted(folder: Path, log: pytest.LogCaptureFixture) -> None:
    for name in NEIGHBOURS:
        put(folder, name)
    np.testing.assert_array_equal(only_array(folder), volume())
    assert "2 x damaged file, 1 x localiser, 1 x structured report" in log.text


def test_neighbours_in_an_archive_are_skipped(folder: Path, tmp_path: Path) -> None:
    put(folder, "page.dcm")
    archive = Path(shutil.make_archive(str(tmp_path / "study"), "zip", folder))
    np.testing.assert_array_equal(only_array(archive), volume())
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("005.dcm", b"")
    with pytest.raises(CaseError, match="is damaged"):
        only_array(archive)


@pytest.mark.parametrize("content", [b"", HTML])
@pytest.mark.parametrize("name", ["005.dcm", "sub/005.dcm"])
def test_a_file_that_may_be_a_slice_is_refused_with_a_list(
    folder: Path, name: str, content: bytes
) -> None:
    if "/" in name:  # slices in several folders: it may belong to any of them
        (folder / "sub").mkdir()
        (folder / "004.dcm").rename(folder / "sub" / "004.dcm")
    (folder / name).write_bytes(content)
    with pytest.raises(CaseError, match="6 of 6 of the DICOM input.* is damaged") as caught:
        only_array(folder)
    assert "Doe" not in str(caught.value)
    listed = Path(str(caught.value).split("files are in ")[1].rstrip("."))
    assert listed.read_text() == f"{folder / name}\n"
    assert stat.S_IMODE(os.stat(listed).st_mode) == 0o600
    listed.unlink()


def count(folder: Path, number: int, **acquisitions: int) -> None:
    """Have the headers of a series say how many images it has, and of which acquisition some are."""
    for file in folder.glob("0*.dcm"):
        header = dcmread(file)
        header.ImagesInAcquisition = number
        header.AcquisitionNumber = acquisitions.get(f"of_{file.stem}", 1)
        header.save_as(file)


def test_a_complete_series_needs_no_damaged_file(
    folder: Path, log: pytest.LogCaptureFixture
) -> None:
    count(folder, 5)
    (folder / "005.dcm").write_bytes(b"")
    np.testing.assert_array_equal(only_array(folder), volume())
    assert "skipped in the DICOM input: 1 x damaged file" in log.text


@pytest.mark.parametrize("kind", ["more", "fewer", "two acquisitions", "a copy", "its own slice"])
def test_a_series_that_may_lack_an_image_is_refused(folder: Path, kind: str) -> None:
    count(folder, {"more": 6, "fewer": 3, "a copy": 6}.get(kind, 5))
    if kind == "two acquisitions":
        count(folder, 5, of_004=2)
    if kind == "a copy":
        shutil.copy(folder / "004.dcm", folder / "006.dcm")
    content = (folder / "004.dcm").read_bytes()
    place = content.index(b"\x28\x00\x10\x00US")
    (folder / "005.dcm").write_bytes(content[:place] if kind == "its own slice" else b"")
    with pytest.raises(CaseError, match="is damaged"):
        only_array(folder)


def test_a_damaged_file_stops_only_its_series(folder: Path, tmp_path: Path) -> None:
    other = make_series(tmp_path / "other", volume(), straight(), series_uid="1.2.4")
    for file in sorted(other.iterdir()):
        file.rename(folder / f"1{file.name}")
    damaged = folder / "1002.dcm"
    # its UID can be read, but not its size
    content = damaged.read_bytes()
    place = content.index(b"\x28\x00\x10\x00US")
    damaged.write_bytes(content[:place])
    for uid, match in (("1.2.3", ""), ("1.2.4", "is damaged: it is truncated before its image")):
        (case,) = find_cases(folder, {"series": uid})
        if match:
            with pytest.raises(CaseError, match=match):
                load_series(case["image"])
        else:
            np.testing.assert_array_equal(load_series(case["image"]).array[0], volume())


def test_damaged_files_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_bytes(HTML)
    with pytest.raises(DatasetError, match="file 1 of 1 .* is damaged: it does not start like"):
        find_cases(tmp_path)


def test_a_malformed_uid_names_a_series(tmp_path: Path) -> None:
    make_series(tmp_path / "a::b", volume(), straight(), series_uid="1.2::x/%é")
    (case,) = find_cases(tmp_path / "a::b")
    assert "SeriesInstanceUID=1.2%3A%3Ax" in case["image"]
    assert load_series(case["image"]).array.shape == (1, 7, 6, 5)

"""Files with other names, of other kinds, with bad preambles or damage; no patient data in any message."""

import re
import sys
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from dynunet_bundle.errors import BundleError, DatasetError

pytest.importorskip("pydicom")

from helpers.made_dicom import make_series, straight, volume
from pydicom import dcmread, dcmwrite

from dynunet_bundle.dataset.dicom_cases import find_cases
from dynunet_bundle.dicom_input.series import load_series

SECRETS = ("doe", "jane", "19700101")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_series(tmp_path / "Doe Jane 1970", volume(), straight())


def rewrite(folder: Path, change: Any) -> None:
    for file in sorted(folder.iterdir()):
        file.write_bytes(change(file.read_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[128:],  # DICM without its preamble
        lambda content: content[132:],  # neither
        lambda content: content[:128] + b"XXXX" + content[132:],
        lambda content: b"\xff" * 128 + content[128:],
        lambda content: content[132 + 12 + int.from_bytes(content[140:144], "little") :],
    ],
)
def test_bad_preambles(folder: Path, change: Any) -> None:
    rewrite(folder, change)
    np.testing.assert_array_equal(load_series(str(folder)).array[0], volume())


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("pydicom", "DICOM needs pydicom, which is not installed. Run pip install"),
        ("pydicom.pixels", "DICOM needs pydicom 3; an older version is installed. Run pip install"),
    ],
)
def test_pydicom_is_asked_for_by_its_version(
    missing: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BundleError, match=re.escape(message)):
        load_series(str(folder))


def test_implicit_data_set_without_file_meta(folder: Path) -> None:
    for file in folder.iterdir():
        image = dcmread(file)
        del image.file_meta
        image.preamble = None
        dcmwrite(file, image, implicit_vr=True, little_endian=True)
        assert b"DICM" not in file.read_bytes()[:132]
    np.testing.assert_array_equal(load_series(str(folder)).array[0], volume())


def test_any_names_in_any_folders_beside_other_files(folder: Path) -> None:
    for index, file in enumerate(sorted(folder.iterdir())):
        (folder / f"sub{index % 2}" / "deep").mkdir(parents=True, exist_ok=True)
        file.rename(folder / f"sub{index % 2}" / "deep" / f"IM{index}")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM broken")
    (folder / ".hidden.dcm").write_bytes(b"junk")
    (folder / "README.txt").write_text("Doe, Jane")
    (folder / "empty").touch()
    np.testing.assert_array_equal(load_series(str(folder)).array[0], volume())


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ({"modality": "OT"}, "3 x secondary capture"),
        ({"tags": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}}, "3 x localiser"),
        ({"tags": {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}}, "3 x screenshot"),
        ({"tags": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}}, "3 x segmentation"),
        ({"tags": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.34"}}, "3 x structured report"),
    ],
)
def test_objects_that_are_not_images_are_skipped_with_a_note(
    folder: Path, kind: dict[str, Any], note: str, log: pytest.LogCaptureFixture
) -> None:
    other = volume((7, 6, 3))
    make_series(folder, other, straight(), start=9, series_uid="1.2.9", **kind)
    (case,) = find_cases(folder)
    np.testing.assert_array_equal(load_series(case["image"]).array[0], volume())
    assert note in log.text
    for file in list(folder.iterdir())[:]:
        if int(file.stem) < 9:
            file.unlink()
    with pytest.raises(DatasetError, match=f"no series of images; skipped: {note}"):
        find_cases(folder)


def test_localiser_within_a_series_is_skipped(folder: Path) -> None:
    uid = load_series(str(folder)).headers[0].SeriesInstanceUID
    make_series(
        folder,
        volume((9, 9, 1)),
        straight(),
        start=9,
        series_uid=uid,
        tags={
            "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
            "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
        },
    )
    np.testing.assert_array_equal(load_series(str(folder)).array[0], volume())


@pytest.mark.parametrize("size", [0, 100, 140, 200, 400])
def test_file_cut_in_its_header_is_refused(folder: Path, size: int) -> None:
    (folder / "004.dcm").write_bytes((folder / "004.dcm").read_bytes()[:size])
    with pytest.raises(DatasetError, match="file 5 of 5 of the DICOM input, in order of names"):
        load_series(str(folder))


def test_deflated_file_is_refused_unread(folder: Path) -> None:
    bomb = zlib.compress(b"\0" * 10_000_000)
    content = (folder / "000.dcm").read_bytes()
    deflated = content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    start = deflated.index(b"1.2.840.10008.1.2.1.99")
    length = (22).to_bytes(2, "little")
    (folder / "000.dcm").write_bytes(deflated[: start - 2] + length + deflated[start:] + bomb)
    with pytest.raises(DatasetError, match="deflated"):
        load_series(str(folder))


@pytest.mark.parametrize("element", [b"\x28\x00\x11\x00US", b"\x28\x00\x03\x01US"])
def test_value_of_a_wrong_length_is_refused(folder: Path, element: bytes) -> None:
    content = (folder / "001.dcm").read_bytes()
    place = content.index(element) + len(element)
    (folder / "001.dcm").write_bytes(content[:place] + b"\x05" + content[place + 1 :])
    with pytest.raises(BundleError, match="damaged"):
        load_series(str(folder))


def test_pixels_of_an_unknown_kind_are_refused(folder: Path) -> None:
    content = (folder / "001.dcm").read_bytes()
    place = content.index(b"\xe0\x7f\x10\x00OW") + 4
    (folder / "001.dcm").write_bytes(content[:place] + b"O\xec" + content[place + 2 :])
    with pytest.raises(BundleError, match="damaged"):
        load_series(str(folder))


def mutations(content: bytes, count: int) -> Iterator[bytes]:
    generator = np.random.default_rng(0)
    pixels = content.index(b"\xe0\x7f\x10\x00")
    for _ in range(count):
        changed = bytearray(content)
        for place in generator.integers(128, pixels + 12, generator.integers(1, 4)):
            changed[place] = generator.integers(256)
        yield bytes(changed)


def test_damage_is_refused_without_naming_the_patient(
    folder: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    file = folder / "002.dcm"
    refused = 0
    for content in mutations(file.read_bytes(), 60):
        file.write_bytes(content)
        try:
            load_series(str(folder))
        except BundleError as error:
            refused += 1
            assert not any(secret in str(error).lower() for secret in SECRETS), str(error)
            assert error.__cause__ is None
    assert refused > 5
    said = caplog.text + "".join(str(warning.message) for warning in recwarn)
    assert not any(secret in said.lower() for secret in SECRETS)


def test_missing_input(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist") as caught:
        load_series(str(tmp_path / "Doe"))
    assert "Doe" not in str(caught.value)


def test_missing_pydicom_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(
        BundleError, match=r'pip install --constraint constraints.txt "\.\[dicom\]"'
    ) as caught:
        load_series(str(folder))
    # and the packages to install without a clone, the same list
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = [re.split("[>=]", one)[0] for one in project["optional-dependencies"]["dicom"]]
    assert f"pip install {' '.join(packages)}." in str(caught.value)

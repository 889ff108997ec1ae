"""Stored values: data types, unused bits, compressed transfer syntaxes, and refusals before decoding."""

import locale
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from dynunet_bundle.errors import BundleError, CaseError, ConfigError

pytest.importorskip("pydicom")

from helpers.made_dicom import make_enhanced, make_series, oblique, straight, volume
from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dynunet_bundle.dicom_input.codestream import coded_shape
from dynunet_bundle.dicom_input.series import load_series


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8, np.int8, np.int32, np.uint32])
def test_stored_type_is_kept(tmp_path: Path, dtype: Any) -> None:
    limits = np.iinfo(dtype)
    array = volume(low=limits.min, high=limits.max, dtype=np.int64).astype(dtype)
    series = load_series(str(make_series(tmp_path, array, straight())))
    assert series.array.dtype == dtype
    np.testing.assert_array_equal(series.array[0], array)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize(("dtype", "low"), [(np.int16, -1000), (np.uint16, 0)])
def test_compressed_without_loss(tmp_path: Path, syntax: str, dtype: Any, low: int) -> None:
    array = volume((40, 36, 3), low=low, dtype=dtype)
    folder = make_series(tmp_path, array, oblique(), syntax=syntax)
    series = load_series(str(folder))
    assert series.array.dtype == dtype
    np.testing.assert_array_equal(series.array[0], array)


@pytest.fixture
def own_locale() -> Iterator[None]:
    """GDCM leaves the process in the locale C, in which Python decodes all text as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.mark.usefixtures("own_locale")
@pytest.mark.parametrize(("dtype", "low"), [(np.int16, -1000), (np.uint16, 0)])
def test_jpeg_lossless_from_gdcm(tmp_path: Path, dtype: Any, low: int) -> None:
    array = volume((40, 36, 3), low=low, dtype=dtype)
    folder = make_series(tmp_path / "plain", array, oblique())
    (tmp_path / "jpeg").mkdir()
    for file in folder.iterdir():
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.SetFileName(str(tmp_path / "jpeg" / file.name))
        writer.Execute(sitk.ReadImage(str(file)))
        image = dcmread(tmp_path / "jpeg" / file.name)
        original = dcmread(file, stop_before_pixels=True)
        image.ImagePositionPatient = original.ImagePositionPatient
        image.ImageOrientationPatient = original.ImageOrientationPatient
        image.PixelSpacing = original.PixelSpacing
        image.SeriesInstanceUID = original.SeriesInstanceUID
        image.SOPClassUID = original.SOPClassUID
        image.ImageType = original.ImageType
        assert image.file_meta.TransferSyntaxUID == JPEGLosslessSV1
        image.save_as(tmp_path / "jpeg" / file.name)
    np.testing.assert_array_equal(load_series(str(tmp_path / "jpeg")).array[0], array)


def test_unused_bits_are_ignored(tmp_path: Path) -> None:
    array = volume(low=-2000, high=2000)

    def soil(header: Dataset, index: int) -> None:
        header.BitsStored, header.HighBit = 12, 11
        pixels = np.frombuffer(header.PixelData, np.uint16) & 0x0FFF
        header.PixelData = (pixels | 0x5000).astype(np.uint16).tobytes()

    series = load_series(str(make_series(tmp_path, array, straight(), change=soil)))
    np.testing.assert_array_equal(series.array[0], array)


def setting(**values: Any) -> Any:
    def change(header: Dataset, index: int) -> None:
        for keyword, value in values.items():
            setattr(header, keyword, value)

    return change


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1 (low values are white)"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "in colour"),
        ({"HighBit": 14, "BitsStored": 12}, "start at bit 14 of 12"),
        ({"BitsAllocated": 12}, "12 bits per pixel"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaics"),
        ({"ModalityLUTSequence": [Dataset()]}, "ModalityLUTSequence"),
        ({"PixelData": b""}, "has no pixels"),
        ({"RescaleSlope": 1e308, "RescaleIntercept": 1e308}, "not finite"),
        ({"Rows": 600, "Columns": 600}, "of 720000 bytes of pixels"),
        ({"Rows": 65535, "Columns": 65535}, "GiB are allowed"),
    ],
)
def test_refused_pixels_are_named(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    make_series(tmp_path, volume(), straight(), series_uid="1.2.3", change=setting(**values))
    with pytest.raises(CaseError) as caught:
        load_series(f"{tmp_path}::1.2.3")
    assert words in str(caught.value)


def test_file_cut_in_its_pixels_is_refused(tmp_path: Path) -> None:
    folder = make_series(tmp_path, volume((64, 64, 5)), straight())
    content = (folder / "002.dcm").read_bytes()
    (folder / "002.dcm").write_bytes(content[:-1000])
    with pytest.raises(CaseError, match="truncated: it has 7192 of 8192 bytes"):
        load_series(str(folder))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_file_cut_in_its_pixels_is_refused(tmp_path: Path, syntax: str) -> None:
    folder = make_series(tmp_path, volume((64, 64, 3)), straight(), syntax=syntax)
    content = (folder / "001.dcm").read_bytes()
    (folder / "001.dcm").write_bytes(content[:-3000])
    with pytest.raises(CaseError, match="decoded|truncated"):
        load_series(str(folder))


def test_fewer_frames_than_declared_are_refused(tmp_path: Path) -> None:
    def cut(header: Dataset) -> None:
        header.PixelData = header.PixelData[: len(header.PixelData) // 2]

    make_enhanced(tmp_path / "object", volume((64, 64, 6)), straight(), change=cut)
    with pytest.raises(CaseError, match="bytes of pixels"):
        load_series(str(tmp_path))


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_code_stream_of_another_size_is_refused_before_decoding(
    tmp_path: Path, syntax: str
) -> None:
    folder = make_series(tmp_path, volume((40, 36, 2)), straight(), syntax=syntax)
    for file in folder.iterdir():
        content = file.read_bytes()
        wanted, claimed = {
            JPEGLSLossless: (struct.pack(">2H", 36, 40), struct.pack(">2H", 60000, 60000)),
            JPEG2000Lossless: (struct.pack(">2I", 40, 36), struct.pack(">2I", 1 << 20, 1 << 20)),
        }[UID(syntax)]
        place = content.index(wanted, content.index(b"\xe0\x7f\x10\x00"))
        file.write_bytes(content[:place] + claimed + content[place + len(wanted) :])
    with pytest.raises(CaseError, match="image of 40x36 pixels is encoded with"):
        load_series(str(folder))


def test_shape_in_code_streams() -> None:
    assert coded_shape(b"\x00\x01") is None
    assert coded_shape(b"\xff\x4f\xff\x51\x00") is None
    tables = b"\xff\xd8\xff\xdb\x00\x04\x01\x02\xff\xff\xc4\x00\x02"
    assert coded_shape(tables + b"\xff\xc3\x00\x0b\x10\x00\x05\x00\x07\x01") == (5, 7)


def test_size_limit_can_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(make_series(tmp_path, volume(), straight()))
    size = volume().nbytes
    with pytest.raises(CaseError, match="7x6x5 voxels"):
        load_series(folder, max_bytes=size - 1)
    assert load_series(folder, max_bytes=size).array.nbytes == size
    monkeypatch.setenv("DYNUNET_MAX_IMAGE_GIB", str((size - 1) / 2**30))
    with pytest.raises(CaseError, match="DYNUNET_MAX_IMAGE_GIB"):
        load_series(folder)
    monkeypatch.setenv("DYNUNET_MAX_IMAGE_GIB", "much")
    with pytest.raises(ConfigError, match="Set it to a positive number"):
        load_series(folder)


def test_unknown_transfer_syntax_is_named(tmp_path: Path) -> None:
    folder = make_series(tmp_path, volume((40, 36, 2)), straight(), syntax=RLELossless)
    for file in folder.iterdir():
        content = file.read_bytes()
        file.write_bytes(content.replace(b"1.2.840.10008.1.2.5\x00", b"1.2.840.10008.1.2.6\x00"))
    with pytest.raises(BundleError, match="transfer syntax"):
        load_series(str(folder))

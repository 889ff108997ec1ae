"""Slices to a grid, in any orientation and any order of files; irregular slices are refused with the reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from dynunet_bundle.errors import CaseError
from dynunet_bundle.images.simpleitk import sitk_affine

pytest.importorskip("pydicom")

from helpers.made_dicom import make_series, oblique, straight, volume
from pydicom import Dataset

from dynunet_bundle.dataset.dicom_cases import find_cases
from dynunet_bundle.dicom_input.series import load_series
from dynunet_bundle.images.grid import sheared_degrees

CORONAL = np.array([[-1.0, 0, 0, 9], [0, 0, 2, -30], [0, -1.5, 0, 7], [0, 0, 0, 1]])
SAGITTAL = np.array([[0, 0, -3.0, 9], [-1, 0, 0, -30], [0, -1.5, 0, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("affine", [straight(), oblique(), CORONAL, SAGITTAL])
def test_array_and_affine(tmp_path: Path, affine: np.ndarray, reverse: bool) -> None:
    array = volume()
    series = load_series(str(make_series(tmp_path, array, affine, reverse=reverse)))
    if np.linalg.det(affine) < 0:  # slices are counted along the normal, not as they were made
        array, affine = array[:, :, ::-1], affine @ flip(array.shape[2])
    assert series.array.dtype == np.int16
    np.testing.assert_array_equal(series.array[0], array)
    np.testing.assert_allclose(series.affine, affine, atol=1e-5)
    assert [header.InstanceNumber for header in series.headers] in (
        [1, 2, 3, 4, 5],
        [5, 4, 3, 2, 1],
    )
    for index, header in enumerate(series.headers):
        corner = np.array([-1, -1, 1]) * header.ImagePositionPatient
        np.testing.assert_allclose((series.affine @ [0, 0, index, 1])[:3], corner, atol=1e-5)
        assert "PixelData" not in header


def flip(depth: int) -> np.ndarray:
    """Number slices from the other end."""
    matrix = np.diag([1.0, 1.0, -1.0, 1.0])
    matrix[2, 3] = depth - 1
    return matrix


def test_agrees_with_gdcm_after_rescaling(tmp_path: Path) -> None:
    folder = make_series(
        tmp_path, volume(), oblique(), modality="CT", slopes=2.0, intercepts=-1024.0
    )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    series = load_series(str(folder))
    assert series.array.dtype == np.float32
    np.testing.assert_array_equal(
        series.array[0], sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.float32)
    )
    np.testing.assert_allclose(series.affine, sitk_affine(image), atol=1e-5)


def test_each_slice_has_its_own_rescaling(tmp_path: Path) -> None:
    array, slopes, intercepts = volume(), np.array([0.5, 1, 2, 0.25, 3]), np.arange(5.0)
    folder = make_series(tmp_path, array, straight(), slopes=slopes, intercepts=intercepts)
    expected = (array * slopes + intercepts).astype(np.float32)
    np.testing.assert_array_equal(load_series(str(folder)).array[0], expected)


def test_single_slice_has_the_thickness_of_its_header(tmp_path: Path) -> None:
    affine = straight()
    folder = make_series(tmp_path / "a", volume((7, 6, 1)), affine)
    np.testing.assert_allclose(load_series(str(folder)).affine, affine)
    bare = make_series(tmp_path / "b", volume((7, 6, 1)), affine, change=without("SliceThickness"))
    assert load_series(str(bare)).affine[2, 2] == 1.0


def without(keyword: str, only: int | None = None) -> Any:
    def change(header: Dataset, index: int) -> None:
        if only in (None, index):
            delattr(header, keyword)

    return change


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(CaseError) as caught:
        load_series(str(folder))
    for word in words:
        assert word in str(caught.value)
    assert "Doe" not in str(caught.value) and folder.name not in str(caught.value)


@pytest.mark.parametrize("degrees", [15.0, -3.0])
def test_tilted_gantry_is_refused_with_its_angle(tmp_path: Path, degrees: float) -> None:
    affine = straight()
    affine[1, 2] = np.tan(np.radians(degrees)) * affine[2, 2]
    refused(
        make_series(tmp_path / "folder_t", volume(), affine),
        f"{abs(degrees)} degrees",
        "gantry tilt",
    )


def test_tilted_gantry_is_read_on_demand(tmp_path: Path) -> None:
    affine = straight()
    affine[1, 2] = np.tan(np.radians(15)) * affine[2, 2]
    folder = make_series(tmp_path / "t", volume(), affine)
    (case,) = find_cases(folder, {"tilt": True})
    assert case["name"].endswith("_GantryTiltkept")
    series = load_series(case["image"])
    np.testing.assert_array_equal(series.array[0], volume())
    np.testing.assert_allclose(series.affine, affine, atol=1e-5)
    assert sheared_degrees(series.affine) == pytest.approx(15, abs=1e-3)


def test_uneven_tilt_is_refused(tmp_path: Path) -> None:
    def move(header: Dataset, index: int) -> None:
        x, y, z = header.ImagePositionPatient
        header.ImagePositionPatient = [x + 0.9 * (index == 2), y, z]

    folder = make_series(tmp_path / "t", volume(), straight(), change=move)
    (case,) = find_cases(folder, {"tilt": True})
    with pytest.raises(CaseError, match="sheared"):
        load_series(case["image"])


def test_gap_is_refused_with_its_position(tmp_path: Path) -> None:
    folder = make_series(
        tmp_path / "folder_g", volume(), oblique(), change=lambda header, index: index != 3
    )
    refused(folder, "1 missing slice after slice 3 of 4", "5.00 mm instead of 2.50 mm")


def test_gap_between_few_slices_is_refused(tmp_path: Path) -> None:
    folder = make_series(
        tmp_path / "folder_g",
        volume((4, 4, 4)),
        straight(),
        change=lambda header, index: index != 1,
    )
    refused(folder, "1 missing slice after slice 1 of 3")


def test_uneven_spacing_is_refused(tmp_path: Path) -> None:
    def move(header: Dataset, index: int) -> None:
        x, y, z = header.ImagePositionPatient
        header.ImagePositionPatient = [x, y, z + 0.5 * (index == 2)]

    folder = make_series(tmp_path / "folder_u", volume(), straight(), change=move)
    refused(folder, "slice 3 of 5", "0.50 mm")


def test_rounded_positions_pass(tmp_path: Path) -> None:
    def cut_digits(header: Dataset, index: int) -> None:
        header.ImagePositionPatient = [round(float(x), 1) for x in header.ImagePositionPatient]

    affine = straight((0.8, 1.1, 1.25))
    folder = make_series(tmp_path, volume((7, 6, 30)), affine, change=cut_digits)
    np.testing.assert_allclose(load_series(str(folder)).affine, affine, atol=0.05)


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("PixelSpacing", [1.2, 0.8], "different pixel spacings (0.8x1.2 and 0.8x1.1 mm)"),
        ("ImageOrientationPatient", [0, 1, 0, 1, 0, 0], "different orientations (90.0 degrees"),
        ("FrameOfReferenceUID", "1.2.3", "different frames of reference"),
        ("ImageOrientationPatient", [1, 0, 0, 0.1, 0.9, 0], "perpendicular unit vectors"),
        ("PixelSpacing", [0, 1], "PixelSpacing is [0.0, 1.0]"),
    ],
)
def test_mixed_series_is_refused(tmp_path: Path, keyword: str, value: Any, words: str) -> None:
    def spoil(header: Dataset, index: int) -> None:
        if index == 4:
            setattr(header, keyword, value)

    refused(
        make_series(tmp_path / "folder_m", volume((20, 20, 5)), straight(), change=spoil), words
    )


def test_mixed_sizes_are_refused(tmp_path: Path) -> None:
    uid, affine = "1.2.3.4", straight()
    folder = make_series(tmp_path / "folder_s", volume((7, 6, 3)), affine, series_uid=uid)
    affine[2, 3] += 7.5
    make_series(folder, volume((6, 6, 2)), affine, series_uid=uid, start=3)
    refused(folder, "different sizes (", "7x6", "6x6")


@pytest.mark.parametrize(
    "keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
)
def test_missing_geometry_is_named(tmp_path: Path, keyword: str) -> None:
    folder = make_series(tmp_path / "m", volume(), straight(), change=without(keyword, 2))
    with pytest.raises(ValueError, match=f"lacks {keyword}"):
        load_series(str(folder))
    uid = load_series(str(make_series(tmp_path / "whole", volume(), straight()))).headers[0]
    refused_name = f"{folder}::{uid.SeriesInstanceUID}"
    with pytest.raises(CaseError, match=f"lacks {keyword}"):
        load_series(refused_name)

"""Real series are read as by SimpleITK (GDCM); a missing slice is refused."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dynunet_bundle.errors import CaseError, DatasetError
from dynunet_bundle.images.simpleitk import sitk_affine

pytest.importorskip("pydicom")

from dynunet_bundle.dataset.dicom_cases import find_cases
from dynunet_bundle.dicom_input.series import load_series


def read_with_gdcm(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """``[X, Y, Z]`` and affine."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), sitk_affine(image)


def test_all_series_agree_with_gdcm(real_data: Path) -> None:
    folders = sorted(folder for folder in (real_data / "dicom").glob("Study*/*") if folder.is_dir())
    assert len(folders) == 4
    for folder in folders:
        series = load_series(str(folder))
        array, affine = read_with_gdcm(folder)
        assert series.array.dtype == array.dtype
        np.testing.assert_array_equal(series.array[0], array)
        np.testing.assert_allclose(series.affine, affine, atol=1e-6)


def test_missing_slice_is_refused(real_data: Path) -> None:
    with pytest.raises(CaseError, match=r"1 missing slice after slice 13 of 18.*6.00 mm"):
        load_series(str(real_data / "spoiled" / "dicom_missing_slice"))


def test_one_case_per_study_by_rules(real_data: Path) -> None:
    source = real_data / "dicom"
    cases = find_cases(source, {"image_type": "DERIVED"})
    assert [case["name"] for case in cases] == ["series_67ca2283", "series_bb62a595"]
    shapes = {load_series(case["image"]).array.shape for case in cases}
    assert shapes == {(1, 35, 51, 32), (1, 36, 48, 35)}
    assert find_cases(source, {"description": "^hippo", "min_slices": 30}) == cases


def test_ambiguous_study_lists_its_series(real_data: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        find_cases(real_data / "dicom" / "Study1")
    message = str(caught.value)
    assert "number 12, MR, axial, 22 images" in message
    assert "without a number, MR, axial, 32 images" in message
    assert "HCrop" not in message and "Study1" not in message

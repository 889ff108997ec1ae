"""Every format gives the same voxels at the same position."""

import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import save_nifti, save_picture
from scipy.spatial.transform import Rotation

from dynunet_bundle.errors import CaseError
from dynunet_bundle.images.read import read_channels, read_volume
from dynunet_bundle.inference.save_mask import save_mask

SHAPE = (7, 6, 5)
PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def numbered(*shape: int, dtype: Any = np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def oblique(seed: int) -> np.ndarray:
    """An affine with any rotation and either handedness."""
    rng = np.random.default_rng(seed)
    axes = Rotation.random(random_state=seed).as_matrix() @ np.diag(rng.choice([-1, 1], 3))
    affine = np.eye(4)
    affine[:3, :3] = axes @ np.diag(rng.uniform(0.4, 4, 3))
    affine[:3, 3] = rng.uniform(-40, 40, 3)
    return affine


def placed(array: np.ndarray, affine: np.ndarray, channels: bool = False) -> sitk.Image:
    """A SimpleITK image of ``[X, Y, Z]`` or, with channels, ``[C, X, Y, Z]`` with an affine in RAS+."""
    image = sitk.GetImageFromArray(array.T, isVector=channels)
    place = LPS @ affine
    spacing = np.linalg.norm(place[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((place[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(place[:3, 3].tolist())
    return image


# --- NIfTI


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ((7, 6), (1, 7, 6, 1)),
        ((7, 6, 5), (1, 7, 6, 5)),
        ((7, 6, 1), (1, 7, 6, 1)),
        ((7, 6, 5, 1), (1, 7, 6, 5)),
        ((7, 6, 5, 3), (3, 7, 6, 5)),
        ((7, 6, 1, 3), (3, 7, 6, 1)),
        ((7, 6, 5, 1, 3), (3, 7, 6, 5)),  # how ITK stores vectors
    ],
)
def test_nifti_of_any_dimension(tmp_path: Path, stored: tuple, expected: tuple):
    array = numbered(*stored)
    found, affine = read_volume(save_nifti(tmp_path / "a.nii.gz", array, oblique(1)))
    assert found.shape == expected
    assert found.dtype == np.int16
    channels = array.reshape(*expected[1:], expected[0])
    for index, channel in enumerate(found):
        np.testing.assert_array_equal(channel, channels[..., index])
    np.testing.assert_allclose(affine, oblique(1), atol=1e-5)


def test_nifti_values_are_scaled_as_the_header_says(tmp_path: Path):
    image = nib.Nifti1Image(numbered(*SHAPE), np.eye(4))
    image.header.set_slope_inter(0.5, -100)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(
        read_volume(tmp_path / "a.nii")[0][0], nib.load(tmp_path / "a.nii").get_fdata()
    )


@pytest.mark.parametrize(
    ("unit", "factor"), [("micron", 1e-3), ("meter", 1e3), ("mm", 1), ("unknown", 1)]
)
@pytest.mark.parametrize("suffix", ["nii.gz", "nii"])
def test_the_unit_of_a_header_is_honoured(tmp_path: Path, unit: str, factor: float, suffix: str):
    affine = oblique(3)
    image = nib.Nifti1Image(numbered(*SHAPE), affine)
    image.header.set_xyzt_units(unit, "sec")
    source = tmp_path / f"x.{suffix}"
    nib.save(image, source)
    found = read_volume(source).affine
    np.testing.assert_allclose(found[:3], factor * affine[:3], rtol=1e-5)
    # a mask has the unit of its image, and so its place
    mask = save_mask(torch.zeros(SHAPE, dtype=torch.uint8), source, tmp_path / "masks", "x")
    assert nib.load(mask).header.get_xyzt_units()[0] == unit
    np.testing.assert_allclose(read_volume(mask).affine, found, rtol=1e-6)


@pytest.mark.parametrize("suffix", ["nii.gz", "nii"])
@pytest.mark.parametrize("colours", ["RGB", "RGBA"])
def test_colours_are_channels(tmp_path: Path, suffix: str, colours: str):
    array = numbered(*SHAPE, len(colours), dtype=np.uint8)
    voxels = array.view([(colour, "u1") for colour in colours])[..., 0]
    path = tmp_path / f"x.{suffix}"
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    for slope in (1, 2):
        if suffix == "nii":
            raw = bytearray(path.read_bytes())
            raw[112:116] = struct.pack("<f", slope)  # NIfTI does not scale colours
            path.write_bytes(raw)
        found = read_volume(path).array
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, np.moveaxis(array, -1, 0))


@pytest.mark.parametrize("suffix", ["nii.gz", "nii"])
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_voxels_are_refused(tmp_path: Path, suffix: str, dtype: str):
    path = save_nifti(tmp_path / f"x.{suffix}", numbered(*SHAPE, dtype=dtype))
    with pytest.raises(CaseError, match=rf"case x: its voxels are complex numbers \({dtype}\)"):
        read_volume(path)


# --- the same position in every format


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_an_oblique_volume_has_nibabels_affine(tmp_path: Path, suffix: str, seed: int):
    array = numbered(*SHAPE)
    image = placed(array, oblique(seed))
    path, reference = tmp_path / f"a{suffix}", tmp_path / "reference.nii.gz"
    sitk.WriteImage(image, str(path))
    sitk.WriteImage(image, str(reference))
    expected = nib.load(reference)
    np.testing.assert_allclose(expected.affine, oblique(seed), atol=1e-5)  # our own arithmetic
    found, affine = read_volume(path)
    np.testing.assert_array_equal(found[0], np.asanyarray(expected.dataobj))
    np.testing.assert_allclose(affine, expected.affine, atol=1e-5)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_components_of_a_voxel_are_channels(tmp_path: Path, suffix: str):
    array = numbered(3, *SHAPE)
    sitk.WriteImage(placed(array, oblique(2), channels=True), str(tmp_path / f"a{suffix}"))
    found, affine = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(found, array)
    np.testing.assert_allclose(affine, oblique(2), atol=1e-5)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_fourth_axis_has_the_channels(tmp_path: Path, suffix: str):
    array = numbered(3, *SHAPE)
    image = sitk.JoinSeries([placed(channel, oblique(3)) for channel in array])
    assert image.GetDimension() == 4
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    found, affine = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(found, array)
    np.testing.assert_allclose(affine, oblique(3), atol=1e-5)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_flat_file_with_an_affine_is_a_volume_of_one_slice(tmp_path: Path, suffix: str):
    image = sitk.GetImageFromArray(numbered(6, 7).reshape(6, 7))
    image.SetSpacing((0.5, 2.0))
    image.SetOrigin((10.0, -20.0))
    image.SetDirection((0.0, -1.0, 1.0, 0.0))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    found, affine = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(found[0, ..., 0], numbered(6, 7).T)
    # x goes to posterior (LPS y) = -A, y to the right (LPS -x) = +R
    expected = [[0, 2.0, 0, -10], [-0.5, 0, 0, 20], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(affine, expected, atol=1e-6)


# --- pictures


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_grey_pictures(tmp_path: Path, suffix: str):
    picture = numbered(6, 7, dtype=np.uint8)
    found, affine = read_volume(save_picture(tmp_path / f"a{suffix}", picture))
    assert found.shape == (1, 7, 6, 1)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0, ..., 0], picture.T)
    np.testing.assert_array_equal(affine, PICTURE_AFFINE)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_colours_come_as_red_green_blue(tmp_path: Path, suffix: str):
    picture = np.zeros((6, 7, 3), np.uint8)
    picture[..., 0] = 200  # red
    picture[..., 1] = numbered(6, 7)
    picture[2, 3] = (1, 2, 3)
    found, affine = read_volume(save_picture(tmp_path / f"a{suffix}", picture))
    np.testing.assert_array_equal(found, picture.transpose(2, 1, 0)[..., np.newaxis])
    assert found[:, 3, 2, 0].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(affine, PICTURE_AFFINE)


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".png", np.uint16), (".tif", np.uint16), (".tif", np.float32)]
)
def test_deep_pictures_keep_their_values(tmp_path: Path, suffix: str, dtype: Any):
    picture = numbered(6, 7, dtype=dtype) * 1000
    found, _ = read_volume(save_picture(tmp_path / f"a{suffix}", picture))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[0, ..., 0], picture.T)


def test_a_resolution_for_printing_is_not_a_spacing(tmp_path: Path):
    picture = sitk.GetImageFromArray(numbered(6, 7, dtype=np.uint8))
    picture.SetSpacing((0.0847, 0.0847))  # 300 dots an inch
    sitk.WriteImage(picture, str(tmp_path / "a.tif"))
    assert sitk.ReadImage(str(tmp_path / "a.tif")).GetSpacing()[0] == pytest.approx(0.0847, 1e-3)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif")[1], PICTURE_AFFINE)


def test_pages_are_slices(tmp_path: Path):
    array = numbered(*SHAPE)
    sitk.WriteImage(sitk.GetImageFromArray(array.T), str(tmp_path / "a.tif"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif")[0][0], array)


def test_a_bmp_with_a_table_of_colours(tmp_path: Path):
    path = save_picture(tmp_path / "a.bmp", numbered(6, 7, dtype=np.uint8))
    content = bytearray(path.read_bytes())
    assert read_volume(path)[0].shape[0] == 1
    content[54 + 4 * 5 : 54 + 4 * 5 + 3] = (30, 20, 10)  # 5 stands for this blue, green, red
    path.write_bytes(content)
    found = read_volume(path)[0]
    assert found[:, 5, 0, 0].tolist() == [10, 20, 30]
    assert found[:, 6, 0, 0].tolist() == [6, 6, 6]


def test_a_bmp_of_24_bits_has_three_channels_whatever_its_colours(tmp_path: Path):
    # otherwise a grey case of a set of colour images would lose channels
    grey = np.repeat(numbered(6, 7, 1, dtype=np.uint8), 3, axis=2)
    assert read_volume(save_picture(tmp_path / "a.bmp", grey))[0].shape == (3, 7, 6, 1)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("missing", [5, 20, 100])
def test_a_bmp_that_ends_too_early(tmp_path: Path, colours: int, missing: int):
    picture = numbered(9, 11, colours, dtype=np.uint8).squeeze()
    path = save_picture(tmp_path / "a.bmp", picture)
    content = path.read_bytes()
    path.write_bytes(content[:-missing])
    with pytest.raises(OSError, match="truncated"):
        read_volume(path)


# --- channels in separate files


def channel_files(folder: Path, volumes: list[np.ndarray], affines: list[np.ndarray]) -> list[str]:
    return [
        str(save_nifti(folder / f"case_000{index}.nii.gz", volume, affine))
        for index, (volume, affine) in enumerate(zip(volumes, affines, strict=True))
    ]


def test_channels_in_separate_files_are_in_the_order_of_the_list(tmp_path: Path):
    array = numbered(3, *SHAPE)
    files = channel_files(tmp_path, list(array), [oblique(4)] * 3)
    (found, affine), headers = read_channels(files[::-1])
    np.testing.assert_array_equal(found, array[::-1])
    np.testing.assert_allclose(affine, oblique(4), atol=1e-5)
    assert [header.get_filename() for header in headers] == files[::-1]


def test_only_nifti_files_have_a_header_to_look_at(tmp_path: Path):
    array = numbered(*SHAPE)
    sitk.WriteImage(placed(array, np.eye(4)), str(tmp_path / "a_0001.nrrd"))
    files = [*channel_files(tmp_path, [array], [np.eye(4)]), str(tmp_path / "a_0001.nrrd")]
    (found, _), (first, second) = read_channels(files)
    np.testing.assert_array_equal(found, [array, array])
    assert first.header.get_data_shape() == SHAPE
    assert second is None


def moved(affine: np.ndarray, voxels: float) -> np.ndarray:
    other = affine.copy()
    other[:3, 3] += voxels * affine[:3, 0]
    return other


def test_channels_off_by_rounding_take_the_place_of_the_first(tmp_path: Path):
    volumes = list(numbered(2, *SHAPE))
    files = channel_files(tmp_path, volumes, [oblique(5), moved(oblique(5), 0.05)])
    np.testing.assert_allclose(read_channels(files)[0].affine, oblique(5), atol=1e-5)


def test_channels_without_a_volume_are_left_to_the_check(tmp_path: Path):
    flat = np.diag([1.0, 1.0, 0.0, 1.0])
    for channel in (0, 1):
        image = nib.Nifti1Image(numbered(*SHAPE), None)
        image.header.set_sform(flat, code=1)
        nib.save(image, tmp_path / f"case_000{channel}.nii")
    files = sorted(map(str, tmp_path.glob("*.nii")))
    (found, affine), _ = read_channels(files)
    assert found.shape == (2, *SHAPE)
    np.testing.assert_array_equal(affine, flat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda volume, affine: (volume[1:], affine), r"shapes \(7, 6, 5\) and \(6, 6, 5\)"),
        (lambda volume, affine: (volume, moved(affine, 2.0)), "2.0 voxels apart at a corner"),
        (lambda volume, affine: (volume, affine @ np.diag([1, 1, -1, 1])), "voxels apart"),
    ],
    ids=["shape", "place", "flip"],
)
def test_channels_on_different_grids_are_refused_by_name(tmp_path: Path, change: Any, message: str):
    first = numbered(*SHAPE)
    second, affine = change(first, oblique(5))
    files = channel_files(tmp_path, [first, first, second], [oblique(5), oblique(5), affine])
    with pytest.raises(CaseError, match=message) as info:
        read_channels(files)
    assert info.value.case == "case"
    assert "case_0000.nii.gz and case_0002.nii.gz" in info.value.problem


# --- real files


def test_real_modalities_on_different_grids_are_refused(real_data: Path):
    folder = real_data / "extra" / "open_ms_mismatched_grids" / "patient01"
    files = sorted(map(str, folder.glob("*.nii.gz")))
    assert len(files) == 3
    with pytest.raises(CaseError, match="channels are on different grids: study1_FLAIR") as info:
        read_channels(files)
    assert "have shapes" in str(info.value) or "voxels apart" in str(info.value)


@pytest.mark.parametrize(
    ("folder", "case"), [("pyradiomics_brain_lesion", "brain1"), ("pyradiomics_breast", "breast1")]
)
def test_real_nrrd_files_equal_their_nifti_twins(real_data: Path, folder: str, case: str):
    root = real_data / "extra" / folder
    for kind, twin in (("image", "imagesTr"), ("label", "labelsTr")):
        found, affine = read_volume(root / "orig" / f"{case}_{kind}.nrrd")
        expected, place = read_volume(root / twin / f"{case}.nii.gz")
        np.testing.assert_array_equal(found, expected)
        # metres of origin in float32 headers
        np.testing.assert_allclose(affine, place, atol=1e-3)


def test_a_real_picture_and_its_mask(real_data: Path):
    root = real_data / "extra" / "wbc_2d_rgb"
    image, affine = read_volume(root / "images" / "001.bmp")
    mask, place = read_volume(root / "labels" / "001.png")
    assert image.shape == (3, 120, 120, 1)
    assert mask.shape == (1, 120, 120, 1)
    assert set(np.unique(mask)) == {0, 128, 255}
    np.testing.assert_array_equal(affine, place)
    # nuclei are stained violet: less green than red and blue
    red, green, blue = (float(channel[mask[0] == 255].mean()) for channel in image)
    assert green < red < blue


def test_a_repaired_header_is_told_once_with_its_case(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "negative.nii"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.diag([1.0, 2.0, 3.0, 1.0])), path)
    raw = bytearray(path.read_bytes())
    raw[84:88] = struct.pack("<f", -2.0)
    raw[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(raw)
    for _ in range(2):
        assert np.allclose(np.abs(np.diag(read_volume(path).affine)), [1, 2, 3, 1])
    (told,) = caplog.messages
    assert told.startswith("case negative: its header is wrong: pixdim[1,2,3]")
    assert not capfd.readouterr().err

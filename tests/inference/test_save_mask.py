"""A mask has the name of its case, the format of its image, and the position of every voxel."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch
from conftest import save_nifti, save_picture
from monai.data import MetaTensor

from dynunet_bundle.errors import CaseError, OutputError
from dynunet_bundle.files import sha256_of
from dynunet_bundle.images.read import read_volume
from dynunet_bundle.inference.save_mask import SaveMaskd, save_mask

SHAPE = (6, 5, 4)


@pytest.fixture
def source(tmp_path):
    return save_nifti(tmp_path / "images" / "case.nii.gz", np.ones(SHAPE, np.float32))


def test_values_and_geometry_are_those_given(source, tmp_path):
    mask = torch.randint(0, 3, SHAPE)
    written = nib.load(save_mask(mask, source, tmp_path / "out", "case"))
    assert np.array_equal(np.asarray(written.dataobj), mask.numpy())


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(255, np.uint8), (300, np.uint16), (65_535, np.uint16), (70_000, np.int32)],
)
@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
def test_the_type_is_the_smallest_that_fits(source, tmp_path, largest, dtype, kind):
    mask = torch.zeros(SHAPE, dtype=kind)
    mask[0, 0, 0] = largest
    written = nib.load(save_mask(mask, source, tmp_path / "out", "case"))
    assert written.get_data_dtype() == dtype
    assert int(np.asarray(written.dataobj)[0, 0, 0]) == largest


def test_the_same_mask_gives_the_same_bytes(source, tmp_path):
    mask = torch.ones(SHAPE)
    first = save_mask(mask, source, tmp_path / "one", "case").read_bytes()
    assert save_mask(mask, source, tmp_path / "two", "case").read_bytes() == first
    assert gzip.decompress(first)


def test_a_mask_of_another_grid_is_refused_and_nothing_is_written(source, tmp_path):
    with pytest.raises(CaseError, match="case case: its mask has shape"):
        save_mask(torch.zeros(5, 5, 5), source, tmp_path / "out", "case")
    assert not list((tmp_path / "out").iterdir())


def test_the_image_is_never_replaced(source):
    before = source.read_bytes()
    with pytest.raises(OutputError, match="would replace the image itself"):
        save_mask(torch.zeros(SHAPE), source, source.parent, "case")
    assert source.read_bytes() == before


def test_uncompressed_and_4d_sources_give_a_compressed_3d_mask(tmp_path):
    path = save_nifti(tmp_path / "images" / "case.nii", np.ones((*SHAPE, 2), np.float32))
    written = save_mask(torch.zeros(SHAPE), path, tmp_path / "out", "case")
    assert written.name == "case.nii.gz"
    assert nib.load(written).shape == SHAPE


def test_a_source_without_form_codes_keeps_its_affine(tmp_path):
    image = nib.Nifti1Image(np.ones(SHAPE, np.float32), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header["sform_code"] = image.header["qform_code"] = 0
    path = tmp_path / "case.nii.gz"
    path.write_bytes(gzip.compress(image.to_bytes()))
    source = nib.load(path)
    written = nib.load(save_mask(torch.zeros(SHAPE), path, tmp_path / "out", "case"))
    assert np.array_equal(written.affine, source.affine)


def test_a_flat_nifti_gives_a_flat_mask(tmp_path):
    path = save_nifti(tmp_path / "images" / "case.nii.gz", np.ones((6, 5), np.float32))
    mask = torch.randint(0, 3, (6, 5, 1))
    written = nib.load(save_mask(mask, path, tmp_path / "out", "case"))
    assert written.shape == (6, 5)
    assert np.array_equal(np.asarray(written.dataobj), mask[..., 0].numpy())


# --- other formats

DIRECTION = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)


def volume(path: Path, channels: int = 1) -> Path:
    """An oblique volume of ``SHAPE`` with the name of a patient in its header."""
    shape = SHAPE[::-1] if channels == 1 else (*SHAPE[::-1], channels)
    image = sitk.GetImageFromArray(np.ones(shape, np.int16), isVector=channels > 1)
    image.SetSpacing((0.7, 0.8, 3.3))
    image.SetOrigin((-12.5, 40.25, 7.0))
    image.SetDirection(DIRECTION)
    image.SetMetaData("PatientName", "CANARY^NAME")
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def assert_same_place(mask: sitk.Image, source: sitk.Image) -> None:
    assert mask.GetSize() == source.GetSize()
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, what)() == pytest.approx(getattr(source, what)(), abs=1e-9)


@pytest.mark.parametrize(
    ("suffix", "written_suffix"),
    [
        (".nrrd", ".nrrd"),
        (".nhdr", ".nrrd"),
        (".mha", ".mha"),
        (".mhd", ".mha"),
        (".NRRD", ".nrrd"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_volume_keeps_its_format_and_place(tmp_path, suffix, written_suffix, channels):
    source = volume(tmp_path / "images" / f"x{suffix}", channels)
    mask = torch.randint(0, 3, SHAPE)
    written = save_mask(mask, source, tmp_path / "out", "case")
    # a single file, even if the source has several
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"case{written_suffix}"]
    image = sitk.ReadImage(str(written))
    assert image.GetPixelID() == sitk.sitkUInt8
    assert_same_place(image, sitk.ReadImage(str(source)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, mask.numpy())
    # our own reader gives the same
    found, affine = read_volume(written)
    np.testing.assert_array_equal(found[0], mask.numpy())
    np.testing.assert_allclose(affine, read_volume(source)[1], atol=1e-9)
    assert b"CANARY" not in written.read_bytes()


def test_a_series_of_volumes_gives_one_volume(tmp_path):
    one = sitk.ReadImage(str(volume(tmp_path / "one.mha")))
    source = tmp_path / "images" / "x.nrrd"
    source.parent.mkdir()
    sitk.WriteImage(sitk.JoinSeries([one, one]), str(source))
    mask = torch.randint(0, 3, SHAPE)
    image = sitk.ReadImage(str(save_mask(mask, source, tmp_path / "out", "case")))
    assert_same_place(image, one)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, mask.numpy())


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_flat_file_with_a_place_gives_a_flat_mask(tmp_path, suffix):
    source = sitk.GetImageFromArray(np.ones((5, 6), np.int16))
    source.SetSpacing((0.5, 2.0))
    source.SetOrigin((10.0, -20.0))
    source.SetDirection((0.0, -1.0, 1.0, 0.0))
    path = tmp_path / f"x{suffix}"
    sitk.WriteImage(source, str(path))
    mask = torch.randint(0, 3, (6, 5, 1))
    image = sitk.ReadImage(str(save_mask(mask, path, tmp_path / "out", "case")))
    assert_same_place(image, source)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, mask[..., 0].numpy())


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize(
    ("suffix", "written_suffix"),
    [(".png", ".png"), (".tif", ".tif"), (".tiff", ".tiff"), (".bmp", ".png")],
)
def test_a_picture_gives_a_grey_picture(tmp_path, suffix, written_suffix, colours):
    shape = (5, 6) if colours == 1 else (5, 6, colours)
    source = save_picture(tmp_path / "images" / f"x{suffix}", np.ones(shape, np.uint8))
    mask = torch.tensor([0, 128, 255])[torch.randint(0, 3, (6, 5, 1))].int()
    written = save_mask(mask, source, tmp_path / "out", "case")
    assert written == tmp_path / "out" / f"case{written_suffix}"
    image = sitk.ReadImage(str(written))
    assert (image.GetNumberOfComponentsPerPixel(), image.GetPixelID()) == (1, sitk.sitkUInt8)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, mask[..., 0].numpy())
    found, affine = read_volume(written)
    np.testing.assert_array_equal(found, mask[None].numpy())
    np.testing.assert_array_equal(affine, read_volume(source)[1])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_large_values_in_pictures(tmp_path, suffix):
    source = save_picture(tmp_path / "images" / f"x{suffix}", np.ones((5, 6), np.uint8))
    mask = torch.full((6, 5, 1), 300, dtype=torch.int32)
    assert read_volume(save_mask(mask, source, tmp_path / "out", "case"))[0].max() == 300


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".tif"])
def test_pages_and_slices_stay_in_order(tmp_path, suffix):
    source = tmp_path / "images" / f"x{suffix}"
    source.parent.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.ones(SHAPE[::-1], np.uint8)), str(source))
    mask = torch.arange(np.prod(SHAPE)).reshape(SHAPE)
    written = save_mask(mask, source, tmp_path / "out", "case")
    np.testing.assert_array_equal(read_volume(written)[0][0], mask.numpy())


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".png", ".tif"])
def test_the_same_mask_gives_the_same_bytes_in_every_format(tmp_path, suffix):
    source = save_picture(tmp_path / "images" / f"x{suffix}", np.ones((5, 6), np.uint8))
    mask = torch.randint(0, 3, (6, 5, 1))
    one, two = (save_mask(mask, source, tmp_path / out, "case") for out in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


# --- what goes wrong

SUFFIXES = (".nrrd", ".mha", ".png", ".tif", ".bmp")


def flat_source(tmp_path: Path, suffix: str) -> Path:
    return save_picture(tmp_path / "images" / f"case{suffix}", np.ones((5, 6), np.uint8))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("shape", [(5, 6, 1), (6, 5, 2), (6, 5)])
def test_another_grid_is_refused_in_every_format(tmp_path, suffix, shape):
    with pytest.raises(CaseError, match=r"case c: its mask has shape .*the file \(6, 5, 1\)"):
        save_mask(torch.zeros(shape), flat_source(tmp_path, suffix), tmp_path / "out", "c")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("suffix", [one for one in SUFFIXES if one != ".bmp"])
def test_no_image_of_any_format_is_replaced(tmp_path, suffix):
    source = flat_source(tmp_path, suffix)
    before = source.read_bytes()
    with pytest.raises(OutputError, match="would replace the image itself"):
        save_mask(torch.zeros(6, 5, 1), source, source.parent, "case")
    assert source.read_bytes() == before


@pytest.mark.parametrize("suffix", [".nii.gz", *SUFFIXES])
def test_a_failure_leaves_the_old_mask_and_nothing_half_written(tmp_path, suffix, monkeypatch):
    if suffix == ".nii.gz":
        source = save_nifti(tmp_path / "images" / "case.nii.gz", np.ones((6, 5, 1), np.uint8))
    else:
        source = flat_source(tmp_path, suffix)
    out = tmp_path / "out"
    written = save_mask(torch.ones(6, 5, 1), source, out, "case")
    before = written.read_bytes()

    def fail(*arguments: object, **settings: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dynunet_bundle.files.os.fsync", fail)
    with pytest.raises(OutputError, match="No space left on device"):
        save_mask(torch.zeros(6, 5, 1), source, out, "case")
    assert [path.name for path in out.iterdir()] == [written.name]
    assert written.read_bytes() == before


# --- the transform


def predicted(source: Path, shape: tuple[int, ...] = (1, *SHAPE)) -> MetaTensor:
    return MetaTensor(torch.ones(shape), meta={"filename_or_obj": str(source)})


def test_the_mask_has_the_name_of_the_case(tmp_path):
    source = save_nifti(tmp_path / "images" / "a_0000.nii.gz", np.ones(SHAPE, np.float32))
    save = SaveMaskd("pred", str(tmp_path / "out"))
    data = {"pred": predicted(source), "name": "a"}
    saved = save(data)
    assert saved["pred"] is data["pred"] and saved["name"] == "a"
    file = tmp_path / "out" / saved["saved"]["file"]
    assert file.name == "a.nii.gz" and saved["saved"]["sha256"] == sha256_of(file)
    save({"pred": predicted(source)})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.nii.gz",
        "a_0000.nii.gz",
    ]


def test_the_mask_of_a_picture_by_the_transform(tmp_path):
    source = flat_source(tmp_path, ".png")
    SaveMaskd("pred", str(tmp_path / "out"))({"pred": predicted(source, (1, 6, 5, 1))})
    assert read_volume(tmp_path / "out" / "case.png")[0].shape == (1, 6, 5, 1)


def test_real_files_of_other_formats_keep_their_place(real_data, tmp_path):
    extra = real_data / "extra"
    sources = [
        extra / "pyradiomics_breast" / "orig" / "breast1_image.nrrd",
        extra / "wbc_2d_rgb" / "images" / "001.bmp",
        extra / "em_2d_grey" / "images" / "00.png",
    ]
    for source in sources:
        array, affine = read_volume(source)
        mask = torch.zeros(array.shape[1:])
        mask[3:9, 2:5] = 1
        found, place = read_volume(save_mask(mask, source, tmp_path / "out", source.stem))
        np.testing.assert_array_equal(found[0], mask.numpy())
        np.testing.assert_allclose(place, affine, atol=1e-9)

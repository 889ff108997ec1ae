"""Results of MONAI's LoadImaged with the reader."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import save_nifti
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from dynunet_bundle.errors import CaseError, DatasetError, find_user_error
from dynunet_bundle.preprocessing.reader import ImageFileReader

SHAPE = (7, 6, 5)
OBLIQUE = np.array([[0.8, -0.3, 0, -40], [0.3, 0.8, 0, 25], [0, 0, 3, 7], [0, 0, 0, 1]], float)

LOAD = Compose([LoadImaged(("image", "label"), reader=ImageFileReader, allow_missing_keys=True)])


def numbered(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(np.int16)


def channel_files(folder: Path, volumes: list[np.ndarray]) -> list[str]:
    return [
        str(save_nifti(folder / f"case_000{index}.nii.gz", volume, OBLIQUE))
        for index, volume in enumerate(volumes)
    ]


def test_what_monai_makes_of_it(tmp_path: Path):
    path = save_nifti(tmp_path / "a.nii.gz", numbered(*SHAPE), OBLIQUE)
    image = LOAD({"image": str(path)})["image"]
    assert isinstance(image, MetaTensor)
    assert image.dtype == torch.float32
    # not converted from LPS+ a second time
    np.testing.assert_allclose(np.asarray(image.affine), nib.load(path).affine, atol=1e-6)
    np.testing.assert_allclose(image.meta["original_affine"], nib.load(path).affine, atol=1e-6)
    assert image.meta["filename_or_obj"] == str(path)
    # channels are already first, and EnsureChannelFirst detects that
    again = EnsureChannelFirstd("image")({"image": image})["image"]
    assert again.shape == image.shape == (1, *SHAPE)


@pytest.mark.parametrize("name", ["", "."])
def test_an_image_without_a_path_is_not_read_from_the_current_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="there is no image of that name"):
        LoadImaged("image", reader=ImageFileReader)({"image": name})


def test_monai_label_reads_no_image_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", numbered(*SHAPE))
    monkeypatch.chdir(tmp_path)
    load = LoadImaged("image", reader=ImageFileReader)
    assert load({"image": "a.nii.gz"})["image"].shape == (1, *SHAPE)
    monkeypatch.setitem(sys.modules, "monailabel", ModuleType("monailabel"))
    with pytest.raises(DatasetError, match='"a.nii.gz" is not among the studies'):
        load({"image": "a.nii.gz"})
    assert load({"image": str(path)})["image"].shape == (1, *SHAPE)


def test_channels_are_not_taken_for_an_axis_by_monai(tmp_path: Path):
    path = save_nifti(tmp_path / "a.nii.gz", numbered(7, 6, 5, 2))
    image = EnsureChannelFirstd("image")(LOAD({"image": str(path)}))["image"]
    assert image.shape == (2, *SHAPE)


def test_the_error_of_the_reader_arrives_through_monai(tmp_path: Path):
    files = channel_files(tmp_path, [np.ones(SHAPE), np.ones((7, 6, 4))])
    with pytest.raises(RuntimeError) as info:
        LOAD({"image": files})
    assert isinstance(find_user_error(info.value), CaseError)


@pytest.mark.parametrize(
    ("names", "known"),
    [
        ("a.nii.gz", True),
        (("a.png", "b.PNG"), True),
        ([Path("a.mha")], True),
        (("a.png", "b.dcm"), False),
        ("a.jpg", False),
    ],
)
def test_known_suffixes(names: Any, known: bool):
    assert ImageFileReader().verify_suffix(names) is known


def test_channels_in_files_of_their_own_equal_one_file(tmp_path: Path):
    array = numbered(3, *SHAPE)
    files = channel_files(tmp_path, list(array))
    together = save_nifti(tmp_path / "case.nii.gz", np.moveaxis(array, 0, -1), OBLIQUE)
    apart, whole = (LOAD({"image": image})["image"] for image in (files, str(together)))
    np.testing.assert_array_equal(apart.numpy(), array)
    np.testing.assert_array_equal(apart.numpy(), whole.numpy())
    np.testing.assert_array_equal(np.asarray(apart.affine), np.asarray(whole.affine))
    assert apart.meta["filename_or_obj"] == files[0]
    # the order is that of the list
    swapped = LOAD({"image": files[::-1]})["image"]
    np.testing.assert_array_equal(swapped.numpy(), array[::-1])


def test_big_endian_nifti(tmp_path: Path):
    array = numbered(*SHAPE)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(array, np.eye(4), header), tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == b"\x00\x00\x01\x5c"  # the same object
    loaded = LOAD({"image": str(tmp_path / "a.nii")})["image"]
    np.testing.assert_array_equal(loaded.numpy()[0], array)

"""The voxel size of TIFF volumes, which nnU-Net keeps in a JSON file beside them."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from dynunet_bundle.errors import CaseError
from dynunet_bundle.images.read import read_volume
from dynunet_bundle.inference.save_mask import save_mask


def tiff(path: Path, num_slices: int = 3) -> Path:
    voxels = np.arange(num_slices * 20, dtype=np.uint8).reshape(num_slices, 4, 5)
    sitk.WriteImage(sitk.GetImageFromArray(voxels if num_slices > 1 else voxels[0]), str(path))
    return path


def spacing_of(path: Path) -> list[float]:
    return np.abs(np.diag(read_volume(path).affine))[:3].tolist()


@pytest.mark.parametrize("name", ["cell.6_0000.tif", "cell.6_0001.tif", "cell.6.tiff"])
def test_the_spacing_is_that_of_the_json_beside_the_volume(name: str, tmp_path: Path) -> None:
    image = tiff(tmp_path / name)
    assert spacing_of(image) == [1, 1, 1]
    (tmp_path / "cell.6.json").write_text(json.dumps({"spacing": [7.5, 0.5, 0.25]}))
    # the file says z, y, x
    assert spacing_of(image) == [0.25, 0.5, 7.5]
    mask = save_mask(torch.ones(5, 4, 3), image, tmp_path / "masks", "cell.6")
    assert spacing_of(mask) == [0.25, 0.5, 7.5]


def test_pictures_and_other_json_files_leave_1_mm(tmp_path: Path) -> None:
    picture = tiff(tmp_path / "a_0000.tif", num_slices=1)
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [7, 1, 1]}))
    assert spacing_of(picture) == [1, 1, 1]
    volume = tiff(tmp_path / "dataset.tif")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {}}))
    assert spacing_of(volume) == [1, 1, 1]
    save_mask(torch.ones(5, 4, 3), volume, tmp_path / "masks", "dataset")
    assert not list((tmp_path / "masks").glob("*.json"))


@pytest.mark.parametrize("text", ['{"spacing": [1, 0, 1]}', '{"spacing": 3}', "{", "[]"])
def test_a_malformed_spacing_is_refused_by_name(text: str, tmp_path: Path) -> None:
    volume = tiff(tmp_path / "a_0000.tif")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CaseError, match=r'a\.json beside it is malformed.*"spacing": \[z, y, x\]'):
        read_volume(volume)

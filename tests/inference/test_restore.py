import gzip

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import save_nifti

from dynunet_bundle.errors import CaseError, OutputError
from dynunet_bundle.inference.restore import save_mask

SHAPE = (6, 5, 4)


@pytest.fixture
def source(tmp_path):
    return save_nifti(tmp_path / "images" / "case.nii.gz", np.ones(SHAPE, np.float32))


def test_values_and_geometry_are_those_given(source, tmp_path):
    mask = torch.randint(0, 3, SHAPE)
    written = nib.load(save_mask(mask, source, tmp_path / "out"))
    assert np.array_equal(np.asarray(written.dataobj), mask.numpy())


def test_the_type_is_the_smallest_that_fits(source, tmp_path):
    mask = torch.zeros(SHAPE, dtype=torch.int64)
    mask[0, 0, 0] = 300
    written = nib.load(save_mask(mask, source, tmp_path / "out"))
    assert written.get_data_dtype() == np.uint16
    assert int(np.asarray(written.dataobj)[0, 0, 0]) == 300


def test_the_same_mask_gives_the_same_bytes(source, tmp_path):
    mask = torch.ones(SHAPE)
    first = save_mask(mask, source, tmp_path / "one").read_bytes()
    assert save_mask(mask, source, tmp_path / "two").read_bytes() == first
    assert gzip.decompress(first)


def test_a_mask_of_another_grid_is_refused_and_nothing_is_written(source, tmp_path):
    with pytest.raises(CaseError, match="case case: its mask has shape"):
        save_mask(torch.zeros(5, 5, 5), source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_the_image_is_never_replaced(source):
    before = source.read_bytes()
    with pytest.raises(OutputError, match="would replace the image itself"):
        save_mask(torch.zeros(SHAPE), source, source.parent)
    assert source.read_bytes() == before


def test_uncompressed_and_4d_sources_give_a_compressed_3d_mask(tmp_path):
    path = save_nifti(tmp_path / "images" / "case.nii", np.ones((*SHAPE, 2), np.float32))
    written = save_mask(torch.zeros(SHAPE), path, tmp_path / "out")
    assert written.name == "case.nii.gz"
    assert nib.load(written).shape == SHAPE


def test_a_source_without_form_codes_keeps_its_affine(tmp_path):
    image = nib.Nifti1Image(np.ones(SHAPE, np.float32), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header["sform_code"] = image.header["qform_code"] = 0
    path = tmp_path / "case.nii.gz"
    path.write_bytes(gzip.compress(image.to_bytes()))
    source = nib.load(path)
    written = nib.load(save_mask(torch.zeros(SHAPE), path, tmp_path / "out"))
    assert np.array_equal(written.affine, source.affine)

"""A series without its pixels has the grid and the headers, and takes no memory for voxels."""

from pathlib import Path

import numpy as np
from helpers.made_dicom import make_series, oblique, volume

from dynunet_bundle.dicom_input.series import load_series


def test_grid_and_headers_are_those_of_the_whole_series(tmp_path: Path) -> None:
    make_series(tmp_path, volume(), oblique(), modality="CT", slopes=2.0)
    whole, grid = load_series(str(tmp_path)), load_series(str(tmp_path), with_pixels=False)

    assert grid.array.shape == whole.array.shape
    assert grid.array.dtype == whole.array.dtype
    assert np.array_equal(grid.affine, whole.affine)
    assert grid.headers == whole.headers
    assert grid.frame_numbers == whole.frame_numbers


def test_voxels_take_no_memory(tmp_path: Path) -> None:
    make_series(tmp_path, volume(), oblique())

    array = load_series(str(tmp_path), with_pixels=False).array

    assert not any(array.strides[1:])

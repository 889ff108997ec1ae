"""A folder without masks, or of images, gets no page."""

from pathlib import Path

import numpy as np
import pytest
from conftest import run_script, save_nifti, save_picture

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.report.content import require_masks

RNG = np.random.default_rng(0)
SHAPE = (24, 20, 8)
MANY = np.zeros((104, 20, 8), np.uint8)
MANY[:] = np.arange(104)[:, None, None]


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (RNG.normal(100, 20, SHAPE).astype(np.float32), "not whole numbers"),
        (RNG.integers(-1000, 1000, SHAPE).astype(np.int16), "not whole numbers from 0"),
        (RNG.integers(0, 255, SHAPE).astype(np.uint8), "different values"),
    ],
)
def test_images_are_not_masks(tmp_path: Path, values: np.ndarray, fault: str) -> None:
    save_nifti(tmp_path / "case.nii.gz", values)
    done = run_script("report", tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert "is not a folder of masks" in done.stderr and fault in done.stderr
    assert "--output_dir of predict" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["case.nii.gz"]


def test_colour_pictures_and_empty_folders_are_not_masks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no masks"):
        require_masks(tmp_path)
    save_picture(tmp_path / "cell.png", RNG.integers(0, 255, (20, 24, 3)).astype(np.uint8))
    with pytest.raises(ConfigError, match="3 channels"):
        require_masks(tmp_path)


@pytest.mark.parametrize(
    "values", [np.zeros(SHAPE, np.uint8), np.repeat(np.repeat(MANY, 2, 0), 2, 1), MANY[:60]]
)
def test_masks_without_a_record_are_shown(tmp_path: Path, values: np.ndarray) -> None:
    save_nifti(tmp_path / "case.nii.gz", values)
    require_masks(tmp_path)

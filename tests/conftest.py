"""What tests share: made data, the real data where it is present, and the real configs with a tiny plan."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from dynunet_bundle.workflow import load_workflow

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
REAL_DATA = ROOT.parent / "shared" / "data"

torch.set_num_threads(1)

TINY = {
    "filters": [4, 8, 16],
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "patch_size": [16, 16, 16],
    "spacing": [2.0, 2.0, 2.0],
    "label_names": ["background", "head", "tail"],
    "num_folds": 3,
    "epochs": 2,
    "iterations_per_epoch": 2,
    "val_interval": 1,
    "num_workers": 1,
}
"""Overrides of train.json that train on the phantom in a second."""


def run_script(name: str, *arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run ``scripts/NAME.py`` as a user does."""
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and two test phantoms in MSD layout; do not change them."""
    folder = tmp_path_factory.mktemp("data") / "Task99_Phantom"
    result = run_script("make_phantom", "--out", folder, "--num_cases", "6", "--num_test", "2")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def own_phantom(phantom: Path, tmp_path: Path) -> Path:
    """A copy of the phantom data that a test may spoil."""
    return Path(shutil.copytree(phantom, tmp_path / "Task99_Phantom"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real cases; skips where it is absent."""
    if not (REAL_DATA / "Task04_Hippocampus").is_dir():
        pytest.skip("the real cases (shared/data beside the repository) are not here")
    return REAL_DATA


@pytest.fixture
def train_workflow(phantom: Path, tmp_path: Path) -> Callable[..., ConfigWorkflow]:
    """Load train.json (or an overlay of it) with the tiny plan on the phantom: ``train_workflow(epochs=1)``."""

    def load(*overlays: str, dataset_dir: Path = phantom, **overrides: Any) -> ConfigWorkflow:
        settings = {
            **TINY,
            "dataset_dir": str(dataset_dir),
            "device": "cpu",
            "ckpt_dir": str(tmp_path / "models"),
            "output_dir": str(tmp_path / "run"),
            "prepared_dir": str(tmp_path / "prepared"),
            **overrides,
        }
        return load_workflow(BUNDLE, "train.json", overlays, settings)

    return load


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write an array as NIfTI and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path

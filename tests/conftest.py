"""What tests share: made data, the real data where it is present, and the real configs with a tiny plan."""

import json
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.forked import ForkServer
from monai.bundle import ConfigWorkflow

from dynunet_bundle.configs.workflow import load_workflow

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


def tiny_plan(dims: int) -> dict[str, Any]:
    """The ids of ``TINY`` that hang on the dimension, for 2D or 3D."""
    return {
        "spatial_dims": dims,
        "patch_size": [16] * dims,
        "spacing": [2.0] * dims,
        "kernel_sizes": [[3] * dims] * 3,
        "strides": [[1] * dims] + [[2] * dims] * 2,
    }


fork_server = ForkServer()


def run_script(name: str, *arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run ``scripts/NAME.py`` as a user does, with the settings of ``ForkServer.run``."""
    return fork_server.run([f"{ROOT}/scripts/{name}.py", *map(str, arguments)], **kwargs)


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and two test phantoms in MSD layout; do not change them."""
    folder = tmp_path_factory.mktemp("data") / "Task99_Phantom"
    result = run_script(
        "make_phantom", "--output_dir", folder, "--num_cases", "6", "--num_test", "2"
    )
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
        return load_workflow(BUNDLE, "train.json", overlays, settings=settings, trust=True)

    return load


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set in MSD layout of empty files; keywords replace keys of dataset.json, None takes one out."""

    def make(num_cases: int = 3, **changes: Any) -> Path:
        root = tmp_path / "Task77_Thing"
        numbers = reversed(range(num_cases))  # the order in the file is not the order of cases
        training = [
            {"image": f"./imagesTr/t_{i:02d}.nii.gz", "label": f"./labelsTr/t_{i:02d}.nii.gz"}
            for i in numbers
        ]
        content = {
            "modality": {"1": "T1w", "0": "FLAIR"},
            "labels": {"0": "background", "1": "edema", "2": "tumour"},
            "training": training,
            "test": ["./imagesTs/t_91.nii.gz", "./imagesTs/t_90.nii.gz"],
        }
        for files in training:
            touch(root, *files.values())
        touch(root, *content["test"])
        content = {k: v for k, v in (content | changes).items() if v is not None}
        (root / "dataset.json").write_text(json.dumps(content))
        return root

    return make


def touch(folder: Path, *names: str) -> Path:
    """Make empty files in a folder, with folders of their own where they name some; give the last."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder / names[-1]


def save_picture(path: Path, array: np.ndarray) -> Path:
    """Write an array ``[y, x]`` or ``[y, x, colour]`` as PNG, BMP or TIFF and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=array.ndim > 2), str(path))
    return path


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write an array as NIfTI and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def start(
    train_workflow: Callable[..., ConfigWorkflow], store: Path, tmp_path: Path
) -> Callable[..., ConfigWorkflow]:
    """``start("folder", epochs=4)``: a fresh workflow of three epochs with its files in that folder."""

    def fresh(folder: str = "models", overlays: str = "train", **overrides: Any) -> ConfigWorkflow:
        settings = {"epochs": 3, "iterations_per_epoch": 2, **overrides}
        files = {"train": (), "quick": (str(BUNDLE / "configs" / "quick.json"),)}
        folders = {"ckpt_dir": tmp_path / folder, "output_dir": tmp_path / f"{folder}_run"}
        return train_workflow(
            *files[overlays],
            prepared_dir=str(store),
            **{key: str(value) for key, value in folders.items()},
            **settings,
        )

    return fresh


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """caplog that survives the bundle's logging.conf, which replaces the handlers of the root logger."""
    logger = logging.getLogger("dynunet_bundle")
    caplog.set_level(logging.INFO, "dynunet_bundle")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)

"""nnU-Net itself, of the environment of ``make peers``, predicts with exported models: run by ``make test-peers``."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import BUNDLE, ROOT, run_script
from helpers.saved_models import FLAT, REGIONS, TWO_D, save_model

from dynunet_bundle.nnunet.exporting import NnunetExportRequest, NnunetFolder, export_nnunet

pytestmark = pytest.mark.peers

PEERS = Path(os.environ.get("DYNUNET_PEERS", ROOT / ".venv-peers"))
"""The environment with nnU-Net."""

MIRRORED = {"facts": {"mirror_axes": [0, 2]}}
MODELS: dict[str, dict[str, Any]] = {
    "plain, mirrored": MIRRORED,
    "kernels that differ, coronal first": {
        "architecture": "PlainConvUNet",
        "kernel_sizes": FLAT,
        "axcodes": "ASR",
    },
    "residual, CT": {
        "architecture": "ResidualEncoderUNet",
        "normalization": ["ct"],
        "intensity_statistics": [{"lower": 0.0, "upper": 1000.0, "mean": 300.0, "std": 200.0}],
    },
    "2d, mirrored, axes as stored": {**TWO_D, "axcodes": "yzx", "facts": {"mirror_axes": [1]}},
    "regions, batch norm": {**REGIONS, "norm_name": ["BATCH", {"affine": True}]},
    "component rules": {"facts": {"mirror_axes": [], "keep_largest": [[1, 2], [2]]}},
    "cascade": {"cascade": True},
}
SHARE = 0.9995
"""Smallest share of equal voxels: nnU-Net adds up windows in float16, so that ties differ."""


@pytest.fixture(scope="module")
def commands() -> Path:
    if not (PEERS / "bin" / "nnUNetv2_predict_from_modelfolder").is_file():
        pytest.skip(f"nnU-Net is not in {PEERS}: run make peers")
    return PEERS / "bin"


def run_nnunet(commands: Path, name: str, *arguments: str | Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [commands / name, *map(str, arguments)],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def masks_of_nnunet(
    commands: Path, written: NnunetFolder, images: Path, output: Path, *options: str | Path
) -> Path:
    run_nnunet(
        commands,
        "nnUNetv2_predict_from_modelfolder",
        *("-i", images, "-o", output, "-m", written.folder, "-f", *written.folds),
        *("-device", "cpu", "-npp", "1", "-nps", "1", "--disable_progress_bar", *options),
    )
    if not written.has_rules:
        return output
    final = output.with_name("final")
    run_nnunet(
        commands,
        "nnUNetv2_apply_postprocessing",
        *("-i", output, "-o", final, "-pp_pkl_file", written.folder / "postprocessing.pkl"),
        *("-plans_json", written.folder / "plans.json"),
        *("-dataset_json", written.folder / "dataset.json", "-np", "1"),
    )
    return final


def require_equal_masks(ours: Path, theirs: Path) -> None:
    files = sorted(theirs.glob("*.nii.gz"))
    assert files and len(files) == len(list(ours.glob("*.nii.gz")))
    for file in files:
        one, other = (nib.load(path) for path in (ours / file.name, file))
        masks = [np.asarray(image.dataobj) for image in (one, other)]
        np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
        assert masks[0].shape == masks[1].shape
        assert len(np.unique(masks[1])) > 1
        assert (masks[0] == masks[1]).mean() >= SHARE, file.name


@pytest.fixture(scope="module")
def images(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms by nnU-Net's names, one stored in another orientation."""
    folder = tmp_path_factory.mktemp("images")
    for number, file in enumerate(sorted((phantom / "imagesTs").glob("*.nii.gz"))):
        image = nib.load(file)
        turned = image.as_reoriented(np.array([[1, -1], [0, 1], [2, 1]])) if number else image
        nib.save(turned, folder / f"{file.name.removesuffix('.nii.gz')}_0000.nii.gz")
    return folder


@pytest.mark.parametrize("kind", MODELS)
def test_masks_of_an_exported_model(
    kind: str, commands: Path, images: Path, tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model.pt", **MODELS[kind])
    if kind == "cascade":
        save_model(tmp_path / "previous_stage" / "model.pt", 1)
    written = export_nnunet(NnunetExportRequest(BUNDLE, model, tmp_path / "nnunet"))
    arguments: list[str | Path] = ["--precision", "float32"]
    options: list[str | Path] = []
    if "mirrored" in kind:
        arguments.append("--tta")
    else:
        options.append("--disable_tta")
    if written.previous:
        low = tmp_path / "low"
        masks = masks_of_nnunet(commands, written.previous, images, low, "--disable_tta")
        options += ["-prev_stage_predictions", masks]
    theirs = masks_of_nnunet(commands, written, images, tmp_path / "theirs", *options)
    done = run_script(
        "predict",
        *("--input", images, "--output_dir", tmp_path / "ours", "--model", model, *arguments),
    )
    assert done.returncode == 0, done.stderr
    require_equal_masks(tmp_path / "ours", theirs)


def test_masks_of_the_weights_of_the_bundle(
    commands: Path, real_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for file in sorted((real_data / "Task04_Hippocampus" / "imagesTr").glob("*.nii.gz"))[:5]:
        shutil.copy(file, folder / f"{file.name.removesuffix('.nii.gz')}_0000.nii.gz")
    weights = BUNDLE / "models" / "model.pt"
    written = export_nnunet(NnunetExportRequest(BUNDLE, weights, tmp_path / "nnunet"))
    theirs = masks_of_nnunet(commands, written, folder, tmp_path / "theirs")
    done = run_script(
        "predict",
        *("--input", folder, "--output_dir", tmp_path / "ours", "--precision", "float32"),
    )
    assert done.returncode == 0, done.stderr
    require_equal_masks(tmp_path / "ours", theirs)

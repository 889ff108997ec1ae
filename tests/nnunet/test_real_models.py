"""Masks of imported models against nnU-Net's own, for models that nnU-Net 2.8.1 trained."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import run_script

MODELS = {
    "3d of two folds": ("01_3d_plain", "model", "masks_notta", ()),
    "3d of fold 1": ("01_3d_plain", "model", "masks_notta_fold1", ("--folds", "1")),
    "kernels that differ, two channels": ("02_3d_aniso_2ch", "model", "masks_notta", ()),
    "2d on volumes": ("03_2d_on_3d", "model", "masks_notta", ()),
    "2d colour": ("04_2d_rgb_zscore", "model", "masks_notta", ()),
    "residual encoder": ("05_3d_resenc", "model", "masks_notta", ()),
    "low resolution": ("06_3d_cascade", "model_lowres", "masks_lowres_notta", ()),
    "cascade": ("06_3d_cascade", "model", "masks_notta", ()),
    "regions": ("07_3d_regions", "model", "masks_notta", ()),
    "CT, reoriented": ("09_ct_nomirror_reorient", "model", "masks_notta", ()),
    "zip": ("11_zip", "model.zip", "masks_3d_fullres", ("--configuration", "3d_fullres")),
    "zip, 2d": ("11_zip", "model.zip", "masks_2d", ("--configuration", "2d")),
}
MIRRORED = {name for name in MODELS if name.startswith("zip")}
"""Models whose masks were predicted with mirroring."""

SHARE, DICE = 0.999, 0.999
"""Smallest share of equal voxels and Dice of each class. nnU-Net adds up in float16, so ties differ."""

TIES = 2
"""Unequal voxels of a class that count as ties where so few are more than the share: a class of 350 voxels."""


@pytest.fixture
def models(real_data: Path) -> Path:
    folder = real_data / "nnunet_models"
    if not folder.is_dir():
        pytest.skip("the models of nnU-Net (shared/data/nnunet_models) are not here")
    return folder


def require_equal(ours: Path, theirs: Path) -> None:
    one, other = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (ours, theirs))
    assert one.shape == other.shape
    assert (one == other).mean() >= SHARE, ours.name
    classes = [value for value in np.unique(other) if value]
    assert classes
    for value in classes:
        unequal = ((one == value) != (other == value)).sum()
        sizes = (one == value).sum() + (other == value).sum()
        assert unequal <= TIES or 1 - unequal / sizes >= DICE, (ours.name, value)


def predict(models: Path, tmp_path: Path, name: str, masks: str, *options: str | Path) -> None:
    folder, model, _, choice = MODELS[name]
    done = run_script(
        "import_nnunet",
        *(
            "--model",
            models / folder / model,
            "--output_dir",
            tmp_path,
            "--name",
            "model_mr_any",
            *choice,
        ),
    )
    assert done.returncode == 0, done.stderr
    done = run_script(
        "predict",
        *("--model", tmp_path / "model_mr_any", "--input", models / folder / "images"),
        *("--output_dir", tmp_path / "masks", "--precision", "float32", *options),
    )
    assert done.returncode == 0, done.stderr
    expected = sorted(path for path in (models / folder / masks).iterdir() if path.name[0] != ".")
    expected = [path for path in expected if path.suffix in (".gz", ".png")]
    assert expected
    for path in expected:
        require_equal(tmp_path / "masks" / path.name, path)


@pytest.mark.parametrize("name", MODELS)
def test_masks_are_nnunets(name: str, models: Path, tmp_path: Path) -> None:
    folder, _, masks, _ = MODELS[name]
    options: list[str | Path] = ["--tta"] if name in MIRRORED else []
    if name == "cascade":
        options += ["--previous", models / folder / "masks_lowres_notta"]
    predict(models, tmp_path, name, masks, *options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name for name in MODELS if name not in MIRRORED and "CT" not in name and "fold 1" not in name],
)
def test_mirrored_masks_are_nnunets(name: str, models: Path, tmp_path: Path) -> None:
    folder, _, masks, _ = MODELS[name]
    previous = ("--previous", models / folder / "masks_lowres_tta") if name == "cascade" else ()
    predict(models, tmp_path, name, masks.replace("notta", "tta"), "--tta", *previous)


@pytest.mark.slow
def test_an_ensemble_with_its_rules(models: Path, tmp_path: Path) -> None:
    """The commands of docs/nnunet.md; nnU-Net's own are nnUNetv2_ensemble and nnUNetv2_apply_postprocessing."""
    folder, members = models / "11_zip", []
    for configuration in ("2d", "3d_fullres"):
        done = run_script(
            "import_nnunet",
            *("--model", folder / "model.zip", "--configuration", configuration),
            *("--output_dir", tmp_path / "packages", "--name", f"model_mr_any{configuration[0]}"),
        )
        assert done.returncode == 0, done.stderr
        members.append(tmp_path / configuration / "probabilities")
        done = run_script(
            "predict",
            *("--model", tmp_path / "packages" / f"model_mr_any{configuration[0]}"),
            *("--input", folder / "images", "--output_dir", tmp_path / configuration),
            *("--mirroring", "--precision", "float32", "--probabilities_dir", members[-1]),
        )
        assert done.returncode == 0, done.stderr
    (rules,) = (tmp_path / "packages").glob("ensemble___*.json")
    for masks, options in (("masks_ensemble", ()), ("masks_ensemble_pp", ("--config_file", rules))):
        done = run_script(
            "ensemble",
            *("--members", *members, "--input", folder / "images"),
            *("--output_dir", tmp_path / masks, *options),
        )
        assert done.returncode == 0, done.stderr
        expected = sorted((folder / masks).glob("*.nii.gz"))
        assert expected
        for path in expected:
            require_equal(tmp_path / masks / path.name, path)

"""Planning, training, scores and prediction for every form of data: layouts, formats, dimensions, label values."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import BUNDLE, save_nifti
from scipy import ndimage

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.cases import image_files, list_images, name_of
from dynunet_bundle.dataset.select import load_dataset
from dynunet_bundle.images.read import read_volume
from dynunet_bundle.planning.command import PlanRequest, plan_dataset

SMALL = {"filters": [4, 8, 8, 8, 8, 8, 8, 8], "batch_size": 2}
SHORT = {"epochs": 1, "iterations_per_epoch": 2, "val_interval": 1, "num_workers": 1}


@dataclass
class Trained:
    """A data set that was planned and trained for one epoch."""

    data: Path
    plan: dict[str, Any]
    folder: Path
    overlay: Path

    def predict(self, images: Path) -> Path:
        """Masks of a folder of images."""
        overrides = {
            **SMALL,
            "input": str(images),
            "output_dir": str(self.folder / "masks"),
            "weights_file": str(self.folder / "models" / "model.pt"),
            "device": "cpu",
        }
        load_workflow(BUNDLE, "inference.json", [str(self.overlay)], overrides).run()
        return self.folder / "masks"


def plan_and_train(data: Path, folder: Path, fold: int | str = 0, **request: Any) -> Trained:
    """``scripts/plan.py``, then one epoch of two iterations with few filters, then the scores."""
    overlay = folder / "overlay.json"
    plan_dataset(PlanRequest(folder, dataset_dir=str(data), out=overlay, **request))
    overrides = {
        **SMALL,
        **SHORT,
        "fold": fold,
        "dataset_dir": str(data),
        "device": "cpu",
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "run"),
    }
    load_workflow(BUNDLE, "train.json", [str(overlay)], overrides).run()
    evaluation = json.loads((BUNDLE / "configs" / "evaluate.json").read_text())
    # of a training on all cases none are held out
    overrides["allow_trained_cases"] = fold == "all"
    load_workflow(BUNDLE, "train.json", [str(overlay)], overrides, settings=evaluation).run()
    assert json.loads((folder / "run" / "scores.json").read_text())["cases"]
    return Trained(data, json.loads(overlay.read_text()), folder, overlay)


def blobs(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image 1 to 200 and a label 0, 1, 2 that follows its brightness."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 3)
    rank = field.ravel().argsort().argsort().reshape(shape) / field.size
    return (1 + 199 * rank).astype(np.uint8), np.digitize(rank, [0.6, 0.85]).astype(np.uint8)


def test_nnunets_layout_with_two_channels_in_nrrd_files(tmp_path):
    data = tmp_path / "Dataset007_Own"
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (data / part).mkdir(parents=True)
    for index in range(6):
        image, label = blobs((20, 24, 18), index)
        volumes = {f"imagesTr/c_{index}_0000": image, f"imagesTr/c_{index}_0001": 255 - image}
        for name, array in {**volumes, f"labelsTr/c_{index}": label}.items():
            written = sitk.GetImageFromArray(array)
            written.SetSpacing((0.9, 1.0, 1.1))
            written.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
            sitk.WriteImage(written, str(data / f"{name}.nrrd"))
    for channel in range(2):
        source = data / f"imagesTr/c_0_{channel:04d}.nrrd"
        (data / "imagesTs" / source.name.replace("c_0", "t")).write_bytes(source.read_bytes())
    (data / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {"0": "T2", "1": "ADC"},
                "labels": {"background": 0, "outer": 1, "inner": 2},
                "numTraining": 6,
                "file_ending": ".nrrd",
            }
        )
    )
    trained = plan_and_train(data, tmp_path / "run")
    assert trained.plan["channel_names"] == ["T2", "ADC"]
    masks = trained.predict(data / "imagesTs")
    assert [path.name for path in list_images(masks)] == ["t.nrrd"]
    mask, affine = read_volume(masks / "t.nrrd")
    image, reference = read_volume(data / "imagesTs" / "t_0000.nrrd")
    assert mask.shape == image.shape
    np.testing.assert_allclose(affine, reference, atol=1e-6)


def test_pictures_in_plain_folders_with_gaps_in_the_label_values(tmp_path):
    data = tmp_path / "cells"
    for part in ("images", "labels"):
        (data / part).mkdir(parents=True)
    for index in range(6):
        image, label = blobs((40, 52), index)
        rgb = np.stack([image, 255 - image, image // 2], axis=-1)
        sitk.WriteImage(
            sitk.GetImageFromArray(rgb, isVector=True), str(data / f"images/{index}.bmp")
        )
        values = np.array([0, 128, 255], np.uint8)[label]
        sitk.WriteImage(sitk.GetImageFromArray(values), str(data / f"labels/{index}.png"))
    trained = plan_and_train(
        data, tmp_path / "run", label_names=["background", "cytoplasm", "nucleus"]
    )
    assert trained.plan["label_values"] == [0, 128, 255]
    assert trained.plan["channel_names"] == ["R", "G", "B"]
    assert trained.plan["spatial_dims"] == 2
    masks = trained.predict(data / "images")
    assert [path.name for path in list_images(masks)] == [f"{i}.png" for i in range(6)]
    found = set()
    for path in list_images(masks):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        assert mask.shape == (40, 52) and mask.dtype == np.uint8
        found |= set(np.unique(mask).tolist())
    assert found <= {0, 128, 255} and len(found) > 1


@pytest.mark.parametrize(
    ("shape", "configuration"),
    [((40, 44, 1), None), ((1, 40, 44), None), ((40, 44, 5), "3d_fullres"), ((40, 44, 5), "2d")],
    ids=["one slice", "one sagittal slice", "five slices", "five slices in 2D"],
)
def test_single_slices_and_volumes_thinner_than_the_patch(shape, configuration, tmp_path):
    data = tmp_path / "Task70_Thin"
    names = [f"thin_{index}.nii.gz" for index in range(6)]
    for index, name in enumerate(names):
        image, label = blobs(shape, index)
        for part, array in (("imagesTr", image), ("labelsTr", label)):
            save_nifti(data / part / name, array, np.diag([1, 1, 1.2, 1]))
    (data / "dataset.json").write_text(
        json.dumps(
            {
                "modality": {"0": "MRI"},
                "labels": {"0": "background", "1": "outer", "2": "inner"},
                "training": [
                    {"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"} for name in names
                ],
            }
        )
    )
    trained = plan_and_train(data, tmp_path / "run", configuration=configuration)
    if configuration == "3d_fullres":
        assert min(trained.plan["patch_size"]) >= 5
    else:
        assert trained.plan["spatial_dims"] == 2
        assert sorted(trained.plan["patch_size"]) == [40, 48]
    masks = trained.predict(data / "imagesTr")
    for name in names:
        mask, source = nib.load(masks / name), nib.load(data / "imagesTr" / name)
        assert mask.shape == source.shape
        np.testing.assert_array_equal(mask.affine, source.affine)


def test_a_residual_plan_trains_scores_and_predicts_with_the_same_ids(phantom, tmp_path):
    trained = plan_and_train(phantom, tmp_path / "run", planner="resenc_m", fold="all")
    assert trained.plan["architecture"].endswith("ResidualEncoderUNet")
    masks = trained.predict(phantom / "imagesTs")
    assert len(list_images(masks)) == 2


REAL = {
    "extra/brats2013_flair_t1c": ("3d_fullres", "2d"),
    "extra/open_ms_4ch": ("3d_fullres", "2d"),
    "extra/prostatex_t2_adc": ("3d_fullres", "2d"),
    "extra/spinalcord_t2s": ("3d_fullres", "2d"),
    "extra/spinalcord_t2_psr": ("3d_fullres", "2d"),
    "extra/totalseg_ct_organs": ("3d_fullres", "2d"),
    "extra/pyradiomics_breast": ("3d_fullres", "2d"),
    "extra/wbc_2d_rgb": ("2d",),
    "extra/em_2d_grey": ("2d",),
    "Task04_Hippocampus": ("3d_fullres", "2d"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "configuration"), [(name, one) for name, both in REAL.items() for one in both]
)
def test_real_data_of_every_kind(name, configuration, real_data, tmp_path):
    data = real_data / name
    dataset = load_dataset(data)
    few = len(dataset.training) < 5
    trained = plan_and_train(data, tmp_path, fold="all" if few else 0, configuration=configuration)
    case = dataset.training[0]
    images = tmp_path / "images"
    images.mkdir()
    for file in image_files(case):
        (images / Path(file).name).symlink_to(file)
    (mask,) = list_images(trained.predict(images))
    assert mask.name.startswith(name_of(case))
    found, affine = read_volume(mask)
    expected, reference = read_volume(case["label"])
    assert found.shape == expected.shape
    np.testing.assert_allclose(affine, reference, atol=1e-3)
    assert set(np.unique(found).tolist()) <= set(trained.plan["label_values"])

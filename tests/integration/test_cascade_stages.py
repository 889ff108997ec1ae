"""A cascade from raw files to masks, on synthetic cases whose label depends on the far end of the volume."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, fork_server, run_script, save_nifti

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.errors import CaseError, WeightsError

SHAPE = (10, 10, 36)
AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])
PLAN = {
    "label_names": ["background", "left", "right"],
    "spacing": [2.0, 2.0, 2.0],
    "patch_size": [8, 8, 8],
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "filters": [8, 8, 8],
}
SCHEDULE = {
    "num_folds": 4,
    "epochs": 1,
    "val_interval": 1,
    "iterations_per_epoch": 200,
    "batch_size": 8,
    "batch_dice": True,
    "oversampling": 0.7,
    "augmentation": {"mirror": {"prob": 0.5, "axes": [0, 1, 2]}},
    "mask_augmentation": {
        "morphology": {"prob": 0.4, "radius": [1, 2], "class_prob": 0.5},
        "removal": {"prob": 0.1, "max_share": 0.15, "class_prob": 0.5},
    },
    "learning_rate": 0.01,
    "lr_epoch_level": False,
    "optimizer#name": "adamw",
    "num_workers": 1,
}


def made_case(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label and a coarse mask of it ``[X, Y, Z]``.

    At one end of the volume is a cube that looks the same in both classes. The position of a mark at the other end
    determines the class; its size and brightness do not depend on the class, so that no image statistic reveals it.
    """
    rng = np.random.default_rng(number)
    value = 1 + number % 2
    image = rng.normal(0, 0.2, SHAPE).astype(np.float32)
    label = np.zeros(SHAPE, np.uint8)
    x, y, z = rng.integers(1, 4, 3)
    label[x : x + 5, y : y + 5, z : z + 5] = value
    image[label > 0] += 3
    image[1:4, 1:9, 30:34] += 3 * (value == 1)
    image[6:9, 1:9, 30:34] += 3 * (value == 2)
    # as found by a network at a quarter of the resolution
    coarse = label[1::2, 1::2, 1::2].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    return image, label, coarse


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cases in MSD layout and two without labels, and the masks of all in ``previous``."""
    root = tmp_path_factory.mktemp("data") / "Task66_Far"
    entries = []
    for number in range(14):
        image, label, coarse = made_case(number)
        part = "Tr" if number < 12 else "Ts"
        name = f"far_{number:02d}.nii.gz"
        save_nifti(root / f"images{part}" / name, image, AFFINE)
        save_nifti(root / "previous" / name, coarse, AFFINE)
        if part == "Tr":
            save_nifti(root / "labelsTr" / name, label, AFFINE)
            entries.append({"image": f"imagesTr/{name}", "label": f"labelsTr/{name}"})
    labels = {str(value): name for value, name in enumerate(PLAN["label_names"])}
    content = {"modality": {"0": "MRI"}, "labels": labels, "training": entries}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def settings(data: Path, folder: Path, cascade: bool = True) -> dict[str, Any]:
    paths = {
        "dataset_dir": data,
        "ckpt_dir": folder / "models",
        "output_dir": folder / "run",
        "prepared_dir": folder / "prepared",
    }
    previous = {"previous_dir": str(data / "previous")} if cascade else {}
    given = {key: str(path) for key, path in paths.items()} | PLAN | previous
    return {**given, "cascade": cascade, "device": "cpu"}


@pytest.fixture(scope="module")
def cascade(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained cascade."""
    folder = tmp_path_factory.mktemp("cascade")
    load_workflow(BUNDLE, "train.json", (), {**SCHEDULE, **settings(data, folder)}).run()
    return folder


def logged(folder: Path) -> dict[str, Any]:
    """Log entry of the last epoch."""
    return json.loads((folder / "run" / "train_log.jsonl").read_text().splitlines()[-1])


def predict(data: Path, trained: Path, out: Path, **changes: Any) -> dict[str, np.ndarray]:
    """Masks of the two cases without labels, by name."""
    given = {
        **PLAN,
        "cascade": True,
        "previous_dir": str(data / "previous"),
        "dataset_dir": str(data),
        "weights_file": str(trained / "models" / "model.pt"),
        "output_dir": str(out),
        "device": "cpu",
    }
    load_workflow(BUNDLE, "inference.json", (), {**given, **changes}).run()
    return {
        path.name.removesuffix(".nii.gz"): np.asarray(nib.load(path).dataobj)
        for path in out.glob("*.nii.gz")
    }


def dice(mask: np.ndarray, label: np.ndarray) -> float:
    """Dice of all classes together; voxels of the wrong class count as errors."""
    return float(2 * ((mask == label) & (label > 0)).sum() / ((mask > 0).sum() + (label > 0).sum()))


def test_the_previous_mask_tells_what_a_patch_cannot_see(
    cascade: Path, data: Path, tmp_path: Path
) -> None:
    alone = settings(data, tmp_path, cascade=False)
    load_workflow(BUNDLE, "train.json", (), {**SCHEDULE, **alone}).run()
    # without the mask, the class can only be guessed from the shape
    assert logged(tmp_path)["dice"] < 0.75
    assert logged(cascade)["dice"] > 0.9
    weights = torch.load(cascade / "models" / "model.pt", weights_only=True)
    assert weights["input_block.conv1.conv.weight"].shape[1] == 3
    plan = json.loads((cascade / "models" / "model.json").read_text())["plan"]
    assert plan["cascade"] is True


@pytest.mark.parametrize("mirroring", [False, True])
def test_other_images_are_predicted_with_their_masks(
    cascade: Path, data: Path, tmp_path: Path, mirroring: bool
) -> None:
    masks = predict(data, cascade, tmp_path / "out", **{"displayable_configs#mirroring": mirroring})
    assert sorted(masks) == ["far_12", "far_13"]
    for number in (12, 13):
        assert dice(masks[f"far_{number}"], made_case(number)[1]) > 0.9


def test_the_class_is_that_of_the_previous_mask(cascade: Path, data: Path, tmp_path: Path) -> None:
    for number in (12, 13):
        coarse = made_case(number)[2]
        swapped = np.array([0, 2, 1], np.uint8)[coarse]
        save_nifti(tmp_path / "swapped" / f"far_{number}.nii.gz", swapped, AFFINE)
    masks = predict(data, cascade, tmp_path / "out", previous_dir=str(tmp_path / "swapped"))
    for number in (12, 13):
        label = np.array([0, 2, 1], np.uint8)[made_case(number)[1]]
        assert dice(masks[f"far_{number}"], label) > 0.9


def test_an_evaluation_scores_the_masks_that_inference_gives(
    cascade: Path, data: Path, tmp_path: Path
) -> None:
    evaluate = json.loads((BUNDLE / "configs" / "evaluate.json").read_text())
    given = {
        **SCHEDULE,
        **settings(data, cascade),
        **evaluate,
        "output_dir": str(tmp_path / "run"),
        "masks_dir": str(tmp_path / "masks"),
    }
    load_workflow(BUNDLE, "train.json", settings=given, trust=True).run()
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert len(scores["cases"]) == 3
    images = tmp_path / "images"
    images.mkdir()
    for name in scores["cases"]:
        (images / f"{name}.nii.gz").symlink_to(data / "imagesTr" / f"{name}.nii.gz")
    masks = predict(data, cascade, tmp_path / "out", input=str(images))
    for name, mask in masks.items():
        scored = np.asarray(nib.load(tmp_path / "masks" / f"{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(mask, scored)
        number = int(name.removeprefix("far_"))
        label = made_case(number)[1]
        assert dice(mask, label) > 0.9
        value = int(label.max())
        own = (
            2
            * ((mask == value) & (label == value)).sum()
            / ((mask == value).sum() + (label > 0).sum())
        )
        assert scores["cases"][name][PLAN["label_names"][value]] == pytest.approx(own)


def test_a_case_without_a_mask_stops_everything_before_it_starts(
    cascade: Path, data: Path, tmp_path: Path
) -> None:
    previous = tmp_path / "previous"
    shutil.copytree(data / "previous", previous)
    (previous / "far_13.nii.gz").unlink()
    with pytest.raises(CaseError, match=r"case far_13: it has no mask of the previous stage"):
        predict(data, cascade, tmp_path / "out", previous_dir=str(previous))
    assert not (tmp_path / "out" / "far_12.nii.gz").exists()
    (previous / "far_03.nii.gz").unlink()
    given = {**SCHEDULE, **settings(data, tmp_path), "previous_dir": str(previous)}
    with pytest.raises(CaseError, match=r"case far_03: it has no mask of the previous stage"):
        load_workflow(BUNDLE, "train.json", (), given).run()


def test_weights_of_a_cascade_are_no_weights_of_the_network_alone(
    cascade: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="cascade: True against False"):
        predict(data, cascade, tmp_path / "out", **{"cascade": False, "previous_dir": None})


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Overlays of the first stage and of the cascade."""
    folder = tmp_path_factory.mktemp("overlays")
    lowres, fullres = folder / "lowres.json", folder / "cascade.json"
    lowres.write_text(json.dumps({**PLAN, "spacing": [4.0, 4.0, 4.0]}))
    fullres.write_text(json.dumps({**PLAN, "cascade": True}))
    return lowres, fullres


@pytest.mark.slow
def test_masks_of_all_folds_go_from_one_cross_validation_to_the_next(
    data: Path, overlays: tuple[Path, Path], tmp_path: Path
) -> None:
    def train(overlay: Path, name: str, *more: str) -> subprocess.CompletedProcess[str]:
        flags = {"epochs": 1, "iterations_per_epoch": 2, "num_folds": 2, "device": "cpu"}
        return run_script(
            "train",
            *("--config_file", overlay, "--dataset_dir", data, "--output_dir", tmp_path / name),
            *(text for key, value in flags.items() for text in (f"--{key}", str(value))),
            *more,
            cwd=tmp_path,
        )

    done = train(overlays[1], "second")
    assert done.returncode == 2 and "--previous_dir" in done.stderr
    done = train(overlays[0], "first", "--fold", "0")
    assert done.returncode == 0, done.stderr[-3000:]
    masks = "first/cross_validation/predictions"
    done = train(overlays[1], "second", "--previous_dir", masks)
    assert done.returncode == 2
    assert "it has no mask of the previous stage" in done.stderr
    done = train(overlays[0], "first")
    assert done.returncode == 0, done.stderr[-3000:]
    done = train(overlays[1], "second", "--previous_dir", masks)
    assert done.returncode == 0, done.stderr[-3000:]
    prepared = tmp_path / "second" / "prepared"
    for number in range(12):
        name = f"far_{number:02d}"
        (stored,) = prepared.glob(f"{name}-*.previous.npy")
        mask = nib.as_closest_canonical(nib.load(tmp_path / masks / f"{name}.nii.gz"))
        # the plan's array axes are S, A, R; its spacing is that of the files
        found = np.asarray(mask.dataobj).transpose(2, 1, 0)
        np.testing.assert_array_equal(np.load(stored)[0], found)
    again = train(overlays[1], "second", "--previous_dir", masks)
    assert again.returncode == 0 and "monai.bundle run" not in again.stderr


def test_the_command_line_of_the_bundle(
    cascade: Path, data: Path, overlays: tuple[Path, Path], tmp_path: Path
) -> None:
    configs = [str(BUNDLE / "configs" / "inference.json"), str(overlays[1])]
    command = ["-m", "monai.bundle", "run", "inference"]
    flags = {
        "config_file": json.dumps(configs),
        "dataset_dir": data,
        "weights_file": cascade / "models" / "model.pt",
        "output_dir": tmp_path / "out",
        "device": "cpu",
        "bundle_root": BUNDLE,
        "previous_dir": data / "previous",
    }
    command += [text for key, value in flags.items() for text in (f"--{key}", str(value))]
    done = fork_server.run(command)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = predict(data, cascade, tmp_path / "again")
    for name, mask in expected.items():
        found = np.asarray(nib.load(tmp_path / "out" / f"{name}.nii.gz").dataobj)
        np.testing.assert_array_equal(found, mask)

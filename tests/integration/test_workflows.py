"""The three workflows in this process: evaluation in native space, a 2D plan, several channels, a CT."""

import json

import nibabel as nib
import numpy as np
import pytest
from conftest import BUNDLE, TINY, save_nifti

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.select import load_dataset
from dynunet_bundle.evaluation.dice import dice_by_target


def predict(tmp_path, dataset_dir, **plan):
    workflow = load_workflow(
        BUNDLE,
        "inference.json",
        overrides={
            **{key: value for key, value in TINY.items() if "epoch" not in key},
            "dataset_dir": str(dataset_dir),
            "output_dir": str(tmp_path / "masks"),
            "weights_file": str(tmp_path / "models" / "model.pt"),
            "device": "cpu",
            **plan,
        },
    )
    workflow.run()
    return tmp_path / "masks"


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {
            "spatial_dims": 2,
            "patch_size": [32, 32],
            "spacing": [1.5, 1.5],
            "kernel_sizes": [[3, 3]] * 3,
            "strides": [[1, 1], [2, 2], [2, 2]],
        },
    ],
    ids=["3D", "2D"],
)
def test_a_model_is_scored_as_its_masks_are(plan, train_workflow, phantom, tmp_path):
    train_workflow(**plan, epochs=1, iterations_per_epoch=4).run()
    held_out = load_dataset(phantom).training[:2]
    override = {"validate#dataset#data": [dict(case) for case in held_out]}
    evaluation = load_workflow_with(train_workflow, plan, {**override, "allow_trained_cases": True})
    evaluation.run()
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())["cases"]
    images = tmp_path / "images"
    images.mkdir()
    for case in held_out:
        name = case["image"].rsplit("/", 1)[1]
        (images / name).symlink_to(case["image"])
    masks = predict(tmp_path, phantom, **plan, input=str(images))
    for case in held_out:
        name = case["image"].rsplit("/", 1)[1]
        mask = np.asarray(nib.load(masks / name).dataobj)
        label = np.asarray(nib.load(case["label"]).dataobj)
        expected = dice_by_target(mask, label, [[1], [2]])
        found = list(scores[name.removesuffix(".nii.gz")].values())
        # a tie between two classes may be decided differently in another memory format
        assert found == pytest.approx(expected, abs=1e-3)


def load_workflow_with(train_workflow, plan, override):
    """train.json merged with evaluate.json, whose nested ids MONAI merges when it reads files."""
    content = json.loads((BUNDLE / "configs" / "evaluate.json").read_text())
    return train_workflow(**plan, **{**content, **override})


def test_several_channels_and_a_ct_train_and_predict(train_workflow, phantom, tmp_path):
    """The phantom and a copy of it in Hounsfield-like units, as one 4D file."""
    data = tmp_path / "Task98_Two"
    content = json.loads((phantom / "dataset.json").read_text())
    for part in ("Tr", "Ts"):
        for image in (phantom / f"images{part}").iterdir():
            source = nib.load(image)
            array = np.asarray(source.dataobj)
            both = np.stack([array, array / array.max() * 2000 - 1000], axis=-1)
            save_nifti(data / f"images{part}" / image.name, both, source.affine)
    (data / "labelsTr").symlink_to(phantom / "labelsTr")
    content["modality"] = {"0": "MRI", "1": "CT"}
    (data / "dataset.json").write_text(json.dumps(content))
    plan = {
        "channel_names": ["MRI", "CT"],
        "normalization": ["zscore", "ct"],
        "intensity_statistics": [
            None,
            {"lower": -900.0, "upper": 900.0, "mean": 0.0, "std": 300.0},
        ],
    }
    train_workflow(dataset_dir=data, epochs=1, **plan).run()
    masks = predict(tmp_path, data, **plan)
    for image in (data / "imagesTs").iterdir():
        assert nib.load(masks / image.name).shape == nib.load(image).shape[:3]

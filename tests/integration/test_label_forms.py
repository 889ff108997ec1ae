"""Regions and ignored voxels, from the data set through plan, training and scores to the mask."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, TINY, run_script, save_nifti
from test_bad_input import assert_refused
from test_commands import run_bundle
from test_forms import Trained, blobs, plan_and_train

from dynunet_bundle.dataset.cases import list_images
from dynunet_bundle.dataset.folds import default_folds
from dynunet_bundle.evaluation.mask_folders import find_masks, label_ids, measure_masks

IGNORED = 4
TUMOUR = {"background": 0, "whole": [1, 2, 3], "inner": 3}
ORDER = [1, 3]
NUM_CASES = 6


def make_set(folder: Path, labels: dict[str, Any], ignored: Any = (), **content: Any) -> Path:
    """Six cases of three nested values in nnU-Net's layout; ``ignored`` is the unlabelled part."""
    for index in range(NUM_CASES):
        image, label = blobs((26, 24, 22), index)
        label[image > 185] = 3
        if ignored:
            label[ignored] = IGNORED
        save_nifti(folder / f"imagesTr/c_{index}_0000.nii.gz", image)
        save_nifti(folder / f"labelsTr/c_{index}.nii.gz", label)
    text = {"channel_names": {"0": "T2"}, "numTraining": NUM_CASES, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**text, "labels": labels, **content}))
    return folder


def held_out(trained: Trained, tmp_path: Path) -> tuple[Path, list[str]]:
    """Masks of the validation cases, and their names."""
    names = default_folds([f"c_{index}" for index in range(NUM_CASES)], 5, 12345)[0]["val"]
    images = tmp_path / "images"
    images.mkdir()
    for name in names:
        file = f"{name}_0000.nii.gz"
        (images / file).symlink_to(trained.data / "imagesTr" / file)
    return trained.predict(images), names


def array_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def dice(found: np.ndarray, expected: np.ndarray) -> float | None:
    """Dice by its definition on sets of voxels."""
    ours, theirs = (set(np.flatnonzero(mask)) for mask in (found, expected))
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours | theirs else None


def last_validation(trained: Trained) -> dict[str, float]:
    (record,) = map(json.loads, (trained.folder / "run" / "train_log.jsonl").open())
    return record["dice_by_class"]


def test_an_nnunet_set_of_regions_with_ignored_voxels(tmp_path):
    block = (slice(None), slice(0, 12), slice(3, 20))
    labels = {**TUMOUR, "ignore": IGNORED}
    data = make_set(tmp_path / "Dataset008_Tumour", labels, block, regions_class_order=ORDER)
    trained = plan_and_train(data, tmp_path / "run")
    plan = trained.plan
    assert (plan["label_values"], plan["ignore_value"]) == ([0, 1, 2, 3], IGNORED)
    assert plan["label_names"] == ["background", "label 1", "label 2", "inner"]
    assert list(plan["regions"].items()) == [("whole", [1, 2, 3]), ("inner", [3])]
    assert plan["regions_class_order"] == ORDER
    # one output per region
    weights = torch.load(tmp_path / "run/models/model.pt", weights_only=True)
    assert weights["output_block.conv.conv.weight"].shape[0] == 2
    assert list(last_validation(trained)) == ["whole", "inner"]
    masks, names = held_out(trained, tmp_path)
    found = {name: array_of(masks / f"{name}.nii.gz") for name in names}
    assert {value for mask in found.values() for value in np.unique(mask)} <= {0, *ORDER}
    scores = json.loads((tmp_path / "run/run/scores.json").read_text())["cases"]
    for name in names:
        label = array_of(data / f"labelsTr/{name}.nii.gz")
        kept = label != IGNORED
        assert 0 < kept.sum() < kept.size
        for region, values in plan["regions"].items():
            pair = (np.isin(mask, values)[kept] for mask in (found[name], label))
            # a probability of exactly one half may be decided differently in another memory format
            assert scores[name][region] == pytest.approx(dice(*pair), abs=1e-3)
    # the script with the overlay gives the same
    ids = label_ids([str(trained.overlay)], BUNDLE / "configs")
    pairs = find_masks(str(masks), str(data / "labelsTr"), **ids)
    assert pairs.labels.target_names == ["background", "whole", "inner"]
    measures = measure_masks(pairs)
    for name in names:
        found_dice = [row["dice"] for row in measures[name]]
        assert found_dice == pytest.approx(list(scores[name].values()), abs=1e-3)


def test_sparse_labels_of_plain_classes(tmp_path):
    """Three slices of each volume are labelled."""
    label = np.ones((26, 24, 22), bool)
    label[:, :, [5, 11, 16]] = False
    labels = {"background": 0, "outer": 1, "middle": 2, "inner": 3, "ignore": IGNORED}
    data = make_set(tmp_path / "Dataset009_Sparse", labels, np.nonzero(label))
    trained = plan_and_train(data, tmp_path / "run")
    assert trained.plan["ignore_value"] == IGNORED and trained.plan["regions"] is None
    facts = json.loads((tmp_path / "run/fingerprints/Dataset009_Sparse.json").read_text())
    assert set(facts["label_voxels"]) == {"0", "1", "2", "3"}
    assert sum(facts["label_voxels"].values()) == NUM_CASES * 26 * 24 * 3
    assert list(last_validation(trained)) == ["outer", "middle", "inner"]
    stored = next((tmp_path / "run/run/prepared").glob("c_0*.label.npy"))
    assert set(np.unique(np.load(stored))) <= {0, 1, 2, 3, 255}
    log = json.loads((tmp_path / "run/run/train_log.jsonl").read_text().splitlines()[0])
    assert np.isfinite(log["loss"])
    masks, names = held_out(trained, tmp_path)
    scores = json.loads((tmp_path / "run/run/scores.json").read_text())["cases"]
    for name in names:
        mask, expected = (
            array_of(folder / f"{name}.nii.gz")[:, :, [5, 11, 16]]
            for folder in (masks, data / "labelsTr")
        )
        assert set(np.unique(array_of(masks / f"{name}.nii.gz"))) <= {0, 1, 2, 3}
        found = list(scores[name].values())
        by_hand = [dice(mask == value, expected == value) for value in (1, 2, 3)]
        assert found == pytest.approx(by_hand, abs=1e-3)


def test_regions_of_a_decathlon_set_come_from_the_command_line(phantom, tmp_path):
    """One region, written to masks as the value of its tail."""
    regions = {"regions": "{'body': [1, 2]}", "regions_class_order": "[2]"}
    done = run_bundle(
        "training",
        "--config_file",
        "configs/train.json",
        dataset_dir=phantom,
        ckpt_dir=tmp_path / "models",
        output_dir=tmp_path / "run",
        **{**regions, "epochs": 1},
    )
    assert done.returncode == 0, done.stderr
    log = json.loads((tmp_path / "run/train_log.jsonl").read_text())
    assert list(log["dice_by_class"]) == ["body"]
    assert log["dice"] == pytest.approx(log["dice_by_class"]["body"], abs=1e-5)
    model = json.loads((tmp_path / "models/model.json").read_text())["plan"]
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps(model))
    predict = ("--input", phantom / "imagesTs", "--output", tmp_path / "masks")
    predict += ("--weights", tmp_path / "models/model.pt", "--config_file", overlay)
    done = run_script("predict", *predict)
    assert done.returncode == 0, done.stderr
    for path in list_images(tmp_path / "masks"):
        assert set(np.unique(array_of(path))) <= {0, 2}
    # the same weights are refused for a plan of two classes
    overlay.write_text(json.dumps({**model, "regions": None, "regions_class_order": None}))
    assert_refused(run_script("predict", *predict), "regions: {'body': [1, 2]} against None")


@pytest.mark.parametrize(
    ("labels", "order", "words"),
    [
        (TUMOUR, None, ("need regions_class_order",)),
        (TUMOUR, [1, 2, 3], ("3 values", "2 regions (whole, inner)")),
        (TUMOUR, [1, 2], ('writes 2 for the region "inner"',)),
        ({**TUMOUR, "ignore": 3}, ORDER, ("ignore_value is 3",)),
        ({"background": 0, "inner": 3, "whole": [1, 2, 3]}, [3, 1], ("list larger regions first",)),
        ({"background": 0, "outer": 1, "middle": 2, "ignore": 3}, None, ("4 (", "not listed")),
    ],
    ids=["no order", "length", "value", "ignore", "sequence", "unlisted"],
)
def test_plan_py_refuses_declarations_that_contradict_themselves(labels, order, words, tmp_path):
    more = {} if order is None else {"regions_class_order": order}
    data = make_set(tmp_path / "Dataset008_Tumour", labels, (slice(0, 2),), **more)
    done = run_script("plan", "--dataset_dir", data, "--output", tmp_path / "overlay.json")
    assert_refused(done, *words)
    assert not (tmp_path / "overlay.json").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"regions": "{'body': [1, 2]}"}, ("need regions_class_order",)),
        ({"regions": "{'body': [1, 7]}", "regions_class_order": "[1]"}, ('"body" is [1, 7]',)),
        ({"ignore_value": 2}, ("ignore_value is 2",)),
    ],
)
def test_training_refuses_them_on_the_command_line(overrides, words, phantom, tmp_path):
    folders = {"ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "run"}
    arguments = ("training", "--config_file", "configs/train.json")
    done = run_bundle(*arguments, dataset_dir=phantom, **folders, **overrides)
    assert_refused(done, *words)
    assert not (tmp_path / "models" / "model.pt").exists()


def test_predict_py_refuses_them_in_an_overlay(phantom, tmp_path):
    overlay = tmp_path / "overlay.json"
    names = {"label_names": TINY["label_names"], "regions": {"body": [1, 2]}}
    overlay.write_text(json.dumps({**names, "regions_class_order": [1, 2]}))
    arguments = ("--input", phantom / "imagesTs", "--output", tmp_path / "masks")
    done = run_script("predict", *arguments, "--config_file", overlay)
    assert_refused(done, "regions_class_order has 2 values", "1 region (body)")

"""The model card of a package: its training, its speed, and what to install."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, save_nifti
from helpers.package_cases import PLANS, request_for
from monai.bundle import ConfigWorkflow
from PIL import Image, ImageColor

from dynunet_bundle.delivery.package.make import Package, make_package
from dynunet_bundle.delivery.verify.bundle_folder import BundleFolder
from dynunet_bundle.delivery.verify.files import check_readme
from dynunet_bundle.drawing.colours import COLOURS
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.planning.plan import PLAN_IDS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(request_for(tmp_path_factory.mktemp("package")))


def card_of(made: Package) -> str:
    return (made.folder / "docs" / "README.md").read_text()


def test_the_card_tells_of_the_training_and_the_exports(tmp_path: Path) -> None:
    training = {"num_cases": 4, "volumes_ml": {"head": [0.5, 1.25]}}
    exports, curves = tmp_path / "export.json", tmp_path / "curves.png"
    rows = [
        {"format": "torch", "precision": "fp32", "wall_ms": 10.0},
        {"format": "tensorrt", "precision": "fp16", "wall_ms": 4.0},
        {"format": "onnx", "precision": "fp16", "wall_ms": None},
    ]
    machine = {"device": "cuda:0", "processor": "a fast one"}
    exports.write_text(json.dumps({"machine": machine, "models": rows}))
    curves.write_bytes(b"PNG")
    model = {"epoch": 7, "epochs": 9, "iterations_per_epoch": 3, "val_mean_dice": 0.876543}
    model["training"] = training
    made = make_package(request_for(tmp_path, model=model, exports=exports, curves=curves))
    card = card_of(made)
    for text in (
        "of epoch 7 with a Dice of 0.8765",
        # not the overlay's one epoch of one iteration: the command line may have set another length
        "Length: 9 epochs of 3 iterations; the weights are those of epoch 7\n",
        "Trained on 4 cases.",
        "| head | 0.5 to 1.25 |",
        "| tensorrt | fp16 | 4.0 | 2.50 |",
        "cuda:0 of a machine with a fast one",
        "](progress.png)",
    ):
        assert text in card, text
    assert "| onnx |" not in card
    assert (made.folder / "docs" / "progress.png").read_bytes() == b"PNG"


def test_an_example_is_a_picture_with_a_legend(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((24, 20, 16), dtype=np.float32)
    mask = np.zeros(array.shape, np.uint8)
    mask[8:14, 8:14, 4:12], mask[15:18, 8:14, 4:12] = 3, 7
    files = save_nifti(tmp_path / "image.nii.gz", array), save_nifti(tmp_path / "mask.nii.gz", mask)
    made = make_package(request_for(tmp_path, "gaps", example=files))
    assert "](example.png)" in card_of(made)
    picture = Image.open(made.folder / "docs" / "example.png").convert("RGB")
    found = {code for _, code in picture.getcolors(picture.width * picture.height)}
    assert {ImageColor.getrgb(code) for code in COLOURS[:2]} <= found
    assert ImageColor.getrgb(COLOURS[2]) not in found
    with BundleFolder(made.folder) as bundle:
        assert not check_readme(bundle)


@pytest.mark.parametrize("fault", ["grid", "empty", "missing"])
def test_an_example_that_cannot_be_drawn_is_refused(tmp_path: Path, fault: str) -> None:
    image = save_nifti(tmp_path / "image.nii.gz", np.ones((8, 8, 8), np.float32))
    mask = save_nifti(
        tmp_path / "mask.nii.gz", np.zeros((8, 8, 9 if fault == "grid" else 8), np.uint8)
    )
    files = (image, tmp_path / "absent.nii.gz" if fault == "missing" else mask)
    with pytest.raises(ConfigError, match="--example"):
        make_package(request_for(tmp_path, example=files))
    assert not (tmp_path / "out" / "phantom_mr_segmentation").exists()


def test_the_card_tells_the_length_that_a_command_line_set(
    train_workflow: Callable[..., ConfigWorkflow], tmp_path: Path
) -> None:
    train_workflow(epochs=2, iterations_per_epoch=1, val_interval=2).run()
    overlay = tmp_path / "overlay.json"
    plan = {name: TINY[name] for name in PLAN_IDS if name in TINY}
    overlay.write_text(json.dumps({**plan, "epochs": 50, "iterations_per_epoch": 70}))
    weights = tmp_path / "models" / "model.pt"
    changes = {"weights": weights, "overlays": [str(overlay)]}
    made = make_package(dataclasses.replace(request_for(tmp_path / "other"), **changes))
    card = card_of(made)
    assert "- Length: 2 epochs of 1 iteration\n" in card
    assert "50 epochs" not in card


def test_the_card_tells_time_and_memory_on_request(tmp_path: Path) -> None:
    card = card_of(make_package(request_for(tmp_path, measure=True))).replace("\n", " ")
    found = re.search(
        r"Inference of a patch of [\d x]+ voxels in float32 takes (\S+) s and (\d+) MB of", card
    )
    assert found and float(found[1]) > 0 and int(found[2]) > 50
    assert "GPU memory was not measured" not in card


def test_a_length_that_was_not_recorded_is_not_made_up(made: Package) -> None:
    assert "- Length: not recorded" in card_of(made)


def test_the_card_says_what_to_install(made: Package) -> None:
    metadata = json.loads((made.folder / "configs" / "metadata.json").read_text())
    wanted = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }
    card = card_of(made)
    (command,) = re.findall(r"^pip install \\\n(.*?)```", card, re.DOTALL | re.MULTILINE)
    assert command.replace("\\\n", " ").split() == [f"{k}=={v}" for k, v in wanted.items()]
    assert max(map(len, card.splitlines())) <= 121


PICTURE_PLAN = {
    "channel_names": ["rgb_to_0_1"] * 3,
    "normalization": ["rgb_to_0_1"] * 3,
    "intensity_statistics": [None] * 3,
}


@pytest.mark.parametrize(("types", "told"), [([".png"], "PNG"), (None, "PNG, BMP or TIFF")])
def test_the_card_of_pictures_speaks_of_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, types: list[str] | None, told: str
) -> None:
    monkeypatch.setitem(PLANS, "pictures", {**PLANS["2d"], **PICTURE_PLAN})
    training = {"num_cases": 4, "volumes_ml": {"organ": [0.69, 4.779]}}
    if types:
        training["picture_types"] = types
    scores = tmp_path / "scores.json"
    row = {"mean": 0.5, "median": 7.5, "ci95": None, "num_cases": 1, "num_undefined": 0}
    measures = {"dice": row, "hd95_px": row}
    content = {"mean": {"organ": 0.5}, "mean_dice": 0.5, "num_cases": {"organ": 1}}
    cases = {"cases": {"a": {"organ": 0.5}}, "statistics": {"organ": measures}}
    scores.write_text(json.dumps({**content, **cases}))
    made = make_package(
        request_for(tmp_path, "pictures", model={"training": training}, scores=scores)
    )
    card = card_of(made)
    text = " ".join(card.split())
    for wanted in (
        " in 3 colour channels.",
        "- Modality: 3 colour channels",
        "| label | area in the training cases, px² |",
        "| organ | 690 to 4779 |",
        "arrays are cropped to nonzero, normalised (rgb_to_0_1 for each channel) and resampled to",
        "pixels of the file.",
        f"3 colour channels, pictures of any size: {told}, one file per channel",
        "label map on the pixel grid",
        "HD95, px (median)",
        "| 7.50 |",
    ):
        assert wanted in text, wanted
    for absent in ("voxel", " mm", "NIfTI", " ml", "rgb_to_0_1, rgb_to_0_1", "scanner"):
        assert absent not in text, absent
    metadata = json.loads((made.folder / "configs" / "metadata.json").read_text())
    classes = metadata["network_data_format"]["inputs"]["image"]["channel_def"]
    assert len(classes) == 3
    assert metadata["image_classes"] == "3 colour channels; the bundle normalises them"


def test_the_card_of_volumes_keeps_millimetres(made: Package) -> None:
    text = " ".join(card_of(made).split())
    for wanted in ("voxels", " mm.", "NIfTI, NRRD or MHA", "HD95, mm" if "HD95" in text else "mm"):
        assert wanted in text, wanted

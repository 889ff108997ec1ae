"""The model card of a package: its training, its speed, and what to install."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY
from helpers.package_cases import request_for
from monai.bundle import ConfigWorkflow

from dynunet_bundle.delivery.package.make import Package, make_package
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
    assert "- Length: 2 epochs of 1 iterations\n" in card
    assert "50 epochs" not in card


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

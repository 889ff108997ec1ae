"""The examples of docs/extending.md, as they stand there, train and predict."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, ROOT, TINY, run_script
from monai.bundle import ConfigWorkflow

from dynunet_bundle import Predictor
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.errors import ConfigError

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
NAME = r"`(\w+\.(?:py|json))`"
BLOCK = re.compile(NAME + r"(?:(?!```|`\w+\.\w+`).)*?```(?:python|json)\n(.*?)```", re.S)
FILES = dict(BLOCK.findall(PAGE))
"""Files of the page by the name that stands last before each block."""

LISTED = ("adam", "segresnet")
OWN = ("tversky", "lion", "memory", "ranks", "volumes", "ghosts", "arrays")
MODULES = {name.removesuffix(".py") for name in FILES if name.endswith(".py")}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of the page, on the path of modules."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


def test_each_block_of_the_page_is_a_file_of_a_test() -> None:
    assert len(FILES) == len(re.findall(r"```(?:python|json)", PAGE))
    assert {f"{name}.json" for name in (*LISTED, *OWN)} == {n for n in FILES if n.endswith("json")}
    assert set(OWN) == MODULES


@pytest.mark.parametrize("name", LISTED)
def test_a_listed_component_needs_no_switch(name: str, example: Path) -> None:
    workflow = load_workflow(BUNDLE, "train.json", [f"{name}.json"], {**TINY, "device": "cpu"})
    kinds = [
        type(workflow.parser.get_parsed_content(id_)).__name__ for id_ in ("optimizer", "network")
    ]
    assert {"adam": "Adam", "segresnet": "SegResNet"}[name] in kinds


@pytest.mark.parametrize("name", OWN)
def test_own_code_needs_trust(name: str, example: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{name}\.json would run code.*--trust"):
        load_workflow(BUNDLE, "train.json", [f"{name}.json"])
    assert name not in sys.modules


def trained(load: Callable[..., ConfigWorkflow], name: str, **settings: Any) -> ConfigWorkflow:
    workflow = load(f"{name}.json", epochs=1, **settings)
    workflow.run()
    return workflow


def logged(folder: Path) -> dict[str, Any]:
    """The last line of the log of a training."""
    return json.loads((folder / "run" / "train_log.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize("name", [name for name in (*LISTED, *OWN) if name != "arrays"])
def test_a_part_trains(
    name: str,
    example: Path,
    train_workflow: Callable[..., ConfigWorkflow],
    phantom: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    get = trained(train_workflow, name).parser.get_parsed_content
    assert (example / "models" / "model.pt").is_file()
    if name == "tversky":
        logits, label = torch.zeros(1, 3, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4)
        assert type(get("loss")).__name__ == "FinestTversky"
        assert 0 < get("loss")([logits, logits], label) < 1
    if name == "lion":
        assert type(get("optimizer")).__name__ == "Lion"
    if name == "memory":
        assert "epoch 1: 0 MiB" in capsys.readouterr().out
    if name == "volumes":
        assert 0 <= get("validate#evaluator").state.metrics["val_volume_error"] < 1e6
    if name == "ghosts":
        kinds = [type(step).__name__ for step in get("train#dataloader").own.transforms]
        assert kinds == ["RandGhostsd", "RandGibbsNoised"]


@pytest.mark.parametrize("name", ["segresnet", "ranks"])
def test_a_part_of_the_prediction_predicts(
    name: str, example: Path, train_workflow: Callable[..., ConfigWorkflow], phantom: Path
) -> None:
    trained(train_workflow, name)
    trust = ["--trust"] * (name in OWN)
    place = ("--input", phantom / "imagesTs", "--output_dir", "out", "--device", "cpu")
    weights = example / "models" / "model.pt"
    options = ("--model", weights, "--config_file", f"{name}.json", *trust)
    environment = {**os.environ, "PYTHONPATH": "."}
    done = run_script("predict", *place, *options, cwd=example, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    predictor = Predictor(weights, config_files=[f"{name}.json"], device="cpu", trust=name in OWN)
    image = nib.load(next((phantom / "imagesTs").iterdir()))
    (mask,) = (example / "out").glob(f"{Path(image.get_filename()).name}")
    np.testing.assert_array_equal(predictor.predict(image), np.asanyarray(nib.load(mask).dataobj))
    # without the overlay the model is refused, not used in another way
    done = run_script("predict", *place, "--model", weights, "--restart")
    assert done.returncode == 2 and "error: " in done.stderr


def test_a_reader_of_another_file_type_trains_and_predicts(
    example: Path, train_workflow: Callable[..., ConfigWorkflow], own_phantom: Path
) -> None:
    """Masks of arrays equal those of the NIfTI files that they were made of."""
    listed = json.loads((own_phantom / "dataset.json").read_text())
    for case in [*listed["training"], *({"image": image} for image in listed["test"])]:
        file = own_phantom / case["image"]
        image = nib.load(file)
        np.save(str(file).replace(".nii.gz", ".npy"), np.asanyarray(image.dataobj)[np.newaxis])
        np.savetxt(str(file).replace(".nii.gz", ".txt"), image.affine)
        case["image"] = case["image"].replace(".nii.gz", ".npy")
    test = [name.replace(".nii.gz", ".npy") for name in listed["test"]]
    (own_phantom / "dataset.json").write_text(json.dumps({**listed, "test": test}))
    trained(train_workflow, "arrays", dataset_dir=own_phantom)
    files = sorted(map(str, (own_phantom / "imagesTs").glob("*.npy")))
    (example / "list.json").write_text(json.dumps(files))
    options = ("--model", example / "models" / "model.pt", "--device", "cpu")
    environment = {**os.environ, "PYTHONPATH": "."}
    own = ("--config_file", "arrays.json", "--trust", "--input", "list.json", "--output_dir", "own")
    done = run_script("predict", *options, *own, cwd=example, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    (example / "nifti.json").write_text(json.dumps([f.replace(".npy", ".nii.gz") for f in files]))
    usual = ("--input", "nifti.json", "--output_dir", "usual")
    assert run_script("predict", *options, *usual, cwd=example).returncode == 0
    for file in files:
        name = Path(file).name.replace(".npy", ".nii.gz")
        own_mask, mask = (nib.load(example / folder / name) for folder in ("own", "usual"))
        np.testing.assert_array_equal(own_mask.dataobj, mask.dataobj)
        np.testing.assert_allclose(own_mask.affine, mask.affine)


def test_the_command_of_the_page_trains(example: Path, phantom: Path) -> None:
    command = re.search(r"dynunet-bundle train (.*?)\n\n", PAGE, re.S)
    assert command is not None
    words = command.group(1).replace("\\\n", " ").split()
    places = {"DATA/Task04_Hippocampus": str(phantom), "RUNS/tversky": "run"}
    arguments = [places.get(word, word) for word in words]
    settings = {**TINY, "epochs": 1, "device": "cpu"}
    del settings["num_folds"]
    arguments += [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    environment = {**os.environ, "PYTHONPATH": "."}
    result = run_script("train", *arguments, "--folds", "0", cwd=example, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (example / "run" / "fold_0" / "models" / "model.pt").is_file()

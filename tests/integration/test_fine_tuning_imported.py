"""A model of nnU-Net is imported, goes on with new labels, is resumed, predicts, and goes back to nnU-Net."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BUNDLE, ROOT, run_script
from helpers.nnunet_results import make_results

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.nnunet.exporting import NnunetExportRequest, export_nnunet
from dynunet_bundle.nnunet.importing import ImportRequest, import_nnunet

FIRST = {
    "PlainConvUNet": "input_block.conv1.conv.weight",
    "ResidualEncoderUNet": "stem.conv.weight",
}
OUTPUT = "output_block.conv.conv.weight"


@pytest.fixture
def new_data(phantom: Path, tmp_path: Path) -> Path:
    """The phantom with another name for one of its labels."""
    folder = Path(shutil.copytree(phantom, tmp_path / "Task98_New"))
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    content["labels"] = {"0": "background", "1": "head", "2": "foot"}
    path.write_text(json.dumps(content))
    return folder


def train(overlay: Path, data: Path, folder: Path, **settings: Any) -> None:
    places = {"ckpt_dir": "models", "output_dir": "run", "prepared_dir": "prepared"}
    values = {
        **{name: str(folder / place) for name, place in places.items()},
        "dataset_dir": str(data),
        "device": "cpu",
        "iterations_per_epoch": 2,
        "val_interval": 1,
        "num_workers": 1,
        **settings,
    }
    load_workflow(BUNDLE, "train.json", [str(overlay)], settings=values, trust=True).run()


@pytest.mark.parametrize(
    ("kind", "dims"), [("PlainConvUNet", 3), ("ResidualEncoderUNet", 3), ("PlainConvUNet", 2)]
)
def test_from_nnunet_and_back(
    kind: str, dims: int, new_data: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    results = make_results(tmp_path / "results", kind, dims, folds=("0", "1"))
    name = "phantom_mri_segmentation"
    source = import_nnunet(
        ImportRequest(BUNDLE, results, name, tmp_path, ROOT / "CHANGELOG.md")
    ).folder
    overlay = tmp_path / "plan" / "new.json"
    done = run_script(
        "plan",
        *("--dataset_dir", new_data, "--like", source, "--output", overlay),
        *("--cache_dir", tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    assert f"--pretrained {source}" in done.stdout
    plan = json.loads(overlay.read_text())
    assert (plan["axcodes"], plan["architecture"]) == ("zyx", kind if dims == 3 else "DynUNet")
    assert plan["label_names"] == ["background", "head", "foot"]

    run = tmp_path / "run"
    train(overlay, new_data, run, epochs=1, learning_rate=0.0, pretrained=str(source))
    assert f"{source} has 2 models; {source / 'models' / 'model.pt'} is the start" in log.text
    assert f"{OUTPUT} (background, head; fresh: foot)" in log.text
    theirs = torch.load(source / "models" / "model.pt", weights_only=True)
    ours = torch.load(run / "models" / "model.pt", weights_only=True)
    assert torch.equal(ours[FIRST[kind]], theirs[FIRST[kind]])
    assert torch.equal(ours[OUTPUT][:2], theirs[OUTPUT][:2])
    assert not torch.equal(ours[OUTPUT][2], theirs[OUTPUT][2])

    log.clear()
    train(overlay, new_data, run, epochs=2, pretrained=str(source))
    assert "resuming after epoch 1" in log.text and "copied" not in log.text
    done = run_script(
        "predict",
        *("--model", run, "--input", new_data / "imagesTs", "--output_dir", tmp_path / "masks"),
    )
    assert done.returncode == 0, done.stderr
    written = export_nnunet(NnunetExportRequest(BUNDLE, run, tmp_path / "nnunet"))
    dataset = json.loads((written.folder / "dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, "head": 1, "foot": 2}

"""What only a CUDA device shows: the feed computes there what it computes on the CPU, AMP trains, masks agree."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, TINY

from dynunet_bundle.workflow import load_workflow

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def first_batch(train_workflow, device: str) -> dict[str, torch.Tensor]:
    always = {
        "noise": {"prob": 1.0, "std": [0.1, 0.2]},
        "brightness": {"prob": 1.0, "factor": [0.75, 1.25]},
        "contrast": {"prob": 1.0, "factor": [0.75, 1.25]},
        "mirror": {"prob": 0.5, "axes": [0, 1, 2]},
    }
    workflow = train_workflow(device=device, augmentation=always, batch_size=4)
    return next(iter(workflow.parser.get_parsed_content("train#dataloader")))


def test_the_feed_gives_on_the_gpu_what_it_gives_on_the_cpu(train_workflow):
    on_gpu, on_cpu = (first_batch(train_workflow, device) for device in ("cuda:0", "cpu"))
    assert on_gpu["image"].is_cuda and on_gpu["label"].is_cuda
    assert torch.equal(on_gpu["label"].cpu(), on_cpu["label"])
    assert torch.allclose(on_gpu["image"].cpu(), on_cpu["image"], atol=1e-4)


def test_training_with_mixed_precision_and_a_float16_store(train_workflow, tmp_path):
    train_workflow(device="cuda:0", amp=True, store_dtype="float16").run()
    log = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").open()]
    assert len(log) == TINY["epochs"]
    assert all(np.isfinite(record["loss"]) for record in log)
    state = torch.load(tmp_path / "models" / "checkpoint_last.pt", weights_only=True)
    assert state["scaler"]["scale"] > 0


def predict(phantom: Path, weights: Path, output: Path, device: str) -> list[np.ndarray]:
    plan = {key: value for key, value in TINY.items() if "epoch" not in key}
    overrides = {
        **{
            key: plan[key]
            for key in json.loads(weights.with_suffix(".json").read_text())["plan"]
            if key in plan
        },
        "dataset_dir": str(phantom),
        "weights_file": str(weights),
        "output_dir": str(output),
        "device": device,
        "amp": False,
    }
    load_workflow(BUNDLE, "inference.json", overrides=overrides).run()
    return [np.asarray(nib.load(path).dataobj) for path in sorted(output.glob("*.nii.gz"))]


def test_masks_agree_between_devices(train_workflow, phantom, tmp_path):
    train_workflow(device="cuda:0", epochs=1).run()
    weights = tmp_path / "models" / "model.pt"
    ours, theirs = (
        predict(phantom, weights, tmp_path / device, device) for device in ("cuda:0", "cpu")
    )
    for a, b in zip(ours, theirs, strict=True):
        assert (a == b).mean() > 0.999

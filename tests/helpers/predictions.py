"""A prediction with a known correct result: thresholds on the intensity instead of a trained network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import BUNDLE, save_nifti
from monai.bundle import ConfigWorkflow

from dynunet_bundle.configs.workflow import load_workflow

LOW, HIGH = 35.0, 90.0
AFFINE = np.array([[1.0, 0, 0, -20], [0, 1.2, 0, 15], [0, 0, 1.6, 40], [0, 0, 0, 1]])

THRESHOLD_PLAN: dict[str, Any] = {
    "device": "cpu",
    "patch_size": [24, 24, 24],
    "precision": "float32",
    "normalization": ["ct"],  # fixed limits, so that thresholds mean the same in every copy
    "intensity_statistics": [{"lower": -1e9, "upper": 1e9, "mean": 0.0, "std": 1.0}],
    "network_def": {
        "_target_": "torch.nn.Conv3d",
        "in_channels": 1,
        "out_channels": 3,
        "kernel_size": 1,
    },
}


def threshold_weights(path: Path, low: float = LOW, high: float = HIGH) -> Path:
    """Weights of a 1x1x1 convolution: class 1 above ``low``, class 2 above ``high``."""
    network = torch.nn.Conv3d(1, 3, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1, 1))
        network.bias.copy_(torch.tensor([0.0, -low, -low - high]))
    torch.save(network.state_dict(), path)
    return path


def prediction(
    source: Path, output: Path, weights: Path | list[str], **overrides: Any
) -> ConfigWorkflow:
    """inference.json with such a network; ``overrides`` may hold components and expressions."""
    paths = {
        "input": str(source),
        "output_dir": str(output),
        "weights_file": str(weights) if isinstance(weights, Path) else weights,
    }
    return load_workflow(
        BUNDLE,
        "inference.json",
        overrides={name: path for name, path in paths.items() if name not in overrides},
        settings={**THRESHOLD_PLAN, **overrides},
        trust=True,
    )


def save_cases(folder: Path, *names: str) -> dict[str, np.ndarray]:
    """Synthetic images ``NAME.nii.gz`` with two boxes, and their arrays."""
    arrays = {}
    for index, name in enumerate(names):
        array = np.random.default_rng(index).uniform(1, 20, (20, 18, 16)).astype(np.float32)
        array[3:12, 4:12, 5:12] = 60
        array[6:9, 6:9, 6 : 9 + index] = 120
        save_nifti(folder / f"{name}.nii.gz", array, AFFINE)
        arrays[name] = array
    return arrays


def run_of(output: Path) -> dict[str, Any]:
    """The content of run.json."""
    content: dict[str, Any] = json.loads((output / "run.json").read_text())
    return content

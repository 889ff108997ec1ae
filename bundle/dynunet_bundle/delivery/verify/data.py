"""A synthetic data set for a plan, just large enough to open a bundle and to train one iteration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from dynunet_bundle.files import write_json

NUM_CASES = 2
SIDE = 32
"""Voxels along an axis."""


def make_dataset(folder: Path, plan: Mapping[str, Any]) -> Path:
    """Write noise images, in which each class is a slab, in the layout of the Decathlon.

    Args:
        folder: folder to create.
        plan: a config with the plan ids.

    Returns:
        ``folder``.
    """
    values = [*plan["label_values"]]
    channels = plan["channel_names"]
    affine = np.diag([*[float(np.median(plan["spacing"]))] * 3, 1.0])
    label = _slabs(values)
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for index in range(NUM_CASES):
        noise = rng.normal(0.0, 50.0, (SIDE, SIDE, SIDE, len(channels))).astype(np.float32)
        image = (noise + 100 * label[..., np.newaxis]).squeeze()
        nib.save(nib.Nifti1Image(image, affine), folder / "imagesTr" / f"made_{index}.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), folder / "labelsTr" / f"made_{index}.nii.gz")
        nib.save(nib.Nifti1Image(image, affine), folder / "imagesTs" / f"made_{index}.nii.gz")
    write_json(folder / "dataset.json", _description(channels, plan["label_names"], values))
    return folder


def _slabs(values: Sequence[int]) -> np.ndarray:
    """``[SIDE, SIDE, SIDE]`` int16 with one slab per value, in the middle of the volume."""
    label = np.zeros((SIDE,) * 3, np.int16)
    edges = np.linspace(SIDE // 4, SIDE - SIDE // 4, len(values) + 1).astype(int)
    for value, first, last in zip(values, edges[:-1], edges[1:], strict=True):
        label[8:24, 8:24, first:last] = value
    return label


def _description(
    channels: Sequence[str], names: Sequence[str], values: Sequence[int]
) -> dict[str, Any]:
    cases = [f"made_{index}.nii.gz" for index in range(NUM_CASES)]
    return {
        "name": "made up",
        "modality": {str(index): name for index, name in enumerate(channels)},
        "labels": {str(value): name for value, name in zip(values, names, strict=True)},
        "training": [
            {"image": f"./imagesTr/{case}", "label": f"./labelsTr/{case}"} for case in cases
        ],
        "test": [f"./imagesTs/{case}" for case in cases],
    }

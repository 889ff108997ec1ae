"""Synthetic probabilities, saved like those of an inference."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from dynunet_bundle.inference.probabilities import SaveProbabilitiesd
from dynunet_bundle.labels.scheme import LabelScheme

LABELS = {
    "label_names": ["background", "liver", "tumour"],
    "label_values": [0, 1, 2],
    "regions": None,
    "regions_class_order": None,
}
REGIONS = {
    "label_names": ["background", "edema", "core"],
    "label_values": [0, 1, 4],
    "regions": {"whole": [1, 4], "core": [4]},
    "regions_class_order": [1, 4],
}


def save_case(
    folder: Path,
    source: Path,
    probabilities: np.ndarray,
    labels: Mapping[str, Any] = LABELS,
    affine: np.ndarray | None = None,
) -> None:
    """Save ``[C, X, Y, Z]`` of one image."""
    meta = {"filename_or_obj": str(source)}
    tensor = MetaTensor(
        torch.as_tensor(probabilities),
        affine=torch.as_tensor(np.eye(4) if affine is None else affine),
        meta=meta,
    )
    scheme = LabelScheme.from_plan(labels)
    SaveProbabilitiesd("probability", str(folder), scheme)({"probability": tensor})


def softmax_of(logits: np.ndarray) -> np.ndarray:
    """Softmax over the first axis."""
    powers = np.exp(logits - logits.max(0))
    return powers / powers.sum(0)


def one_hot(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """``[C, X, Y, Z]`` of class numbers."""
    return np.stack([(classes == number).astype(float) for number in range(num_classes)])


def random_probabilities(seed: int, shape: Sequence[int], regions: bool = False) -> np.ndarray:
    """Softmax of three classes, or sigmoids of two regions."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2 if regions else 3, *shape))
    return 1 / (1 + np.exp(-logits)) if regions else softmax_of(logits)

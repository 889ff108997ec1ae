"""Files of weights with their JSON, of small networks with seeded weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynunet_bundle.networks.architectures import plain_network
from dynunet_bundle.networks.weights import save_weights

PLAN: dict[str, Any] = {
    "task_name": "Task99_Phantom",
    "spatial_dims": 3,
    "axcodes": "SAR",
    "channel_names": ["MRI"],
    "label_names": ["background", "head", "tail"],
    "label_values": [0, 1, 2],
    "spacing": [2.0, 2.0, 2.0],
    "patch_size": [16, 16, 16],
    "batch_size": 2,
    "batch_dice": True,
    "architecture": "DynUNet",
    "kernel_sizes": [[3] * 3] * 3,
    "strides": [[1] * 3, [2] * 3, [2] * 3],
    "filters": [4, 6, 8],
    "normalization": ["zscore"],
    "intensity_statistics": [None],
}
FLAT = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
TWO_D = {
    "spatial_dims": 2,
    "spacing": [2.0, 2.0],
    "patch_size": [16, 16],
    "kernel_sizes": [[3] * 2] * 3,
    "strides": [[1] * 2, [2] * 2, [2] * 2],
}
CT = {"lower": -10.0, "upper": 90.0, "mean": 40.0, "std": 12.0}
REGIONS = {
    "label_names": ["background", "oedema", "core", "label 4"],
    "label_values": [0, 1, 2, 4],
    "regions": {"whole": [1, 2, 4], "core": [2, 4], "enhancing": [4]},
    "regions_class_order": [1, 2, 4],
}


def built(plan: Mapping[str, Any]) -> nn.Module:
    """The network of a plan, for prediction."""
    names = ("spatial_dims", "kernel_sizes", "strides", "filters", "norm_name", "negative_slope")
    masks = len(plan["label_names"]) - 1 if plan.get("cascade") else 0
    return plain_network(
        plan["architecture"],
        in_channels=len(plan["channel_names"]) + masks,
        out_channels=len(plan.get("regions") or plan["label_names"]),
        **{name: plan[name] for name in names if name in plan},
    )


def save_model(
    path: Path, seed: int = 0, facts: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A model.pt of seeded weights with its JSON."""
    plan = PLAN | changes
    torch.manual_seed(seed)
    network = built(plan)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.normal_(parameter, float(name.endswith("weight")), 0.3)
        if name.startswith("output_block"):
            # large logits: nnU-Net rounds those of a volume's corners to whole numbers
            parameter.data.mul_(30)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(
        path, network.state_dict(), plan, {"epoch": 3, "mirror_axes": [0], **(facts or {})}
    )
    return path

"""Shared by tests of exports: a tiny network of a plan, its weights and its overlay."""

import json
from pathlib import Path
from typing import Any

import torch
from conftest import BUNDLE, TINY, tiny_plan
from monai.bundle import ConfigParser
from torch import nn

from dynunet_bundle.networks.weights import save_weights
from dynunet_bundle.planning.plan import PLAN_IDS

DEFAULTS = json.loads((BUNDLE / "configs" / "inference.json").read_text())
TINY_PLAN = {name: TINY[name] for name in PLAN_IDS if name in TINY}
RESIDUAL = "ResidualEncoderUNet"
PLANS: dict[str, dict[str, Any]] = {
    "3d": TINY_PLAN,
    "2d": {**TINY_PLAN, **tiny_plan(2)},
    "residual": {**TINY_PLAN, "architecture": RESIDUAL},
    "regions": {
        **TINY_PLAN,
        "channel_names": ["T1", "T2"],
        "normalization": ["zscore", "zscore"],
        "intensity_statistics": [None, None],
        "regions": {"whole": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
    },
}


def plan_of(name: str) -> dict[str, Any]:
    """All plan ids of one of PLANS."""
    return {key: DEFAULTS[key] for key in DEFAULTS["plan"]} | PLANS[name]


def network_of_plan(name: str) -> nn.Module:
    """network_def of inference.json for one of PLANS, with seeded weights scaled like those of a trained network."""
    torch.manual_seed(0)
    network = ConfigParser({**DEFAULTS, **PLANS[name]}).get_parsed_content("network_def").eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def make_model(folder: Path, name: str = "3d") -> tuple[Path, Path]:
    """Write ``model.pt`` with its JSON, and ``overlay.json``; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, overlay = folder / "model.pt", folder / "overlay.json"
    save_weights(weights, network_of_plan(name).state_dict(), plan_of(name), {})
    overlay.write_text(json.dumps(PLANS[name]))
    return weights, overlay

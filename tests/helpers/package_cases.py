"""Shared by tests of packages: a tiny trained network of a plan, and requests to package it."""

import json
from pathlib import Path
from typing import Any

import torch
from conftest import BUNDLE, ROOT, TINY, tiny_plan
from monai.bundle import ConfigParser

from dynunet_bundle.delivery.package.make import PackageRequest
from dynunet_bundle.networks.weights import save_weights
from dynunet_bundle.planning.plan import PLAN_IDS, plan_from

NAME = "phantom_mr_segmentation"
DEFAULTS = json.loads((BUNDLE / "configs" / "inference.json").read_text())
SCHEDULE = {"epochs": 1, "iterations_per_epoch": 1, "val_interval": 1, "num_folds": 3}
"""Ids of train.json that make every command of a card short."""

PLANS: dict[str, dict[str, Any]] = {
    "3d": {"label_names": ["background", "head", "tail"]},
    "2d": tiny_plan(2),
    "gaps": {"label_names": ["background", "near", "far"], "label_values": [0, 3, 7]},
    "regions": {
        "channel_names": ["T1", "T2"],
        "normalization": ["zscore", "zscore"],
        "intensity_statistics": [None, None],
        "regions": {"whole": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
    },
}


def overlay_of(plan: str) -> dict[str, Any]:
    """Plan ids and schedule of one of PLANS."""
    tiny = {name: TINY[name] for name in PLAN_IDS if name in TINY}
    return {**tiny, "task_name": "Task99_Phantom", **PLANS[plan], **SCHEDULE}


def make_model(folder: Path, plan: str = "3d", **facts: Any) -> tuple[Path, Path]:
    """Write ``model.pt`` with its JSON, and ``overlay.json``; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, overlay = folder / "model.pt", folder / "overlay.json"
    config = {**DEFAULTS, **overlay_of(plan)}
    torch.manual_seed(0)
    network = ConfigParser(config).get_parsed_content("network_def")
    save_weights(weights, network.state_dict(), plan_from(config).overlay(), facts)
    overlay.write_text(json.dumps(overlay_of(plan)))
    return weights, overlay


def request_for(folder: Path, plan: str = "3d", **changes: Any) -> PackageRequest:
    """A request to package a random model of one of PLANS to ``folder/out``."""
    weights, overlay = make_model(folder / "model", plan, **changes.pop("model", {}))
    settings = {
        "bundle": BUNDLE,
        "overlays": [str(overlay)],
        "weights": weights,
        "name": NAME,
        "output": folder / "out",
        "changelog": ROOT / "CHANGELOG.md",
        **changes,
    }
    return PackageRequest(**settings)

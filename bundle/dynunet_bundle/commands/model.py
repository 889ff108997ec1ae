"""The config of a training for a command: that of a model, or that of overlays."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.terminal import say


def say_model(weights: Path) -> None:
    """Print where weights are, and the score of their epoch."""
    from dynunet_bundle.networks.model_json import model_facts

    facts = model_facts(weights)
    score, epoch = facts.get("val_mean_dice"), facts.get("epoch")
    parts = [] if epoch is None else [f"epoch {epoch}"]
    parts += [] if score is None else [f"mean Dice {score:.4f}"]
    say("model: {}{}", weights, f" ({', '.join(parts)})" if parts else "")


def training_workflow(arguments: argparse.Namespace, overrides: Mapping[str, Any]) -> Any:
    """Load train.json with the plan and the recipe of ``--model``, then the overlays of ``--config_file``.

    Args:
        arguments: with ``model``, ``config_file`` and ``trust``.
        overrides: values by id.

    Returns:
        The initialized workflow.

    Raises:
        BundleError: if the model lacks its plan, or as ``load_workflow``.
    """
    from dynunet_bundle.api.data_sets import training_of
    from dynunet_bundle.configs.workflow import load_workflow

    plan, recipe = training_of(arguments.model)
    return load_workflow(
        BUNDLE,
        "train.json",
        arguments.config_file,
        overrides,
        plan=plan,
        recipe=recipe,
        trust=arguments.trust,
    )

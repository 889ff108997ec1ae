"""The config of a training for a command: that of a model, or that of overlays."""

import argparse
from collections.abc import Mapping
from typing import Any

from dynunet_bundle.commands.places import BUNDLE


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
    from dynunet_bundle.configs.workflow import load_workflow
    from dynunet_bundle.errors import WeightsError
    from dynunet_bundle.networks.model_json import model_files, model_plan, model_recipe

    plan, recipe = {}, {}
    if arguments.model:
        weights = model_files(arguments.model)[0]
        plan, recipe = dict(model_plan(weights)), model_recipe(weights)
        if not plan:
            raise WeightsError(
                f"{weights.with_suffix('.json')} has no plan. Pass the task overlay with --config_file."
            )
    return load_workflow(
        BUNDLE,
        "train.json",
        arguments.config_file,
        overrides,
        plan=plan,
        recipe=recipe,
        trust=arguments.trust,
    )

"""The recipe of a training: what its overlays and its command line set, apart from the plan and from places.

Stored on disk: ``recipe`` in model.json, as an overlay would set the ids; with the plan it makes the configs of a
package, so that nobody has to name the overlays again. And ``made_with``, the names of what the command named.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.configs.command import check_overlays, read_texts
from dynunet_bundle.configs.command_line import CommandLine, runs_as_command
from dynunet_bundle.configs.overrides import (
    RUN_ARGUMENTS,
    check_overrides,
    known_ids,
    read_overlay,
    top_level,
)
from dynunet_bundle.configs.settings import FOLDERS
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.planning.plan import PLAN_IDS

MAIN = ("train.json", "evaluate.json", "inference.json", "multi_gpu_train.json")
"""Configs that the bundle adds itself; all others on a command line are overlays."""

NOT_LEARNT = {
    *("splits_file", "fold", "num_folds", "restart", "pretrained", "checkpoint", "skip_validation"),
    *("num_workers", "feed_threads", "feed_workers", "masks_dir", "probabilities_dir"),
    *("imports", "initialize", "run", "training", "finalize", "preflight", "numerics", "processes"),
    *("plan", "labels", "cases", "recipe", "allow_trained_cases"),
}
"""Ids that say where and on what a training ran, and not how."""


def training_recipe(contents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The recipe in the contents of overlays; later ones win.

    Args:
        contents: ids and values.

    Returns:
        The ids of the recipe, with values that JSON can hold.
    """
    left_out = {*FOLDERS, *PLAN_IDS, *NOT_LEARNT}
    merged = {key: value for content in contents for key, value in content.items()}
    return {
        key: value
        for key, value in merged.items()
        if top_level(key.lstrip("+")) not in left_out and _is_json(value)
    }


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def recipe_of_command() -> dict[str, Any]:
    """The recipe in the command line of this process: ``recipe`` of train.json.

    Returns:
        Empty in a process that is not ``python -m monai.bundle``, such as a server. ``load_workflow`` passes the
        recipe itself.
    """
    if not runs_as_command(sys.argv):
        return {}
    line, known = _command()
    texts = {name: text for name, text in line.texts.items() if name not in RUN_ARGUMENTS}
    given = {
        name: value
        for name, value in line.settings.items()
        if name not in (*RUN_ARGUMENTS, *line.texts)
    }
    run = [line.settings.get("run_id", "run"), line.settings.get("init_id", "initialize")]
    usage = check_overlays(line.config_files, known, run)
    contents = [read_overlay(file, known) for file in _overlays(line)]
    return training_recipe([*contents, given, read_texts(texts, [usage])])


def command_facts() -> dict[str, Any]:
    """The run id and the file names of the overlays in the command line of this process; empty in a server."""
    if not runs_as_command(sys.argv):
        return {}
    line, _ = _command()
    names = [Path(file).name for file in _overlays(line)]
    return {"run_id": str(line.settings.get("run_id", "run")), "overlays": names}


def _command() -> tuple[CommandLine, set[str]]:
    """The command line, and the ids of the configs."""
    configs = BUNDLE / "configs"
    known = known_ids(configs)
    return check_overrides(sys.argv[1:], known), known


def _overlays(line: CommandLine) -> list[str]:
    return [file for file in line.config_files if Path(file).name not in MAIN]

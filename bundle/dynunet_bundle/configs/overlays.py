"""The bundle's configs with the values of overlays written into them: configs of one task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.configs.overrides import CONFIG_SCHEMA, known_ids, read_overlay, top_level
from dynunet_bundle.dataset.folds import SPLITS_ID
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json
from dynunet_bundle.labels.largest_component import RULES_ID, ComponentRules, require_rules

MERGED = ("train.json", "evaluate.json", "inference.json")
COPIED = ("multi_gpu_train.json", "multi_gpu_evaluate.json", "inference_trt.json", "logging.conf")
"""Overlays that come last on a command line, after the task's overlay, and take precedence over it."""

DATA_ROOT = "/workspace/data"
"""Data folder of the Model Zoo's configs."""


def merged_configs(
    config_dir: str | Path,
    overlays: Sequence[str | Path],
    model: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Content of the configs that an overlay changes.

    MONAI merges when it runs a config. Here the result is written to files, because MONAI Label and
    ``verify_net_in_out`` open one file only.

    Args:
        config_dir: the bundle's ``configs``.
        overlays: config files, later ones win.
        model: ids that model.json says, as the first overlay.

    Returns:
        The content by file name. An id goes to every config that has it; an id that none has is refused. The file of
        folds is left out.

    Raises:
        ConfigError: if an overlay is missing or malformed, names an id that no config has, or merges into a list.
    """
    folder = Path(config_dir)
    configs = {name: read_json(folder / name, ConfigError, CONFIG_SCHEMA) for name in MERGED}
    known = known_ids(folder)
    contents = [(str(overlay), read_overlay(overlay, known)) for overlay in overlays]
    for overlay, content in [("model.json", model or {}), *contents]:
        for key, value in content.items():
            if key.startswith("+"):
                raise ConfigError(
                    f'{overlay} sets "{key}", which only "python -m monai.bundle run" can merge. Write the whole value.'
                )
            if key == SPLITS_ID:
                # case names and a folder of this machine, which a package must not have
                continue
            for config in configs.values():
                set_id(config, key, value)
    for config in configs.values():
        if "dataset_dir" in config:
            task = configs["train.json"]["task_name"]
            config["dataset_dir"] = f"{DATA_ROOT}/{task}"
    return configs


def set_id(config: dict[str, Any], key: str, value: Any) -> None:
    """Set an id if the config has it, as a later file on the command line would.

    Args:
        config: content of a config, changed in place. Its own keys may name parts (``validate#inferer``).
        key: an id, e.g. ``overlap`` or ``optimizer#momentum``.
        value: its new value.

    Raises:
        ConfigError: if the id names a part of a section that has no such part.
    """
    key = key.replace("::", "#")
    owner = next((own for own in _starts(key) if own in config), None)
    if owner is not None:
        _set_part(config, [owner, *key[len(owner) + 1 :].split("#")], key, value)
        return
    # the section is replaced as a whole, with the parts that this config sets
    parts = [own for own in config if own.startswith(f"{key}#")]
    for own in parts:
        del config[own]
    if parts:
        config[key] = value


def _starts(key: str) -> list[str]:
    """The id itself and the sections that contain it, the longest first: ``a#b#c``, ``a#b``, ``a``."""
    names = key.split("#")
    return ["#".join(names[:count]) for count in range(len(names), 0, -1)]


def _set_part(config: dict[str, Any], path: Sequence[str], key: str, value: Any) -> None:
    steps = [step for step in path if step]
    part: Any = config
    try:
        for step in steps[:-1]:
            part = part[int(step)] if isinstance(part, list) else part[step]
        if isinstance(part, list):
            part[int(steps[-1])] = value
        else:
            part[steps[-1]] = value
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ConfigError(
            f'an overlay sets "{key}", but {top_level(key)} has no such part.'
        ) from error


def rules_of(overlays: Sequence[str], config_dir: Path) -> ComponentRules:
    """Component rules of overlays; later overlays take precedence, empty if none has rules.

    Args:
        overlays: config files, such as ``dynunet-bundle find-best`` writes.
        config_dir: folder of the bundle's configs.

    Raises:
        ConfigError: if an overlay is missing or malformed, or names an id that no config has.
    """
    known = known_ids(config_dir) | {RULES_ID}
    rules: ComponentRules = ()
    for overlay in overlays:
        rules = read_overlay(overlay, known).get(RULES_ID, rules)
    require_rules(rules)
    return rules

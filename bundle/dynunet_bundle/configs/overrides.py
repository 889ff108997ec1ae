"""Ids set by a command line or an overlay, checked against those of the configs."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.configs.command_line import CommandLine, read_command_line
from dynunet_bundle.configs.expressions import evaluation_fault
from dynunet_bundle.configs.literals import find_altered_text, literal
from dynunet_bundle.configs.values import or_code
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json
from dynunet_bundle.planning.plan import PLAN_SCHEMA, find_old_architecture
from dynunet_bundle.shapes import MAX_VALUE, excerpt, object_with

RUN_ARGUMENTS = (
    "run_id",
    "init_id",
    "final_id",
    "meta_file",
    "config_file",
    "logging_file",
    "tracking",
    "tracking_uri",
    "experiment_name",
    "run_name",
    "save_execute_config",
    "args_file",
    "workflow_name",
    "workflow_type",
    "properties_path",
    "trust",
)
"""Arguments of ``monai.bundle run`` and ``run_workflow``, the ids that their tracking adds, and ``trust`` of
``check_command``."""

CONFIG_SCHEMA = object_with(
    {name: or_code(schema) for name, schema in PLAN_SCHEMA["properties"].items()},
    propertyNames={"maxLength": 200},
    description="Write ids and values as in bundle/configs; dynunet-bundle plan writes a whole overlay.",
)
"""Shape of a config or an overlay: any ids, and the values of a plan."""


def known_ids(config_dir: Path) -> set[str]:
    """Top-level ids of all configs that the bundle ships."""
    files = (file for file in sorted(config_dir.glob("*.json")) if file.name != "metadata.json")
    return {top_level(key) for file in files for key in read_json(file, ConfigError, CONFIG_SCHEMA)}


def read_overlay(path: str | Path, known: set[str]) -> dict[str, Any]:
    """Read an overlay and check its ids.

    Args:
        path: a JSON config file.
        known: top-level ids of the configs.

    Raises:
        ConfigError: if the file is missing or malformed, names an id that no config has, or names the network by an
            import path, as earlier versions did.
    """
    content: dict[str, Any] = read_json(path, ConfigError, CONFIG_SCHEMA)
    _require_known(content, known, str(path))
    fault = find_old_architecture(content)
    if fault:
        raise ConfigError(f"{path}: {fault}")
    _require_unaltered(content, str(path))
    return content


def check_overrides(arguments: Sequence[str], known: set[str]) -> CommandLine:
    """Refuse ids that no config has; MONAI adds a misspelt one silently, and it changes nothing.

    Args:
        arguments: command line after the program name.
        known: top-level ids of the configs.

    Returns:
        The command line, as MONAI reads it.

    Raises:
        ConfigError: naming the nearest known id; or for a value of None, which MONAI silently ignores.
    """
    line = read_command_line(arguments)
    for name, text in line.texts.items():
        if name not in RUN_ARGUMENTS and text in ("None", "null"):
            raise ConfigError(f"--{name} {text} would change nothing. Pass --{name} '$None'.")
    ids = {name: value for name, value in line.settings.items() if name not in RUN_ARGUMENTS}
    merging = next((name for name in line.texts if name.startswith("+")), None)
    if merging:
        raise ConfigError(
            f"--{merging} would replace and not merge; only a config file can merge. Pass the whole value as "
            f"--{merging.lstrip('+')}, or an overlay."
        )
    _require_known(ids, known, "the command line")
    contents = [read_overlay(file, known) for file in line.config_files if Path(file).is_file()]
    # a text of the command line itself is corrected by ``corrected_texts``
    is_corrected = {name for name in line.texts if isinstance(ids.get(name), str)}
    _require_unaltered(
        {name: value for name, value in ids.items() if name not in is_corrected}, "the command"
    )
    imports = " ".join(str(content.get("imports", "")) for content in [*contents, ids])
    for name, text in line.texts.items():
        if name in ids:
            _require_resolved(name, text, known, set(re.findall(r"\w+", imports)))
    return line


def _require_unaltered(ids: Mapping[str, Any], where: str) -> None:
    for name, value in ids.items():
        text = find_altered_text(value)
        if text is not None:
            raise ConfigError(
                f'{where} sets {name} with the text "{excerpt(text, MAX_VALUE)}", in which MONAI would write :: for #. '
                f"Use another name, or write {excerpt(literal(text), MAX_VALUE)}"
            )


def _require_resolved(name: str, text: str, known: set[str], imported: set[str]) -> None:
    """Refuse an expression or a reference that leads nowhere; most often it is a path."""
    fault = None
    if text.startswith("$"):
        fault = evaluation_fault(text, imported)
    elif text.startswith("@") and top_level(text[1:]) not in known:
        fault = f'no config has the id "{top_level(text[1:])}"'
    if fault:
        raise ConfigError(
            f"--{name} {excerpt(text, MAX_VALUE)}: {fault}. To pass it as a text, write "
            f'--{name} "{excerpt(literal(text), MAX_VALUE)}"'
        )


def _require_known(ids: Iterable[str], known: set[str], where: str) -> None:
    for name in map(top_level, ids):
        if name not in known and name != "_meta_":
            close = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f'did you mean "{close[0]}"?' if close else "see configs/train.json for the ids."
            raise ConfigError(f'{where} sets "{name}", which no config has; {hint}')


def top_level(key: str) -> str:
    """The top-level id that a key of a config or an override belongs to: ``+train#handlers`` -> ``train``."""
    return key.lstrip("+").split("#")[0].split("::")[0]

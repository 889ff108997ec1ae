"""The overrides of a ``monai.bundle`` command: read by the table of settings, and checked against its configs."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from dynunet_bundle.configs.command_line import CommandLine
from dynunet_bundle.configs.literals import literal
from dynunet_bundle.configs.overrides import RUN_ARGUMENTS, read_overlay, top_level
from dynunet_bundle.configs.results import expression_results
from dynunet_bundle.configs.usage import Usage
from dynunet_bundle.configs.values import (
    CODE,
    monai_text,
    monai_value,
    read_value,
    require_fitting_plan,
    require_values,
    schema_of,
    without_dollar,
)
from dynunet_bundle.dataset.folds import SPLITS_ID, require_splits
from dynunet_bundle.errors import ConfigError, some_of
from dynunet_bundle.planning.plan import PLAN_IDS
from dynunet_bundle.shapes import has_shape

logger = logging.getLogger(__name__)


def corrected_texts(line: CommandLine, known: set[str]) -> dict[str, str]:
    """Check the overrides of a command, and find those that MONAI takes for other values than they stand for.

    Args:
        line: the command; its ids are known, and ``require_safe`` has accepted its configs.
        known: top-level ids of the configs.

    Returns:
        By id, another text, which MONAI reads as what the id holds.

    Raises:
        ConfigError: for an id that the run does not use, a value of a wrong type or out of range, a plan whose ids do
            not fit each other, or configs of another folder than the bundle's.
    """
    files = line.config_files
    lists = [line.settings.get("run_id", "run"), line.settings.get("init_id", "initialize")]
    if not all(Path(file).is_file() for file in files):
        # MONAI names it
        return {}
    usage = check_overlays(files, known, lists)
    if files:
        _require_steps(lists[0], usage.config, files)
    require_bundle_root(usage, files, line.settings)
    given = {
        name: value
        for name, value in line.settings.items()
        if name not in (*RUN_ARGUMENTS, *line.texts)
    }
    require_values(given, "the args file", usage.config)
    texts = {name: text for name, text in line.texts.items() if name not in RUN_ARGUMENTS}
    values = read_texts(texts, [usage])
    for name in given:
        usage.require_used(name)
    require_plan(usage.config, {**given, **values})
    require_results(usage.config, {**given, **values})
    corrected = {name: _text_for_monai(texts[name], value) for name, value in values.items()}
    found = {name: text for name, text in corrected.items() if text is not None}
    idle = [name for name in (*given, *values) if not usage.uses(name.replace("::", "#"))]
    if idle and not found:
        logger.warning("%s does not use %s", usage.run, some_of(idle))
    return found


def _require_steps(name: str, config: Mapping[str, Any], files: Sequence[str]) -> None:
    """Refuse a run id that leads to no list of steps. MONAI builds the parts of a section, and then runs nothing.

    Raises:
        ConfigError: with the run ids that would do.
    """

    def steps(key: str) -> list[Any] | None:
        value = config.get(key)
        if isinstance(value, str):
            value = config.get(value.removeprefix("@"))
        return value if isinstance(value, list) else None

    if steps(name) is not None and name != "initialize":
        return
    runs = [key for key in config if "@preflight" in (steps(key) or ())]
    raise ConfigError(
        f'the configs have no list "{name}" to run: {", ".join(files)}. They have {" and ".join(runs) or "none"}. '
        "Pass configs/train.json for training, with configs/evaluate.json for evaluating, or configs/inference.json "
        "for inference."
    )


def check_overlays(files: Sequence[str], known: set[str], lists: Sequence[str]) -> Usage:
    """Check the values of configs.

    Args:
        files: a config of the bundle, and overlays.
        known: top-level ids of the configs.
        lists: ids of the lists that run, the main one first.

    Returns:
        What the run uses of them.

    Raises:
        ConfigError: if a file is missing or malformed, or has an unknown id, a value of a wrong type or out of range.
    """
    contents = {file: read_overlay(file, known) for file in files}
    config: dict[str, Any] = {}
    if files:
        folder = Path(files[0]).resolve().parent
        own = [file for file in files if Path(file).resolve().parent == folder]
        config = ConfigParser.load_config_files(own)
    for file, content in contents.items():
        require_values(content, file, config)
    return Usage(files, *lists)


def read_texts(texts: Mapping[str, str], usages: Sequence[Usage]) -> dict[str, Any]:
    """The values of overrides.

    Args:
        texts: what the command line says, by id.
        usages: the runs that get them; each id is for one of these at least.

    Returns:
        Values by id, each of the type that the id holds.

    Raises:
        ConfigError: for an id that no run uses, or a value of a wrong type or out of range.
    """
    values: dict[str, Any] = {}
    for typed, text in texts.items():
        name = typed.replace("::", "#")
        user = next((usage for usage in usages if usage.uses(name)), None)
        if usages:
            (user or usages[0]).require_used(name)
        values[typed] = read_value(name, text, schema_of(name, user.config if user else {}))
    return values


def _text_for_monai(text: str, value: Any) -> str | None:
    """Another text for a value that MONAI would read otherwise; None if the given one will do."""
    if isinstance(value, str) and "#" in value and not has_shape(value, CODE):
        # MONAI writes :: for it
        value = literal(value)
    # not by ==, since True equals 1
    return None if repr(monai_value(text)) == repr(value) else monai_text(value)


def require_plan(config: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse ids of a plan that do not fit each other, and a file of folds that is gone; no code is run.

    Args:
        config: content of the configs.
        values: overrides by id.

    Raises:
        ConfigError: with the values that would do.
        DatasetError: for a file of folds that does not exist.
    """
    content = _with_overrides(config, values)
    require_fitting_plan({name: content[name] for name in PLAN_IDS if name in content})
    require_named_folds(content)


def require_results(config: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse expressions whose results are of a wrong type or out of range, or do not fit the plan.

    The expressions are run, so this comes after ``require_safe``, and after nothing else is left to refuse.

    Args:
        config: content of the configs.
        values: overrides by id.

    Raises:
        ConfigError: naming the id, the result and what it must be.
    """
    content = _with_overrides(config, values)
    results = expression_results(content)
    require_values(results, "an expression", config)
    require_fitting_plan(
        {name: results.get(name, content[name]) for name in PLAN_IDS if name in content}
    )


def _with_overrides(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    parser = ConfigParser(copy.deepcopy(dict(config)))
    for name, value in values.items():
        # a part of a section needs the section
        if top_level(name) in config or top_level(name) == name:
            parser[name] = copy.deepcopy(value)
    content: dict[str, Any] = parser.get()
    return content


def require_named_folds(content: Mapping[str, Any]) -> None:
    """Refuse a file of folds that was named and is gone: folds drawn in its place would train on its held-out cases.

    Args:
        content: the content of all configs and overrides together. The default of the id is an expression, and its
            file need not exist.

    Raises:
        ConfigError: with the ways on.
    """
    path = without_dollar(content.get(SPLITS_ID))
    if isinstance(path, str) and not has_shape(path, CODE) and content.get("fold") != "all":
        require_splits(path)


def require_bundle_root(usage: Usage, files: Sequence[str], given: Iterable[str]) -> None:
    """Refuse to take the current folder for the bundle where the configs are in another.

    Args:
        usage: the run.
        files: its configs.
        given: ids that the command sets.

    Raises:
        ConfigError: with the folder to pass.
    """
    folder = Path(files[0]).resolve().parent if files else None
    if folder is None or folder.name != "configs" or "bundle_root" in given:
        return
    if usage.config.get("bundle_root") == "." and Path.cwd() != folder.parent:
        raise ConfigError(
            f'bundle_root is ".", the current folder, but the configs are in {folder}. '
            f"Pass --bundle_root {folder.parent}, or run the command in that folder."
        )

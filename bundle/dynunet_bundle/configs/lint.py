"""A static check of configs: what they would run is looked at, and nothing of it is run.

A bundle's configs are code, and whoever runs a bundle trusts it (SECURITY.md). What is checked here: that the configs
that are shipped stay within a small grammar (``config_expressions.py``) and a list of packages (``config_targets.py``),
and that a file from outside, such as a task overlay, brings values and no code of its own.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver

from dynunet_bundle.configs.expressions import expression_faults, reference_faults
from dynunet_bundle.configs.targets import target_fault
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json
from dynunet_bundle.planning.plan import PLAN_IDS

OWN_PACKAGE = "dynunet_bundle."
MODES = ("default", "callable", "partial")
"""Without ``debug``, which opens a debugger."""

NOT_CONFIGS = ("metadata.json",)
CODE_STARTS = ("$", "%", "@")


def lint_configs(config_dir: str | Path) -> list[str]:
    """Look at all configs of a bundle.

    Args:
        config_dir: the bundle's ``configs``.

    Returns:
        Faults, each as ``"train.json: id: what is not allowed"``; empty where all is well.

    Raises:
        ConfigError: if a config is malformed.
    """
    configs = _configs(Path(config_dir))
    # an overlay may refer to what only train.json has
    ids = {key: value for content in configs.values() for key, value in content.items()}
    return [
        f"{name}: {fault}"
        for name, content in configs.items()
        for fault in config_faults(content, {**ids, **content})
    ]


def config_faults(content: Mapping[str, Any], ids: Mapping[str, Any]) -> list[str]:
    """What is not allowed in one config, each as ``"id: what"``.

    Args:
        content: of the config.
        ids: of all configs that are read together with it; references may name them.
    """
    return list(_faults(content, "", {**ids, **content}))


def require_data(path: str | Path, content: Any, config_dir: str | Path) -> None:
    """Refuse an overlay with code of its own; one that lies in the bundle's ``configs`` is the bundle's.

    Plan ids must be literals. Other ids may use the expressions and components that configs may use, but of this
    package only what the bundle's own configs name.

    Args:
        path: of the overlay.
        content: what it holds.
        config_dir: the bundle's ``configs``.

    Raises:
        ConfigError: naming the id.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no ids. Write an overlay as a JSON object.")
    folder = Path(config_dir).resolve()
    if Path(path).resolve().parent == folder:
        return
    configs = _configs(folder)
    ids = {key: value for config in configs.values() for key, value in config.items()}
    faults = [*_code_in_plan(content), *config_faults(content, ids)]
    own = {target for config in configs.values() for _, target in _targets(config, "")}
    faults += [
        f"{where}: {target} is no component of the bundle's own configs"
        for where, target in _targets(content, "")
        if target.startswith(OWN_PACKAGE) and target not in own
    ]
    if faults:
        raise ConfigError(
            f"{path} would run code: {faults[0]}. An overlay from outside holds values; put code that you trust "
            "into the bundle's folder configs."
        )


def _configs(folder: Path) -> dict[str, dict[str, Any]]:
    files = [file for file in sorted(folder.glob("*.json")) if file.name not in NOT_CONFIGS]
    return {file.name: read_json(file, ConfigError) for file in files}


def _code_in_plan(content: Mapping[str, Any]) -> Iterator[str]:
    for key, value in content.items():
        if _parts(key)[0] in PLAN_IDS and not _is_literal(value):
            yield f"{key}: a plan holds literals only"


def _is_literal(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" not in value and all(map(_is_literal, value.values()))
    if isinstance(value, list):
        return all(map(_is_literal, value))
    return not (isinstance(value, str) and value.startswith(CODE_STARTS))


def _faults(value: Any, where: str, ids: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            place = f"{where}#{key}" if where else str(key)
            yield from (f"{place}: {fault}" for fault in _key_faults(str(key), item))
            yield from _faults(item, place, ids)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _faults(item, f"{where}#{index}", ids)
    elif isinstance(value, str):
        yield from (f"{where}: {fault}" for fault in _text_faults(value, ids))


def _parts(key: str) -> list[str]:
    """Parts of the id that a key stands for: ``+train#handlers`` -> ``train``, ``handlers``."""
    return str(ReferenceResolver.normalize_id(key.lstrip("+~"))).split(ReferenceResolver.sep)


def _key_faults(key: str, value: Any) -> Iterator[str]:
    key = _parts(key)[-1]
    if key == "_target_":
        fault = target_fault(value) if _is_name(value) else f"{value!r} is not a component's name"
        if fault:
            yield fault
    elif key == "_mode_" and value not in MODES:
        yield f"it is {value!r}, none of {', '.join(MODES)}"
    elif key == "_debug_":
        yield "it would open a debugger"


def _text_faults(text: str, ids: Mapping[str, Any]) -> list[str]:
    if text.startswith("$"):
        return expression_faults(text, ids)
    if text.startswith("%"):
        path, name = ConfigParser.split_path_id(text[1:])
        return ["it takes its value from another file"] if path else reference_faults(name, ids)
    return reference_faults(text[1:], ids) if text.startswith("@") else []


def _is_name(value: Any) -> bool:
    """Whether a ``_target_`` is a name itself; a reference could lead to one that another file sets."""
    return isinstance(value, str) and not value.startswith(CODE_STARTS)


def _targets(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if _parts(str(key))[-1] == "_target_" and _is_name(item):
                yield where or str(key), item
            yield from _targets(item, f"{where}#{key}" if where else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _targets(item, f"{where}#{index}")

"""A static check of configs: expressions and components are read, and nothing is run.

A bundle's configs are code, and running a bundle means trusting it (SECURITY.md). Two things are checked here: the
shipped configs keep to a small grammar (``expressions.py``) and a list of components (``targets.py``), and a file from
outside, such as a task overlay, brings values but no code. Overlays are also checked together, in the form in which
MONAI parses them: two files may spell out something that neither contains.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver
from monai.bundle.utils import merge_kv

from dynunet_bundle.configs.expressions import expression_faults, reference_faults
from dynunet_bundle.configs.overrides import CONFIG_SCHEMA, top_level
from dynunet_bundle.configs.targets import reader_fault, target_fault
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json
from dynunet_bundle.planning.plan import PLAN_IDS

MODES = ("default", "callable", "partial")
"""Allowed values of ``_mode_``: all of MONAI's except ``debug``, which opens a debugger."""

NOT_CONFIGS = ("metadata.json",)
CODE_STARTS = ("$", "%", "@")
MAX_MACRO_LEVELS = 5  # a macro may lead to a macro, but not in a circle
NUMBER = re.compile(r"(?<=#)\d+(?=#|$)")
"""Number of an item of a list in an id."""

REMEDY = (
    "An overlay from outside may hold values and the components of configs/targets.py. If you trust its author, pass "
    "--trust, or put the file into the bundle's folder configs."
)


def check_configs(config_dir: str | Path) -> list[str]:
    """Check all configs of a bundle.

    Args:
        config_dir: the bundle's ``configs``.

    Returns:
        Faults, each as ``"train.json: id: what is not allowed"``; empty if there are none.

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


def config_faults(
    content: Mapping[str, Any],
    ids: Mapping[str, Any],
    trusted: frozenset[tuple[str, str]] = frozenset(),
) -> list[str]:
    """Faults of one config, each as ``"id: what is not allowed"``.

    Args:
        content: the config.
        ids: content of all configs that are read together with it; references may name their ids.
        trusted: places with the texts that are allowed there: those of the bundle's own configs.
    """
    return list(_Check({**ids, **content}, trusted).faults(content, ""))


def require_safe(
    configs: Sequence[str | Path],
    config_dir: str | Path,
    settings: Mapping[str, Any] | None = None,
    trust: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Refuse configs from outside that would run code of their own. Files in ``config_dir`` itself are trusted.

    Plan ids must be literals. Other ids may use the expressions and components that the bundle's configs may use.

    Args:
        configs: files that MONAI will merge, in their order: a config of the bundle, then overlays.
        config_dir: the bundle's ``configs``.
        settings: ids of a command line, which are checked as an overlay is.
        trust: accept all files and settings unchecked.
        recipe: ids of model.json, which come before the overlays and are checked as an overlay is.

    Raises:
        ConfigError: naming the file and the id.
    """
    folder = Path(config_dir).resolve()
    foreign = [Path(file) for file in configs if Path(file).resolve().parent != folder]
    if trust or not (foreign or settings or recipe):
        return
    own = _configs(folder)
    ids = {key: value for content in own.values() for key, value in content.items()}
    contents = {str(file): read_json(file, ConfigError, CONFIG_SCHEMA) for file in foreign}
    for name, ids_given in (("model.json", recipe), ("the command line", settings)):
        if ids_given:
            contents[name] = dict(ids_given)
    for name, content in contents.items():
        if faults := [*_code_in_plan(content), *config_faults(content, ids)]:
            raise ConfigError(f"{name} would run code: {faults[0]}. {REMEDY}")
    merged = _merged(configs, settings or {}, recipe or {})
    ours = [file for file in configs if Path(file) not in foreign]
    # as they are written, and as MONAI parses them: a macro of ours copies texts to another place
    written = [*own.values(), *([_merged(ours, {})] if ours else [])]
    trusted = frozenset(pair for content in written for pair in _texts(content))
    if faults := config_faults(merged, {**ids, **merged}, trusted):
        raise ConfigError(
            f"{' and '.join(contents)} would run code together: {faults[0]}. {REMEDY}"
        )


def _configs(folder: Path) -> dict[str, dict[str, Any]]:
    files = [file for file in sorted(folder.glob("*.json")) if file.name not in NOT_CONFIGS]
    return {file.name: read_json(file, ConfigError, CONFIG_SCHEMA) for file in files}


def _merged(
    configs: Sequence[str | Path],
    settings: Mapping[str, Any],
    recipe: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The content that MONAI parses: files merged, ids split, macros resolved.

    Parts of sections that no file has are left out: MONAI refuses them, and ``load_workflow`` leaves them out.
    """
    first, *others = (read_json(file, ConfigError, CONFIG_SCHEMA) for file in configs)
    parser = ConfigParser(first)
    try:
        for ids in [recipe, *others, settings]:
            for key, value in ids.items():
                is_part = "#" in key or "::" in key
                if not is_part or top_level(key) in parser.config:
                    merge_kv(parser, key, value)
        _resolve_macros(parser)
    except Exception as error:  # MONAI raises many kinds for ids that lead nowhere
        names = ", ".join(str(file) for file in configs)
        raise ConfigError(f"{names} cannot be merged: {error}") from error
    content: dict[str, Any] = parser.get()
    return content


def _resolve_macros(parser: ConfigParser) -> None:
    """Resolve macros of macros too; MONAI resolves one level each time that it parses."""
    for _ in range(MAX_MACRO_LEVELS):
        parser.resolve_macro_and_relative_ids()
        if not any(text.startswith("%") for _, text in _texts(parser.get())):
            return
    raise ValueError(f"macros lead to macros, more than {MAX_MACRO_LEVELS} times")


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a config, each with its place."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, _inside(where, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, _inside(where, str(index)))
    elif isinstance(value, str):
        # MONAI writes ids with its new separator when it resolves macros
        yield from ((_place(where), text) for text in {value, _normal(value)})


def _inside(where: str, key: str) -> str:
    return f"{where}#{key}" if where else key


def _place(where: str) -> str:
    """An id without the numbers of items: an overlay that adds to a list moves the items that others add."""
    return NUMBER.sub("*", "#".join(_parts(where)))


def _normal(text: str) -> str:
    return str(ReferenceResolver.normalize_id(text))


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


def _parts(key: str) -> list[str]:
    """Parts of the id that a key stands for: ``+train#handlers`` -> ``train``, ``handlers``."""
    return _normal(key.lstrip("+~")).split(ReferenceResolver.sep)


class _Check:
    """Walks through a config and yields its faults."""

    def __init__(self, ids: Mapping[str, Any], trusted: frozenset[tuple[str, str]]) -> None:
        self._ids = ids
        self._trusted = trusted

    def faults(self, value: Any, where: str) -> Iterator[str]:
        """Faults of a part of the config, each as ``"id: what is not allowed"``."""
        if isinstance(value, dict):
            if isinstance(value.get("_target_"), str) and (fault := reader_fault(value)):
                yield f"{where}: {fault}"
            for key, item in value.items():
                place = _inside(where, str(key))
                yield from (f"{place}: {fault}" for fault in self._key_faults(place, item))
                yield from self.faults(item, place)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from self.faults(item, _inside(where, str(index)))
        elif isinstance(value, str) and not self._is_trusted(where, value):
            yield from (f"{where}: {fault}" for fault in self._text_faults(value))

    def _is_trusted(self, where: str, text: str) -> bool:
        return (_place(where), text) in self._trusted

    def _key_faults(self, where: str, value: Any) -> Iterator[str]:
        key = _parts(where)[-1]
        if key == "_target_":
            fault = self._target_fault(where, value)
            if fault:
                yield fault
        elif key == "_mode_" and value not in MODES:
            yield f"it is {value!r}, not one of {', '.join(MODES)}"
        elif key == "_debug_":
            yield "it would open a debugger"

    def _target_fault(self, where: str, value: Any) -> str | None:
        # a reference could lead to a name that another file sets
        if not isinstance(value, str) or value.startswith(CODE_STARTS):
            return f"{value!r} is not a component's name"
        return None if self._is_trusted(where, value) else target_fault(value)

    def _text_faults(self, text: str) -> list[str]:
        if text.startswith("$"):
            return expression_faults(text, self._ids)
        if text.startswith("%"):
            path, name = ConfigParser.split_path_id(text[1:])
            if path:
                return ["it takes its value from another file"]
            return reference_faults(name, self._ids)
        return reference_faults(text[1:], self._ids) if text.startswith("@") else []

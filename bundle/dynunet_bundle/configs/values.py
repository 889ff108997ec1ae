"""Values of a command line and of overlays, read and checked by the table of ``settings.py``.

``monai.bundle run`` takes ``false`` for a text, and a text is true. Here a text is read as what the id holds: ``false``
and ``no`` as a boolean, JSON as a list or an object. A value that cannot be read so is refused.
"""

import ast
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from fire.parser import DefaultParseValue

from dynunet_bundle.configs.settings import SETTINGS
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import parse_json
from dynunet_bundle.planning.consistency import find_misfit
from dynunet_bundle.planning.plan import PLAN_IDS
from dynunet_bundle.shapes import MAX_VALUE, Schema, describe, excerpt, has_shape

CODE = {
    "anyOf": [
        {"type": "string", "pattern": "^[$@%]"},
        {"type": "object", "required": ["_target_"]},
    ]
}
"""Shape of an expression, a reference or a component."""

WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""Booleans in the words of JSON and YAML; the case does not matter."""

MAX_REFERENCES = 20
"""References that are followed from an id to the one that it stands for; a longer chain is a circle."""

ANYTHING: Schema = {}
"""Any JSON data: its shape is checked when the id is known."""

COMMAND_LINE = "the command line"


def or_code(schema: Schema) -> dict[str, Any]:
    """The shape of a value that may be or contain code; ``code_check.py`` decides where code is allowed."""
    parts: dict[str, Any] = {
        key: or_code(schema[key])
        for key in ("items", "additionalProperties")
        if isinstance(schema.get(key), Mapping)
    }
    named = {name: or_code(part) for name, part in schema.get("properties", {}).items()}
    return {"if": CODE, "else": {**schema, **parts, "properties": named}}


def schema_of(name: str, config: Mapping[str, Any]) -> Schema | None:
    """The type and range of an id or a part.

    Args:
        name: an id with ``#`` between parts, e.g. ``optimizer#nesterov``.
        config: the configs' own content. An id that the table lacks has the type of its default, or that of the id to
            which its default refers.

    Returns:
        The schema; None if the default does not tell.
    """
    for _ in range(MAX_REFERENCES):
        owner, _, part = name.rpartition("#")
        inner = SETTINGS.get(owner, {}).get("properties", {}) if owner else {}
        if name in SETTINGS or part in inner:
            return SETTINGS[name] if name in SETTINGS else inner[part]
        default = find_part(config, name)
        if not (isinstance(default, str) and default.startswith("@")):
            return _type_of(default)
        name = default[1:].replace("::", "#")
    return None


def _type_of(default: Any) -> Schema | None:
    kinds = {bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    kind = kinds.get(type(default))
    # null turns a part off
    return {"type": [kind, "null"], "items": {}} if kind else None


def find_part(config: Any, name: str) -> Any:
    """The part of a config that an id names, or None: ``train#handlers#0``."""
    steps, part = name.split("#"), config
    while steps and part is not None:
        # files have keys such as "validate#dataset"
        heads = ["#".join(steps[:count]) for count in range(len(steps), 0, -1)]
        if isinstance(part, Mapping):
            head = next((head for head in heads if head in part), None)
            part = None if head is None else part[head]
            steps = steps[head.count("#") + 1 :] if head is not None else []
        elif isinstance(part, list) and steps[0].isdecimal() and int(steps[0]) < len(part):
            part, steps = part[int(steps[0])], steps[1:]
        else:
            part = None
    return part


def read_value(name: str, text: str, schema: Schema | None) -> Any:
    """The value of an id on a command line.

    Args:
        name: the id.
        text: what follows it.
        schema: type and range of the id; None takes the value as MONAI does.

    Raises:
        ConfigError: if the text cannot be read as such a value.
    """
    if schema is None:
        return monai_value(text)
    shape = or_code(schema)
    for value in _readings(text):
        if has_shape(without_dollar(value), shape):
            return value
    raise ConfigError(_refusal(COMMAND_LINE, name, text, schema))


def _readings(text: str) -> Iterator[Any]:
    """The values that a text may stand for, the likeliest first."""
    if text.lstrip()[:1] in ("[", "{"):
        with suppress(ConfigError):
            # before MONAI's reading, which takes the true of JSON for a text; the shape is checked by the caller
            yield parse_json(os.fsencode(text), COMMAND_LINE, ConfigError, ANYTHING)
    value = monai_value(text)
    if "#" in text and "#" not in str(value):
        # MONAI takes it for a comment
        yield text
    yield value
    if text.strip().lower() in WORDS:
        yield WORDS[text.strip().lower()]
    if not isinstance(value, str):
        # a name such as 007 or 5
        yield text


def monai_value(text: str) -> Any:
    """The value that ``monai.bundle run`` takes from a text; it has Python Fire read it."""
    try:
        return _plain(DefaultParseValue(text))
    except (RecursionError, MemoryError, TypeError):
        return text


def _plain(value: Any) -> Any:
    """The value with lists for tuples and sets."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return list(map(_plain, value)) if isinstance(value, (list, tuple, set)) else value


def monai_text(value: Any) -> str:
    """A value in the form that ``monai.bundle run`` reads back as it is."""
    if isinstance(value, str):
        # what begins with a dash would be the next option
        return value if monai_value(value) == value and value[:1] != "-" else repr(value)
    return repr(value)


def without_dollar(value: Any) -> Any:
    """The value that an expression of a single literal stands for, such as ``$None``; else the value itself."""
    if isinstance(value, str) and value.startswith("$"):
        try:
            return _plain(ast.literal_eval(value[1:].strip()))
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
    return value


def require_values(content: Mapping[str, Any], where: str, config: Mapping[str, Any]) -> None:
    """Refuse values of a wrong type or out of range; expressions, references and components are not checked.

    Args:
        content: values by id, of an overlay or a script.
        where: where they come from, for the message.
        config: the configs' own content.

    Raises:
        ConfigError: naming the place, the id, the value and what it must be.
    """
    given = {key: _plain(without_dollar(value)) for key, value in content.items()}
    inner = {name: find_part(given, name) for name in SETTINGS if "#" in name}
    values = {name: value for name, value in inner.items() if value is not None} | {
        key.replace("::", "#"): value for key, value in given.items() if key[:1] != "+"
    }
    for name, value in values.items():
        schema = schema_of(name, config)
        if schema is not None and not has_shape(value, or_code(schema)):
            raise ConfigError(_refusal(where, name, json.dumps(value, default=str), schema))


def require_fitting_plan(config: Mapping[str, Any]) -> None:
    """Refuse a plan whose ids do not fit each other.

    Args:
        config: the content of all configs and overrides together; ids that hold code are not compared.

    Raises:
        ConfigError: with the values that would do.
    """
    literals = {name: _plain(without_dollar(config[name])) for name in PLAN_IDS if name in config}
    misfit = find_misfit(
        {name: value for name, value in literals.items() if not has_shape(value, CODE)}
    )
    if misfit:
        raise ConfigError(misfit)


def _refusal(where: str, name: str, shown: str, schema: Schema) -> str:
    value = excerpt(shown, MAX_VALUE) or "an empty text"
    return f"{where} sets {name} to {value}; it must be {describe(schema)}."

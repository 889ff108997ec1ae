"""Shapes of JSON data: the parts that schemas are made of, and the check by jsonschema.

Each JSON file that is read has one schema (JSON Schema draft 7, the newest of jsonschema 3.2, which MONAI Label needs),
in the module that owns the file. ``integer`` means a whole number of 64 bits and ``number`` a finite one. The
``description`` of a whole schema ends the message about a wrong field: it says what the file is, and what to do. The
``description`` of a pattern says what a text must be.
"""

import json
import math
import os
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from dynunet_bundle.errors import BundleError
from dynunet_bundle.terminal import printable

Schema = Mapping[str, Any]

MAX_INTEGER = 2**63
"""Whole numbers are below it: what numpy and torch can hold."""

MAX_PROBLEM = 200
"""Characters of a problem in a message."""

MAX_VALUE = 80
"""Characters of a wrong value in a message."""

TEXT: Schema = {"type": "string"}
MAYBE_TEXT: Schema = {"type": ["string", "null"]}
COUNT: Schema = {"type": "integer", "minimum": 0}
POSITIVE: Schema = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
NUMBER: Schema = {"type": "number"}
MAYBE_NUMBER: Schema = {"type": ["number", "null"]}
DURATION: Schema = {"type": "number", "minimum": 0}
OVERLAP: Schema = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
SHA256: Schema = {
    "type": "string",
    "pattern": "^[0-9a-f]{64}$",
    "description": "a SHA-256 in 64 hexadecimal digits",
}
FILE_PATH: Schema = {
    "type": "string",
    "pattern": r"^[^\x00]{1,4096}$",
    "description": "a path of 1 to 4096 characters without null",
}
FILE_NAME: Schema = {
    "type": "string",
    "pattern": r"^[^/\\\x00]{1,255}$",
    "description": "a file name of 1 to 255 characters",
}
OBJECT: Schema = {"type": "object"}


def list_of(items: Schema, **limits: Any) -> dict[str, Any]:
    """Schema of a list; ``limits`` are keywords of JSON Schema, such as ``minItems``."""
    return {"type": "array", "items": items, **limits}


def by_name(values: Schema, **limits: Any) -> dict[str, Any]:
    """Schema of an object whose keys are names, of classes or cases."""
    return {"type": "object", "additionalProperties": values, **limits}


def object_with(
    properties: Mapping[str, Schema], required: tuple[str, ...] = (), **limits: Any
) -> dict[str, Any]:
    """Schema of an object with these keys and maybe others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        **limits,
    }


def require_shape(
    content: Any,
    schema: Schema,
    where: str | os.PathLike[str],
    error_type: type[BundleError],
) -> None:
    """Refuse JSON data of another shape than a schema says.

    Args:
        content: JSON data.
        schema: the shape.
        where: the file that it comes from, for the message.
        error_type: what to raise.

    Raises:
        BundleError: of type ``error_type``, in one line that names the file, the field, and what is wrong there.
    """
    from jsonschema.exceptions import best_match

    fault = best_match(_validator_type()(schema).iter_errors(content))
    if fault is not None:
        field = _field_of(fault.absolute_path) or "the whole content"
        remedy = schema.get("description", "Repair the file.")
        raise error_type(f"{where}: {excerpt(field)}: {excerpt(_problem_of(fault))}. {remedy}")


def has_shape(content: Any, schema: Schema) -> bool:
    """Whether JSON data has the shape that a schema says."""
    return bool(_validator_type()(schema).is_valid(content))


@cache
def _validator_type() -> Any:
    """The validator; its own ``integer`` and ``number`` would accept 1e308, NaN and 400 digits."""
    from jsonschema import Draft7Validator
    from jsonschema.validators import extend

    def is_integer(_: Any, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_INTEGER

    def is_number(_: Any, value: Any) -> bool:
        return is_integer(_, value) or (isinstance(value, float) and math.isfinite(value))

    types = Draft7Validator.TYPE_CHECKER.redefine_many({"integer": is_integer, "number": is_number})
    return extend(Draft7Validator, type_checker=types)


def _field_of(path: Iterable[str | int]) -> str:
    """A path of keys and positions as JSONPath writes it, without its ``$.``: ``folds[0]['a b'].name``."""
    parts = [
        f".{part}" if isinstance(part, str) and part.isidentifier() else f"[{part!r}]"
        for part in path
    ]
    return "".join(parts).lstrip(".")


def _problem_of(fault: Any) -> str:
    if fault.validator == "pattern" and "description" in fault.schema:
        return f"{excerpt(repr(fault.instance), MAX_VALUE)} is not {fault.schema['description']}"
    if len(fault.message) <= MAX_PROBLEM:
        return str(fault.message)
    # without the value, which may be the whole file
    return f"it is not as the schema's {fault.validator} {fault.validator_value} says"


def excerpt(text: str, length: int = MAX_PROBLEM) -> str:
    """Text from a file for a message: one line, cut to a length, without control characters."""
    line = printable(text[: length + 1])
    return line if len(line) <= length else f"{line[: length - 3]}..."


def number_option(schema: Schema) -> Callable[[str], int | float]:
    """The ``type`` of a numeric option of a script, for argparse, which itself accepts NaN and any range.

    Args:
        schema: shape of an integer or a number.

    Returns:
        A function that reads a text and raises ``argparse.ArgumentTypeError`` for any other value.
    """
    kind = int if schema["type"] == "integer" else float

    def read(text: str) -> int | float:
        with suppress(ValueError):
            number = kind(text)
            if has_shape(number, schema):
                return number
        raise ArgumentTypeError(f"{excerpt(repr(text), MAX_VALUE)} is not {describe(schema)}")

    return read


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of a JSON file. Of two equal keys the first would be ignored in silence.

    Raises:
        ValueError: naming a key that is given twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {excerpt(json.dumps(twice))} is duplicated")
    return content


def describe(schema: Schema) -> str:
    """What a value may be, in words: ``a whole number, at least 1, or null``."""
    if "description" in schema:
        words = str(schema["description"])
    elif "enum" in schema:
        return _choices([_shown(choice) for choice in schema["enum"]])
    else:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        words = " or ".join(_kind(kind, schema) for kind in kinds if kind != "null")
    return f"{words}, or null" if "null" in schema.get("type", ()) else words


def _kind(kind: str, schema: Schema) -> str:
    if kind == "array":
        items = f"; each item: {describe(schema['items'])}" if schema["items"] else ""
        return f"a list{_lengths(schema)}{items}"
    names = {"boolean": "true or false", "integer": "a whole number", "number": "a number"}
    limits = _limits(schema) if kind in ("integer", "number") else ""
    return names.get(kind, {"string": "a text", "object": "an object"}.get(kind, kind)) + limits


def _lengths(schema: Schema) -> str:
    low, high = schema.get("minItems", 0), schema.get("maxItems")
    if high is not None:
        return f" of {low} to {high} items"
    return f" of at least {low} items" if low > 1 else ""


def _limits(schema: Schema) -> str:
    keywords = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    # the largest numbers that a type holds are not worth a word
    found = [
        f"{word} {schema[keyword]}"
        for keyword, word in keywords.items()
        if keyword in schema and schema[keyword] < 2**31 - 1
    ]
    return f", {' and '.join(found)}" if found else ""


def _choices(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)

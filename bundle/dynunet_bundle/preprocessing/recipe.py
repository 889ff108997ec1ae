"""What a transform does, as plain data: the key by which the prepared store knows what it holds.

Stored on disk: the names of classes and of their attributes, hashed, in the sidecar of each prepared case. Modules are
left out, so a file may move; to rename a transform or an attribute prepares every store anew.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from monai.transforms import Transform

STATE_OF_USE = ("_tracing", "filenames")
"""Attributes that MONAI changes when a transform runs; they are no settings."""


def recipe_of(thing: Any) -> Any:
    """Reduce a transform to JSON: its class and its settings, recursively.

    Args:
        thing: a transform, or any value that one holds as an attribute.

    Returns:
        JSON data that is equal for equal settings in any process. A dataclass, such as ``LabelScheme``, is described
        by its fields. What has no settings (a random state, a logger) is named by its class only.
    """
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, (Mapping, list, tuple, set, frozenset, np.ndarray, torch.Tensor)):
        return _describe_values(thing)
    if isinstance(thing, (Enum, PurePath, np.dtype, torch.dtype)):
        return str(thing.value if isinstance(thing, Enum) else thing)
    if isinstance(thing, partial):
        return [recipe_of(thing.func), recipe_of(thing.args), recipe_of(thing.keywords)]
    if callable(thing) and hasattr(thing, "__qualname__"):
        return thing.__qualname__
    return _describe_object(thing)


def _describe_values(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(key): recipe_of(value) for key, value in values.items()}
    if isinstance(values, (np.ndarray, torch.Tensor)):
        return values.tolist()
    if isinstance(values, (set, frozenset)):
        return sorted(str(recipe_of(value)) for value in values)
    return [recipe_of(value) for value in values]


def _describe_object(thing: Any) -> Any:
    name = type(thing).__qualname__
    if is_dataclass(thing):
        return {name: {key: recipe_of(value) for key, value in _changed_fields(thing).items()}}
    if not isinstance(thing, Transform) and not type(thing).__module__.startswith("monai."):
        return name
    settings = {key: value for key, value in sorted(vars(thing).items()) if key not in STATE_OF_USE}
    return {name: {key: recipe_of(value) for key, value in settings.items()}}


def _changed_fields(thing: Any) -> dict[str, Any]:
    """Fields of a dataclass that differ from their defaults: a new field with a default changes no key."""
    values = {field.name: getattr(thing, field.name) for field in fields(thing)}
    defaults = {field.name: field.default for field in fields(thing)}
    return {name: value for name, value in values.items() if value is not defaults[name]}

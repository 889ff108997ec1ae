"""The settings of a transform as plain data: the key that tells whether a prepared case is up to date.

Stored on disk: the names of classes and of their attributes, hashed, in the sidecar of each prepared case. Modules are
not included, so a file may move; a renamed transform or attribute makes every store prepare its cases again.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, Transform

STATE_OF_USE = ("_tracing", "filenames")
"""Attributes that MONAI changes when a transform runs; they are not settings."""


def recipe_of(thing: Any) -> Any:
    """Describe a transform as JSON data: its class and its settings, recursively.

    Args:
        thing: a transform, or the value of one of its attributes.

    Returns:
        JSON data that is equal for equal settings in any process. A dataclass, such as ``LabelScheme``, is described
        by its fields; an object without settings (a random state, a logger) by its class name only.
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


def image_recipe(transform: Compose) -> list[dict[str, Any]]:
    """What a preprocessing does with an image that is loaded: the description of each step, by its class.

    Args:
        transform: the declared preprocessing. Its ``LoadImaged`` is left out: MONAI's list of readers depends on the
            packages that are installed, and all of our configs name the same reader.
    """
    steps = [recipe_of(step) for step in transform.flatten().transforms]
    return [
        step if isinstance(step, dict) else {str(step): {}}
        for step in steps
        if not (isinstance(step, dict) and "LoadImaged" in step)
    ]


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
    """Fields of a dataclass that differ from their defaults: a new field with a default does not change the key."""
    values = {field.name: getattr(thing, field.name) for field in fields(thing)}
    defaults = {field.name: field.default for field in fields(thing)}
    return {name: value for name, value in values.items() if value is not defaults[name]}

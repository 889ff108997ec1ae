"""The ``labels`` of a dataset.json: classes, nnU-Net's regions, and the value of unlabelled voxels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import DatasetError, PlanError
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.shapes import by_name

IGNORE_NAME = "ignore"
"""nnU-Net's name of the label of unlabelled voxels (``label_handling.py``)."""

MAX_NAME = 200
"""Largest number of characters in the name of a label."""

LABELS_SCHEMA = by_name(
    {
        "type": ["integer", "string", "array"],
        "items": {"type": ["integer", "string"], "maxLength": MAX_NAME},
        "maxLength": MAX_NAME,
    },
    minProperties=1,
    propertyNames={"maxLength": MAX_NAME},
)
"""Schema of ``labels``: names by value as text, or one or several values by name."""

Entries = Sequence[tuple[str, list[int]]]


def read_labels(content: Mapping[str, Any], source: Path) -> LabelScheme:
    """Read ``{"0": "background"}`` (Decathlon) or ``{"background": 0}`` (nnU-Net; a list of values is a region).

    Args:
        content: the dataset.json.
        source: its path, for messages.

    Raises:
        DatasetError: if the labels contradict themselves.
    """
    entries = _entries(content["labels"], source)
    ignored = [values for name, values in entries if name == IGNORE_NAME]
    named = [(name, values) for name, values in entries if name != IGNORE_NAME]
    if ignored and (len(ignored) > 1 or len(ignored[0]) != 1):
        raise DatasetError(
            f'{source}: "{IGNORE_NAME}" in "labels" is {ignored}. Give it exactly one value.'
        )
    if any(len(values) > 1 for _, values in named):
        found = _with_regions(named, source)
        found["regions_class_order"] = content.get("regions_class_order")
    else:
        found = _plain(named, source)
    try:
        return LabelScheme(**found, ignore_value=ignored[0][0] if ignored else None)
    except PlanError as error:
        raise DatasetError(f'{source}, "labels": {error}') from error


def _entries(table: Mapping[str, Any], source: Path) -> Entries:
    """Names and values in the order of the file."""
    has_names = all(isinstance(value, (int, list)) for value in table.values())
    pairs = table.items() if has_names else [(name, value) for value, name in table.items()]
    try:
        return [
            (str(name), list(map(int, value if isinstance(value, list) else [value])))
            for name, value in pairs
        ]
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f'{source}: "labels" has values that are not whole numbers: {table}.'
        ) from error


def _plain(named: Entries, source: Path) -> dict[str, Any]:
    names = {values[0]: name for name, values in named if values}
    if len(names) != len(named) or min(names, default=None) != 0:
        raise DatasetError(
            f'{source}: "labels" must give each class a different value, and the background 0; it has {dict(named)}.'
        )
    ordered = sorted(names)
    return {"values": ordered, "names": [names[value] for value in ordered]}


def _with_regions(named: Entries, source: Path) -> dict[str, Any]:
    """Each entry except the background is a region. Each value is a class, named after a region of that value alone."""
    values = sorted({value for _, entry in named for value in entry})
    alone = {entry[0]: name for name, entry in reversed(named) if len(set(entry)) == 1}
    if values[0] != 0 or 0 not in alone:
        raise DatasetError(
            f'{source}: "labels" has regions, so it also needs "background": 0; it has {dict(named)}.'
        )
    return {
        "values": values,
        "names": [alone.get(value, f"label {value}") for value in values],
        "regions": {
            name: list(dict.fromkeys(entry)) for name, entry in named if list(set(entry)) != [0]
        },
    }

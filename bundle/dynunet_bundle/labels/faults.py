"""Faults of label values, the ignore value and regions, each as a message with its remedy."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from dynunet_bundle.errors import counted, some_of

MAX_CLASSES = 255
"""Number of classes with the background: 0 to 254, below ``IGNORE_CLASS`` of ``scheme.py``."""

MAX_VALUE = 2**31 - 1
"""Largest label value: label files are read as int32."""

MAX_VALUES_SHOWN = 10  # values listed in a message

TABLE_NAMES = ("case", "mean")
"""Names of columns of the tables of scores, which no class may have."""

Regions = Mapping[str, Sequence[int]]
"""Label values of each region by its name, in the order of the network's outputs."""


def find_name_fault(name: object, what: str) -> str | None:
    """Fault of a name that cannot be part of a config, with its remedy, or None.

    MONAI evaluates strings that begin with ``$``, resolves those that begin with ``@`` or ``%``, and splits ids at
    ``#`` and ``::``.

    Args:
        name: name of a class, region or channel, from a file of the user.
        what: kind of the name, e.g. ``"class"``.
    """
    if not isinstance(name, str) or not name.strip():
        return f"the {what} name {name!r} is not a non-empty string. Give each {what} a name."
    if name[0] in "$@%" or "#" in name or "::" in name:
        return (
            f'the {what} name "{name}" begins with $, @ or %, or contains # or ::, which MONAI\'s configs reserve. '
            "Rename it."
        )
    if what in ("class", "region") and name.strip() in TABLE_NAMES:
        return f'the {what} name "{name}" is a heading of the tables of scores. Rename it.'
    if any(unicodedata.category(character)[0] == "C" for character in name):
        return f"the {what} name {name!r} contains control characters. Rename it."
    return None


def find_value_fault(label_names: Sequence[str], label_values: Sequence[int]) -> str | None:
    """Fault of the values of classes with its remedy, or None."""
    if len(label_names) != len(label_values):
        return (
            f"the plan has {len(label_names)} label_names and {len(label_values)} label_values. "
            "Give one value per name."
        )
    if fault := next(filter(None, (find_name_fault(name, "class") for name in label_names)), None):
        return fault
    values = list(label_values)
    ascending = all(map(_is_whole, values)) and values == sorted(set(values))
    if not ascending or len(values) > MAX_CLASSES:
        shown = some_of(values, MAX_VALUES_SHOWN)
        return f"label_values must be at most {MAX_CLASSES} ascending whole numbers, not {shown}."
    return find_double_name(label_names, "class")


def find_double_name(names: Iterable[str], what: str) -> str | None:
    """Fault of names that are equal apart from spaces around them, with its remedy, or None."""
    stripped = [name.strip() for name in names]
    twice = next((name for name in stripped if stripped.count(name) > 1), None)
    if twice is None:
        return None
    return f'the {what} name "{twice}" is given twice; scores are kept by name. Rename one.'


def find_ignore_fault(label_values: Sequence[int], ignore_value: int | None) -> str | None:
    """Fault of the value of unlabelled voxels with its remedy, or None."""
    if ignore_value is None or (
        _is_whole(ignore_value) and ignore_value > 0 and ignore_value not in label_values
    ):
        return None
    return (
        f"ignore_value is {ignore_value!r}, the classes have {list(label_values)}. "
        "Set it to a positive whole number that is not a value of a class."
    )


def find_region_fault(
    label_values: Sequence[int],
    regions: Regions | None,
    regions_class_order: Sequence[int] | None,
) -> str | None:
    """Fault of regions with its remedy, or None."""
    if regions is None:
        if regions_class_order is None:
            return None
        return "regions_class_order is given without regions. Give both, or neither."
    return (
        _find_member_fault(label_values, regions)
        or _find_order_fault(regions, regions_class_order)
        or _find_lost_value(label_values, regions, regions_class_order or ())
    )


def _find_member_fault(label_values: Sequence[int], regions: Regions) -> str | None:
    if not isinstance(regions, Mapping) or not regions:
        return f'regions must be an object such as {{"tumour": [1, 2]}}, or null, not {regions!r}.'
    for name, values in regions.items():
        if fault := find_name_fault(name, "region"):
            return fault
        known = isinstance(values, (list, tuple)) and all(
            _is_whole(value) and value in label_values[1:] for value in values
        )
        if not known or not values:
            return (
                f'the region "{name}" is {values!r}; it must be a list of label values from '
                f"{list(label_values[1:])}, without the background and the ignore value."
            )
    return find_double_name(regions, "region")


def _find_order_fault(regions: Regions, order: Sequence[int] | None) -> str | None:
    names = ", ".join(regions)
    if not isinstance(order, (list, tuple)):
        return (
            f"regions ({names}) need regions_class_order, a list with the value that is written for each region; "
            f"later regions overwrite earlier ones. It is {order!r}."
        )
    if len(order) != len(regions):
        return (
            f"regions_class_order has {counted(len(order), 'value')}, {list(order)}, for "
            f"{counted(len(regions), 'region')} ({names}). "
            "Give one value per region, in the same order."
        )
    for (name, values), value in zip(regions.items(), order, strict=True):
        if value not in values:
            return (
                f'regions_class_order writes {value!r} for the region "{name}", which consists of {list(values)}. '
                "Give each region one of its own values."
            )
    return None


def _find_lost_value(
    label_values: Sequence[int], regions: Regions, order: Sequence[int]
) -> str | None:
    """Fault of a value that would be overwritten by a value of other regions, even with a perfect network, or None."""
    regions_of = {
        value: [name for name, values in regions.items() if value in values]
        for value in label_values
    }
    written_by = dict(zip(regions, order, strict=True))
    for value, names in regions_of.items():
        if names and regions_of[written_by[names[-1]]] != names:
            written = written_by[names[-1]]
            return (
                f"regions_class_order {list(order)} writes {written} where a voxel has the value {value}, which is in "
                f"{' and '.join(names)}, but {written} is in {' and '.join(regions_of[written])}. Later regions "
                "overwrite earlier ones: list larger regions first, and add a region for what two regions share."
            )
    return None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value <= MAX_VALUE

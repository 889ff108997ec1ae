"""What is wrong with the values of classes, an ignored value or regions, in a sentence that says what to do."""

from collections.abc import Mapping, Sequence

from dynunet_bundle.errors import some_of

MAX_CLASSES = 255
"""0 to 254, below ``IGNORE_CLASS`` of ``scheme.py``."""

MAX_VALUES_SHOWN = 10

Regions = Mapping[str, Sequence[int]]
"""By the name of each region the values that make it up; the order is that of the network's outputs."""


def find_value_fault(label_names: Sequence[str], label_values: Sequence[int]) -> str | None:
    """What is wrong with the values of classes, and what to do; None where nothing is."""
    if len(label_names) != len(label_values):
        return (
            f"the plan has {len(label_names)} label_names and {len(label_values)} label_values; "
            "it needs one value a name."
        )
    values = list(label_values)
    ascending = all(map(_is_whole, values)) and values == sorted(set(values))
    if not ascending or len(values) > MAX_CLASSES:
        shown = some_of(values, MAX_VALUES_SHOWN)
        return f"label_values must ascend, at most {MAX_CLASSES} of them, not {shown}."
    return None


def find_ignore_fault(label_values: Sequence[int], ignore_value: int | None) -> str | None:
    """What is wrong with the value of voxels that nobody labelled, and what to do; None where nothing is."""
    if ignore_value is None or (
        _is_whole(ignore_value) and ignore_value > 0 and ignore_value not in label_values
    ):
        return None
    return (
        f"the ignored value is {ignore_value!r}, the classes have {list(label_values)}. "
        "Give it a positive whole number of its own."
    )


def find_region_fault(
    label_values: Sequence[int],
    regions: Regions | None,
    regions_class_order: Sequence[int] | None,
) -> str | None:
    """What is wrong with regions, and what to do; None where nothing is."""
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
        if "#" in name or "::" in name:
            return f'the region "{name}" has # or :: in its name, which MONAI keeps for itself. Rename it.'
        known = isinstance(values, (list, tuple)) and all(
            _is_whole(value) and value in label_values[1:] for value in values
        )
        if not known or not values:
            return (
                f'the region "{name}" has {values!r}; it needs a list of label values, '
                f"some of {list(label_values[1:])}. The background and the ignored value are in no region."
            )
    return None


def _find_order_fault(regions: Regions, order: Sequence[int] | None) -> str | None:
    names = ", ".join(regions)
    if not isinstance(order, (list, tuple)):
        return (
            f"regions ({names}) need regions_class_order, a list with the value that a mask gets for each region, "
            f"later ones over earlier ones; it is {order!r}."
        )
    if len(order) != len(regions):
        return (
            f"regions_class_order has {len(order)} value(s), {list(order)}, for {len(regions)} region(s) ({names}). "
            "Give one value a region, in their order."
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
    """A value that would be written as one of other regions: even of a perfect network some region would be lost."""
    regions_of = {
        value: [name for name, values in regions.items() if value in values]
        for value in label_values
    }
    written_by = dict(zip(regions, order, strict=True))
    for value, names in regions_of.items():
        if names and regions_of[written_by[names[-1]]] != names:
            written = written_by[names[-1]]
            return (
                f"regions_class_order {list(order)} writes {written} where a voxel has the value {value}: that is in "
                f"{' and '.join(names)}, but {written} is in {' and '.join(regions_of[written])}. Later regions are "
                "written over earlier ones: list larger ones first, and give what two share a region of its own."
            )
    return None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

"""Whether the ids of a plan fit each other: lengths of lists, and sizes that the levels of the network divide."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

CHECKED = ("spatial_dims", "patch_size", "spacing", "strides", "kernel_sizes", "filters")


def find_misfit(plan: Mapping[str, Any]) -> str | None:
    """What does not fit in a plan, and which value would; None if all fits.

    Args:
        plan: ids of a plan, each of the shape of ``PLAN_SCHEMA``. Ids that are missing are not compared.
    """
    return next(_misfits(plan), None)


def _misfits(plan: Mapping[str, Any]) -> Iterator[str]:
    if all(name in plan for name in CHECKED):
        yield from _length_faults(plan)
        yield from _size_faults(plan)
        yield from _norm_faults(plan)
    yield from _channel_faults(plan)


def _length_faults(plan: Mapping[str, Any]) -> Iterator[str]:
    dims, strides = plan["spatial_dims"], plan["strides"]
    for name in ("patch_size", "spacing"):
        if len(plan[name]) != dims:
            yield f"{name} is {plan[name]}, but spatial_dims is {dims}. Give {dims} values."
    for name in ("kernel_sizes", "strides"):
        for level in plan[name]:
            if isinstance(level, list) and len(level) != dims:
                yield f"{name} has {level}, but spatial_dims is {dims}. Give {dims} values per level."
    if len(plan["kernel_sizes"]) != len(strides):
        yield (
            f"kernel_sizes has {len(plan['kernel_sizes'])} levels and strides has {len(strides)}. "
            "Give one of each per level."
        )
    if len(plan["filters"]) < len(strides):
        yield (
            f"filters has {len(plan['filters'])} values, but strides has {len(strides)} levels. "
            "Give at least one value per level."
        )


def _size_faults(plan: Mapping[str, Any]) -> Iterator[str]:
    dims, patch = plan["spatial_dims"], plan["patch_size"]
    strides = [_by_axis(level, dims) for level in plan["strides"]]
    if strides[0] != [1] * dims:
        yield f"strides begins with {plan['strides'][0]}. The first level must be {[1] * dims}."
    divisors = [math.prod(steps) for steps in zip(*strides, strict=True)]
    pairs = list(zip(patch, divisors, strict=True))
    if any(size % divisor for size, divisor in pairs):
        larger = [-(-size // divisor) * divisor for size, divisor in pairs]
        smaller = [max(size // divisor, 1) * divisor for size, divisor in pairs]
        yield (
            f"patch_size is {patch}, which the strides do not divide: they need multiples of {divisors}. "
            f"{_either(smaller, larger)} would do."
        )


def _norm_faults(plan: Mapping[str, Any]) -> Iterator[str]:
    norm = plan.get("norm_name")
    name, arguments = norm if isinstance(norm, list) and len(norm) == 2 else (norm, {})
    if not isinstance(name, str) or name.upper() != "GROUP":
        return
    groups = arguments.get("num_groups") if isinstance(arguments, Mapping) else None
    filters = plan["filters"][: len(plan["strides"])]
    whole = isinstance(groups, int) and not isinstance(groups, bool) and groups > 0
    if not whole or any(count % groups for count in filters):
        yield (
            f"norm_name is {norm}, but filters is {filters}. Give a num_groups that divides all of them, such as "
            f'["GROUP", {{"num_groups": {math.gcd(*filters)}}}].'
        )


def _channel_faults(plan: Mapping[str, Any]) -> Iterator[str]:
    channels = plan.get("channel_names")
    for name in ("normalization", "intensity_statistics"):
        if channels is not None and name in plan and len(plan[name]) != len(channels):
            yield (
                f"{name} has {len(plan[name])} entries, but channel_names has {len(channels)}. Give one per channel."
            )


def _by_axis(level: int | Sequence[int], dims: int) -> list[int]:
    return [level] * dims if isinstance(level, int) else list(level)


def _either(first: Sequence[int], second: Sequence[int]) -> str:
    return f"{list(first)}" if first == second else f"{list(first)} or {list(second)}"

"""Round numbers for the axes of charts."""

import math
from collections.abc import Sequence

MAX_INTERVALS = 5
"""Round numbers lie so far apart that a range has at most so many of them, and one to each side."""


def ticks_about(
    values: Sequence[float], is_log: bool = False, from_zero: bool = False
) -> tuple[list[float], tuple[float, float]]:
    """Ticks that reach about all values, and the range from the first to the last.

    Args:
        values: finite numbers; above zero where the axis is logarithmic.
        is_log: whether the axis is logarithmic.
        from_zero: whether a linear axis holds zero.
    """
    low, high = min(values), max(values)
    if is_log:
        ticks = _powers_about(low, high)
        return ticks, (ticks[0], ticks[-1])
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if low else (0.0, 1.0)
    step = _round_step((high - low) / MAX_INTERVALS)
    first, last = math.floor(low / step), math.ceil(high / step)
    # products of whole numbers, not sums of steps, and rounded: 0.3, not 0.30000000000000004
    ticks = [float(f"{number * step:.12g}") for number in range(first, last + 1)]
    return ticks, (ticks[0], ticks[-1])


def whole_ticks_within(low: float, high: float) -> list[int]:
    """Round whole numbers from ``low`` to ``high``, which differ."""
    step = round(max(_round_step((high - low) / (MAX_INTERVALS + 2)), 1.0))
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _round_step(least: float) -> float:
    """The next of ..., 0.1, 0.2, 0.5, 1, 2, 5, 10, ..."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999999)


def _powers_about(low: float, high: float) -> list[float]:
    """Powers of ten; in a range of less than three of them twice and five times them as well."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first > 2:
        every = math.ceil((last - first) / MAX_INTERVALS)
        return [float(f"1e{power}") for power in range(first, last + every, every)]
    numbers = [float(f"{f}e{p}") for p in range(first - 1, last + 2) for f in (1, 2, 5)]
    # a value that is a round number itself may lie a rounding error beside it
    start = max(place for place, number in enumerate(numbers) if number <= low * 1.000001)
    end = min(place for place, number in enumerate(numbers) if number >= high * 0.999999)
    return numbers[start - int(start == end) : end + 1]

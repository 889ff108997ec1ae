"""Learning-rate schedules: pure functions of the step, so that a training can resume exactly.

Stored on disk: ``NAMES``, in configs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dynunet_bundle.errors import ConfigError

NAMES = ("none", "poly", "cosine", "cosine_annealing")


def make_schedule(
    optimizer: Optimizer,
    name: str = "poly",
    *,
    num_steps: int,
    power: float = 0.9,
    end_factor: float = 0.0,
    warmup_steps: int = 0,
    first_cycle_steps: int = 4096,
    cycle_growth: float = 2.0,
    peak_decay: float = 0.95,
) -> "BoundedSchedule":
    """Make a learning-rate schedule: ``lr_scheduler`` of train.json.

    The rate is the optimizer's initial rate times a factor. With p = t / T, where t counts the T steps after the
    warm-up, and e = ``end_factor``, the factor is:

    - "none": 1.
    - "poly": e + (1 - e) (1 - p)^power; nnU-Net's with power 0.9, e = 0 and one step per epoch.
    - "cosine": e + (1 - e) (1 + cos(pi p)) / 2.
    - "cosine_annealing": that cosine in cycles (SGDR, Loshchilov and Hutter, arXiv 1608.03983); cycle k is
      ``first_cycle_steps * cycle_growth^k`` steps long and scaled by ``peak_decay^k``.

    During the warm-up it is step / warmup_steps: the first step has rate 0, as in MONAI's ``WarmupCosineSchedule``,
    which equals "cosine". After ``num_steps`` the factor is constant: e for "poly" and "cosine", 1 for "none", the
    factor of the last step for cycles. No schedule of torch or MONAI combines warm-up, floor and decaying peaks, and
    torch's cosine rises again after its end.

    Args:
        optimizer: its rates are the peak rates.
        name: one of the above.
        num_steps: steps of the whole training, warm-up included.
        power: exponent of "poly".
        end_factor: factor at the end; with cycles, at the end of each, relative to its peak.
        warmup_steps: steps of the linear warm-up.
        first_cycle_steps: length of the first cycle.
        cycle_growth: ratio of the lengths of two successive cycles, at least 1.
        peak_decay: ratio of the peaks of two successive cycles.

    Returns:
        A schedule; call its ``step`` after each iteration, or after each epoch if ``num_steps`` counts epochs.

    Raises:
        ConfigError: for an unknown name or a number out of range.
    """
    curve = _Curve(
        name,
        num_steps - warmup_steps,
        power,
        end_factor,
        first_cycle_steps,
        cycle_growth,
        peak_decay,
    )
    _require_sound(curve, num_steps, warmup_steps)
    return BoundedSchedule(
        optimizer,
        lambda step: step / warmup_steps if step < warmup_steps else curve(step - warmup_steps),
        num_steps,
    )


class BoundedSchedule(LambdaLR):
    """A schedule that knows its length.

    Args:
        optimizer: as in torch.
        factor: of the rate, by step.
        num_steps: its length.
    """

    def __init__(
        self, optimizer: Optimizer, factor: Callable[[int], float], num_steps: int
    ) -> None:
        self.num_steps = num_steps
        super().__init__(optimizer, factor)


@dataclass(frozen=True)
class _Curve:
    """The factor after the warm-up (see ``make_schedule``); ``length`` is the number of steps after it."""

    name: str
    length: int
    power: float
    end_factor: float
    first_cycle_steps: int
    cycle_growth: float
    peak_decay: float

    def __call__(self, step: int) -> float:
        """The factor of a step, counted from the end of the warm-up."""
        share = min(step / self.length, 1.0)
        if self.name == "poly":
            return self._above_end((1 - share) ** self.power)
        if self.name == "cosine":
            return self._above_end(_half_cosine(share))
        return self._annealing(step) if self.name == "cosine_annealing" else 1.0

    def _annealing(self, step: int) -> float:
        # clamped: a new cycle that starts at the very end would raise the rate again
        last = min(step, self.length - 1)
        cycle, share = _cycle(last, self.first_cycle_steps, self.cycle_growth)
        return self.peak_decay**cycle * self._above_end(_half_cosine(share))

    def _above_end(self, share: float) -> float:
        return self.end_factor + (1 - self.end_factor) * share


def _require_sound(curve: _Curve, num_steps: int, warmup_steps: int) -> None:
    if curve.name not in NAMES:
        raise ConfigError(f'lr_scheduler#name is "{curve.name}". Choose one of {", ".join(NAMES)}.')
    _check("num_steps", num_steps, num_steps >= 1, "at least 1")
    _check("power", curve.power, curve.power > 0, "above 0")
    _check("end_factor", curve.end_factor, 0 <= curve.end_factor <= 1, "from 0 to 1")
    fits = 0 <= warmup_steps < num_steps
    _check("warmup_steps", warmup_steps, fits, f"from 0 to below num_steps, which is {num_steps}")
    cycle_steps = curve.first_cycle_steps
    _check("first_cycle_steps", cycle_steps, cycle_steps >= 1, "at least 1")
    _check("cycle_growth", curve.cycle_growth, curve.cycle_growth >= 1, "at least 1")
    _check("peak_decay", curve.peak_decay, 0 < curve.peak_decay <= 1, "above 0, at most 1")


def _check(name: str, value: float, is_valid: bool, valid: str) -> None:
    if not is_valid:
        raise ConfigError(f"lr_scheduler#{name} is {value}. It must be {valid}.")


def _half_cosine(share: float) -> float:
    """1 at share 0, falling to 0 at share 1."""
    return (1 + math.cos(math.pi * share)) / 2


def _cycle(step: int, first_length: float, growth: float) -> tuple[int, float]:
    """Index of the cycle of a step, and the completed share of that cycle."""
    cycle, start, length = 0, 0.0, float(first_length)
    while step >= start + length:
        cycle, start, length = cycle + 1, start + length, length * growth
    return cycle, (step - start) / length

"""Learning-rate schedules: pure functions of the step, so that a training goes on where it stopped."""

import math
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
) -> LambdaLR:
    """Make a schedule of the learning rate: ``lr_scheduler`` of train.json.

    The rate is the optimizer's own at the peak, times a factor. With p = t / T, t counted from the end of the
    warm-up and T the steps after it, and e = ``end_factor``:

    - "none": 1.
    - "poly": e + (1 - e) (1 - p)^power; nnU-Net's with power 0.9, e = 0 and one step an epoch.
    - "cosine": e + (1 - e) (1 + cos(pi p)) / 2.
    - "cosine_annealing": that cosine again and again (SGDR, Loshchilov and Hutter, arXiv 1608.03983), cycle k being
      ``first_cycle_steps * cycle_growth^k`` steps long, all of it times ``peak_decay^k``.

    Before that, in ``warmup_steps`` steps, step / warmup_steps: the first step has rate 0, as in MONAI's
    ``WarmupCosineSchedule``, which "cosine" equals. After ``num_steps`` the factor stays: at e; at 1; and where cycles
    run, at that of the last step. torch and MONAI have some of these, but none with all of warm-up, floor and decaying
    peaks, and torch's cosine rises again after its end.

    Args:
        optimizer: its rates are those at the peak.
        name: one of the above.
        num_steps: steps of the whole training, warm-up included.
        power: of "poly".
        end_factor: factor at the end, or at the end of each cycle against its peak.
        warmup_steps: steps of the linear warm-up.
        first_cycle_steps: length of the first cycle.
        cycle_growth: length of a cycle over that of the one before, at least 1.
        peak_decay: peak of a cycle over that of the one before.

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
    return LambdaLR(
        optimizer,
        lambda step: step / warmup_steps if step < warmup_steps else curve(step - warmup_steps),
    )


@dataclass(frozen=True)
class _Curve:
    """The factor after the warm-up, see ``make_schedule``; ``length`` are the steps after it."""

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
        # a restart at the very end would raise the rate again
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
    _check("peak_decay", curve.peak_decay, 0 < curve.peak_decay <= 1, "above 0, up to 1")


def _check(name: str, value: float, is_valid: bool, valid: str) -> None:
    if not is_valid:
        raise ConfigError(f"lr_scheduler#{name} is {value}. It must be {valid}.")


def _half_cosine(share: float) -> float:
    """From 1 at share 0 to 0 at share 1."""
    return (1 + math.cos(math.pi * share)) / 2


def _cycle(step: int, first_length: float, growth: float) -> tuple[int, float]:
    """The cycle that a step belongs to, and the share of it that is done."""
    cycle, start, length = 0, 0.0, float(first_length)
    while step >= start + length:
        cycle, start, length = cycle + 1, start + length, length * growth
    return cycle, (step - start) / length

"""Agreement of predicted and reference sizes: the bias, and Bland-Altman plots from which a template draws SVG.

Source: Bland and Altman, Lancet 1986;1:307-310.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynunet_bundle.report.charts import Point, ticks_about
from dynunet_bundle.report.content import Content
from dynunet_bundle.report.text import measure_of

NORMAL_95 = 1.96
"""Half the width of the central 95 % of a normal distribution, in standard deviations."""

MIN_PAIRS = 3
"""Fewest cases for limits of agreement."""

MAX_TOLD = 3
"""Classes whose bias the headline names; of more, only the largest."""

MAX_PLOTS = 12
WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 96, 10, 24
SIZES = (("volume_ml", "reference_volume_ml"), ("area_px2", "reference_area_px2"))
"""Measures of a size: of the prediction and of the reference."""


@dataclass(frozen=True)
class Agreement:
    """Differences between predicted and reference sizes of one class.

    Attributes:
        name: of the class.
        unit: ml or px².
        digits: decimals to show.
        pairs: predicted and reference size by case.
    """

    name: str
    unit: str
    digits: int
    pairs: dict[str, tuple[float, float]]

    @property
    def differences(self) -> np.ndarray:
        """Predicted minus reference, one per case."""
        return np.array([predicted - reference for predicted, reference in self.pairs.values()])

    @property
    def bias(self) -> float:
        """Mean difference."""
        return float(self.differences.mean())

    @property
    def share(self) -> float | None:
        """Mean difference, as a fraction of the mean reference; None without reference."""
        mean = float(np.mean([reference for _, reference in self.pairs.values()]))
        return self.bias / mean if mean > 0 else None

    @property
    def limits(self) -> tuple[float, float] | None:
        """Limits of agreement: bias plus and minus 1.96 standard deviations; None for few cases."""
        if len(self.pairs) < MIN_PAIRS:
            return None
        half = NORMAL_95 * float(self.differences.std(ddof=1))
        return self.bias - half, self.bias + half

    def text(self) -> str:
        """The bias as text, such as ``liver +0.3 % (+0.01 ml)``."""
        amount = f"{self.bias:+.{self.digits}f} {self.unit}"
        return f"{self.name} {amount if self.share is None else f'{100 * self.share:+.1f} % ({amount})'}"


@dataclass(frozen=True)
class AgreementPlot:
    """Bland-Altman plot of one class; positions in pixels.

    Attributes:
        title: name of the class.
        unit: of both axes.
        note: number of cases.
        points: one per case.
        lines: bias and limits of agreement: y, text, and whether it is the bias.
        x_ticks: x and text, on the mean of both sizes.
        y_ticks: y and text, on the difference.
    """

    title: str
    unit: str
    note: str
    points: tuple[Point, ...]
    lines: tuple[tuple[float, str, bool], ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    base: int = HEIGHT - BOTTOM


def agreements(content: Content) -> list[Agreement]:
    """Sizes of each scored class in the cases where prediction or reference has it."""
    found = []
    for name in content.scored:
        for predicted, reference in SIZES:
            pairs = {
                case: (ours, theirs)
                for case in content.cases
                if (ours := content.value(case, name, predicted)) is not None
                and (theirs := content.value(case, name, reference)) is not None
                and (ours or theirs)
            }
            if pairs:
                measure = measure_of(predicted)
                found.append(Agreement(name, measure.unit, measure.digits, pairs))
    return found


def bias_text(found: Sequence[Agreement]) -> str:
    """The bias for the headline; empty without pairs."""
    if not found:
        return ""
    what = "area" if found[0].unit.startswith("px") else "volume"
    if len(found) <= MAX_TOLD:
        return f"{what} bias: {', '.join(one.text() for one in found)}"
    largest = max(found, key=lambda one: abs(one.share or 0))
    return f"largest {what} bias: {largest.text()}"


def agreement_plot(found: Agreement) -> AgreementPlot:
    """Lay out the plot of one class."""
    means = [(predicted + reference) / 2 for predicted, reference in found.pairs.values()]
    values = found.differences.tolist()
    limits = found.limits or ()
    x_ticks, x_span = ticks_about(means)
    y_ticks, y_span = ticks_about([*values, *limits, 0.0])

    def x(value: float) -> float:
        return _place(value, x_span, LEFT, WIDTH - RIGHT)

    def y(value: float) -> float:
        return _place(value, y_span, HEIGHT - BOTTOM, TOP)

    digits = found.digits
    points = tuple(
        Point(
            x(mean),
            y(value),
            f"{case}: {value:+.{digits}f} {found.unit} at {mean:.{digits}f} {found.unit}",
        )
        for case, mean, value in zip(found.pairs, means, values, strict=True)
    )
    lines = [(y(found.bias), f"bias {found.bias:+.{digits}f}", True)]
    lines += [(y(limit), f"{limit:+.{digits}f}", False) for limit in limits]
    return AgreementPlot(
        found.name,
        found.unit,
        f"n = {len(found.pairs)}",
        points,
        tuple(lines),
        tuple((x(tick), f"{tick:g}") for tick in x_ticks),
        tuple((y(tick), f"{tick:g}") for tick in y_ticks),
    )


def _place(value: float, span: tuple[float, float], first: float, last: float) -> float:
    return round(first + (value - span[0]) / (span[1] - span[0]) * (last - first), 1)

"""Scores of a set of cases: collected, averaged, printed as a table, saved as JSON."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from dynunet_bundle.cases import name_of
from dynunet_bundle.evaluation.metrics import dice_by_target
from dynunet_bundle.files import write_json
from dynunet_bundle.regions import Regions, target_classes, target_names

SCORES_NAME = "scores.json"

Scores = Mapping[str, Sequence[float | None]]
"""Dice by foreground class or region, by case name."""

logger = logging.getLogger(__name__)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None, or None where there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def summarize(scores: Scores, label_names: Sequence[str]) -> dict[str, Any]:
    """The scores as JSON data.

    Args:
        scores: Dice by class or region, by case.
        label_names: their names; index 0 is the background.

    Returns:
        ``cases`` (Dice by class name), ``mean`` (by class, over the cases that have it), ``num_cases`` by class, and
        ``mean_dice``, the mean over classes of those means.
    """
    names = list(label_names[1:])
    columns = {name: [row[index] for row in scores.values()] for index, name in enumerate(names)}
    means = {name: mean_of(column) for name, column in columns.items()}
    return {
        "metric": "Dice",
        "cases": {case: dict(zip(names, row, strict=True)) for case, row in scores.items()},
        "mean": means,
        "num_cases": {
            name: sum(value is not None for value in column) for name, column in columns.items()
        },
        "mean_dice": mean_of(list(means.values())),
    }


def format_table(summary: Mapping[str, Any]) -> str:
    """The summary as a table for a terminal: a row a case, a column a class, the means below."""
    names = list(summary["mean"])
    rows = [
        (case, [*row.values(), mean_of(list(row.values()))])
        for case, row in summary["cases"].items()
    ]
    rows.append((f"mean of {len(rows)} cases", [*summary["mean"].values(), summary["mean_dice"]]))
    first = max(len(name) for name, _ in [*rows, ("case", [])])
    widths = [max(len(name), 6) for name in [*names, "mean"]]
    lines = [_row("case", [*names, "mean"], first, widths)]
    lines += [
        _row(name, ["-" if value is None else f"{value:.4f}" for value in values], first, widths)
        for name, values in rows
    ]
    return "\n".join(lines)


def _row(name: str, cells: Sequence[str], first: int, widths: Sequence[int]) -> str:
    columns = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return f"{name.ljust(first)}  {columns}"


class ScoreHandler:
    """Score each case that an evaluator has restored to the grid of its file; print and save the table.

    MONAI's MetricsSaver writes what a MONAI metric computed; that counts no false positives of a class that is
    absent from the reference (``ignore_empty``), or gives absent classes a score of 1.

    Args:
        output_dir: folder of ``scores.json``.
        label_names: one name a class, the background first.
        label_values: value of each class; only needed with regions.
        regions: the plan's regions, which are then scored in place of the classes, or None.
        prediction_key: key of the restored mask, class numbers ``[1, X, Y, Z]``.
        reference_key: key of the reference on the same grid; what it ignores does not count.
    """

    def __init__(
        self,
        output_dir: str,
        label_names: Sequence[str],
        label_values: Sequence[int] | None = None,
        regions: Regions | None = None,
        prediction_key: str = "pred",
        reference_key: str = "label",
    ) -> None:
        self.path = Path(output_dir) / SCORES_NAME
        self.names = target_names(label_names, regions)
        self.targets = target_classes(label_values or range(len(label_names)), regions)
        self.prediction_key = prediction_key
        self.reference_key = reference_key
        self._scores: dict[str, list[float | None]] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _start(self) -> None:
        self._scores = {}

    def _score(self, engine: Engine) -> None:
        # MONAI leaves what a case brings with it, such as its name, in the batch
        for case, outputs in zip(engine.state.batch, engine.state.output, strict=True):
            prediction = outputs[self.prediction_key]
            self._scores[name_of({**case, **outputs, "image": prediction})] = dice_by_target(
                prediction.cpu().numpy(),
                outputs[self.reference_key].cpu().numpy().round(),
                self.targets,
            )

    def _report(self) -> None:
        summary = summarize(self._scores, self.names)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, summary)
        logger.info("Dice in native space\n%s\nsaved to %s", format_table(summary), self.path)

"""Scores of a set of cases: collected, averaged, printed as a table, saved as JSON.

Stored on disk: the keys of ``summarize_measures`` in ``scores.json``.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.utils import ImageMetaKey

from dynunet_bundle.dataset.cases import LABEL, PREDICTION, name_of
from dynunet_bundle.drawing.text_table import number_cell, text_table
from dynunet_bundle.errors import counted
from dynunet_bundle.evaluation.case_measures import (
    NSD_TOLERANCE_MM,
    grid_of,
    measure_case,
    require_tolerance,
)
from dynunet_bundle.evaluation.statistics import (
    SCORES_NAME,
    TOLERANCES,
    Measures,
    measure_statistics,
    measures_of,
)
from dynunet_bundle.evaluation.text_tables import format_measures
from dynunet_bundle.files import write_json
from dynunet_bundle.images.grid import counts_pixels
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.terminal import printable
from dynunet_bundle.training.process.distributed import of_all_ranks

Scores = Mapping[str, Sequence[float | None]]
"""Dice by foreground class or region, by case name."""

logger = logging.getLogger(__name__)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None, or None if all are None."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def summarize(scores: Scores, label_names: Sequence[str]) -> dict[str, Any]:
    """The scores as JSON data.

    Args:
        scores: Dice by class or region, by case.
        label_names: their names; index 0 is the background.

    Returns:
        ``cases`` (Dice by class name), ``mean`` (by class, over the cases where it is defined), ``num_cases`` by
        class, and ``mean_dice``, the mean of those means over classes.
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


def summarize_measures(
    measures: Mapping[str, Sequence[Measures]], label_names: Sequence[str], tolerance_mm: float
) -> dict[str, Any]:
    """The content of ``scores.json``: the Dice summary of ``summarize``, and all measures.

    Args:
        measures: results of ``measure_case``, by case.
        label_names: names of the classes or regions; index 0 is the background.
        tolerance_mm: tolerance of the NSD.

    Returns:
        The keys of ``summarize``; ``nsd_tolerance_mm``, of pictures ``nsd_tolerance_px``; ``statistics`` by name and
        measure, see ``measure_statistics``; ``measures`` by case, name and measure.
    """
    names = list(label_names[1:])
    dice = {case: [row["dice"] for row in rows] for case, rows in measures.items()}
    return {
        **summarize(dice, label_names),
        **_tolerances(measures_of(measures), tolerance_mm),
        "statistics": measure_statistics(measures, names),
        "measures": {case: dict(zip(names, rows, strict=True)) for case, rows in measures.items()},
    }


def _tolerances(names: Sequence[str], tolerance: float) -> dict[str, float]:
    return {
        key: tolerance for key, unit in TOLERANCES.items() if not names or f"hd95_{unit}" in names
    }


def format_scores(summary: Mapping[str, Any]) -> str:
    """The Dice of all cases, then the means of all measures, for a terminal."""
    return f"Dice in native space\n{format_dice(summary)}\n\n{format_measures(summary)}"


def format_dice(summary: Mapping[str, Any]) -> str:
    """The summary as a table for a terminal: one row per case, one column per class, the means below."""
    names = list(summary["mean"])
    rows = [
        (case, [*row.values(), mean_of(list(row.values()))])
        for case, row in summary["cases"].items()
    ]
    rows.append(
        (f"mean of {counted(len(rows), 'case')}", [*summary["mean"].values(), summary["mean_dice"]])
    )
    cells = [[name, *map(number_cell, values)] for name, values in rows]
    return "\n".join(text_table([["case", *names, "mean"], *cells]))


class ScoreHandler:
    """Measure each restored case, print the tables and save them: ``validate#handlers`` of evaluate.json.

    Each case is on the grid of its file; millimetres come from the prediction's affine. MONAI's MetricsSaver is not
    used: MONAI's Dice either ignores false positives of a class that is absent from the reference (``ignore_empty``)
    or gives absent classes a score of 1, and MONAI's handlers of distances ignore the spacing. If several processes
    each evaluate a part of the cases, rank 0 reports all of them.

    Args:
        output_dir: folder of ``scores.json``.
        labels: the plan's labels; if they have regions, those are scored instead of the classes.
        nsd_tolerance_mm: distance up to which the NSD counts surfaces as equal.

    Raises:
        ConfigError: if the tolerance is negative or not finite.
    """

    def __init__(
        self,
        output_dir: str,
        labels: LabelScheme,
        nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
    ) -> None:
        require_tolerance(nsd_tolerance_mm)
        self.path = Path(output_dir) / SCORES_NAME
        self.names = labels.target_names
        self.targets = labels.target_classes
        self.nsd_tolerance_mm = nsd_tolerance_mm
        self._measures: dict[str, list[Measures]] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator, whose output has masks ``[1, X, Y, Z]`` of class numbers."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _start(self) -> None:
        self._measures = {}

    def _score(self, engine: Engine) -> None:
        # MONAI keeps the other entries of a case, such as its name, in the batch; a case that failed has none
        for case, outputs in zip(engine.state.batch, engine.state.output, strict=False):
            prediction = outputs[PREDICTION]
            name = name_of({**case, **outputs, "image": prediction})
            self._measures[name] = measure_case(
                _class_numbers(prediction),
                _class_numbers(outputs[LABEL]),
                self.targets,
                grid_of(np.asarray(prediction.affine.cpu()), name, _in_pixels(prediction)),
                self.nsd_tolerance_mm,
            )

    def _report(self, engine: Engine) -> None:
        measures = of_all_ranks(self._measures)
        if idist.get_rank() > 0 or not measures:
            return
        summary = summarize_measures(measures, self.names, self.nsd_tolerance_mm)
        trained = getattr(engine.state, "trained_cases", [])  # of ``ModelUse``
        if trained:
            summary["trained_cases"] = trained
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, summary)
        # a table has line breaks, which log arguments must not have
        logger.info(f"{format_scores(summary)}\nsaved to {printable(self.path)}")


def _in_pixels(mask: Any) -> bool:
    """Whether a MetaTensor ``[1, X, Y, Z]`` on the grid of its file is a plain picture."""
    return counts_pixels(str(mask.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "")), mask.shape)


def _class_numbers(mask: torch.Tensor) -> np.ndarray:
    """``[1, X, Y, Z]`` of any type -> ``[X, Y, Z]`` uint8."""
    return mask[0].cpu().numpy().round().astype(np.uint8)

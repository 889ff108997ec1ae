"""``progress.png``: the curves of a training in one picture, redrawn while it runs."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events

from dynunet_bundle.drawing.charts import INK, Chart, Line, draw_charts, save_figure
from dynunet_bundle.drawing.colours import class_colour
from dynunet_bundle.drawing.text_table import number_cell
from dynunet_bundle.errors import first_line
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.terminal import clock
from dynunet_bundle.training.watching.progress import next_ema
from dynunet_bundle.training.watching.status import (
    LOG_NAME,
    STATUS_NAME,
    read_log,
    read_status_file,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE_NAME = "progress.png"
INTERVAL_S = 60.0
"""Shortest time between two drawings: short epochs must not spend their time on pictures."""

WIDTH, ROW_HEIGHTS = 1200, (420, 280)
"""Size of the picture and of its two rows, in pixels."""

BLUE, PALE, PURPLE = "#4477aa", "#b9cfe3", "#aa3377"
"""Training, training of each epoch, and validation, where lines are not classes."""

RUN_PARTS, RUN_CHARACTERS = 3, 48
"""Last folders of ``output_dir`` that name the run in the heading, and the largest length of that name."""

MOST_COLOURS = 7
"""Largest number of classes with a colour each; with more, only the worst class is coloured."""

SMOOTH_FROM = 100
SMOOTHED_SHARE = 0.02
"""Number of epochs above which the loss is smoothed; half width of the moving average, as a share of the epochs."""

LogRecord = Mapping[str, Any]

logger = logging.getLogger(__name__)


class CurvesHandler:
    """Draw ``progress.png`` after epochs, at most once a minute, and at the end: ``train#handlers`` of train.json.

    It reads the log: attach it after ProgressHandler; a resumed training is shown from its first epoch. Any failure
    to draw or write, such as a missing matplotlib, is one warning and never stops the training.

    Args:
        output_dir: folder of the log and the picture.
        labels: the plan's labels.
    """

    def __init__(self, output_dir: str, labels: LabelScheme) -> None:
        self.folder = Path(output_dir)
        self.labels = labels
        self._drawn = -math.inf
        self._has_warned = False

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._draw_sometimes)
        engine.add_event_handler(Events.COMPLETED, self.draw)

    def _draw_sometimes(self) -> None:
        if time.monotonic() - self._drawn >= INTERVAL_S:
            self.draw()

    def draw(self) -> None:
        """Draw the picture now."""
        try:
            records = read_log(self.folder / LOG_NAME)
            names, classes = self.labels.target_names, self.labels.mask_classes
            figure = draw_curves(records, names, self._run_name(), classes)
            save_figure(figure, self.folder / PICTURE_NAME)
        except Exception as error:  # noqa: BLE001 - no fault in a picture may end a training
            if not self._has_warned:
                logger.warning("%s was not drawn: %s", PICTURE_NAME, first_line(error))
            self._has_warned = True
        self._drawn = time.monotonic()

    def _run_name(self) -> str:
        """Name of the data set and the last folders of the run, to tell the pictures of several runs apart."""
        task = str(read_status_file(self.folder / STATUS_NAME).get("task_name") or "")
        folders = Path(*self.folder.absolute().parts[-RUN_PARTS:]).as_posix()
        if len(folders) > RUN_CHARACTERS:
            folders = f"...{folders[3 - RUN_CHARACTERS :]}"
        return "     ".join([task, folders] if task else [folders])


def draw_curves(
    records: Sequence[LogRecord],
    label_names: Sequence[str],
    run_name: str = "",
    classes: Sequence[int] = (),
) -> "Figure":
    """Draw losses, Dice, learning rate, time and throughput by epoch.

    Args:
        records: records of the log, in the order of epochs; missing values are skipped.
        label_names: background, then the names of the scored targets.
        run_name: name of the run, for the heading.
        classes: class number of each target in a mask, for its colour; 1, 2, ... by default.

    Returns:
        A figure of 1200 x 700 pixels.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    names = label_names[1:]
    colours = {
        name: class_colour(number)
        for name, number in zip(names, classes or range(1, len(label_names)), strict=True)
    }
    rows = [
        [_loss_chart(records), _dice_chart(records, colours)],
        [
            Chart("learning rate", [Line(_points(records, "learning_rate"), BLUE)], is_log=True),
            _time_chart(records),
            Chart(
                "throughput in patches/s",
                [Line(_points(records, "patches_per_second"), BLUE)],
                from_zero=True,
            ),
        ],
    ]
    return draw_charts(_heading(records, run_name), rows, ROW_HEIGHTS, WIDTH)


def _heading(records: Sequence[LogRecord], run_name: str) -> str:
    start = [run_name] if run_name else []
    if not records:
        return "     ".join([*start, "no epoch is done yet"])
    last = records[-1]
    parts = [*start, f"epoch {last['epoch']}", f"loss {number_cell(last.get('loss'), '.4f')}"]
    best = _best(records)
    if best is not None:
        parts.append(f"best mean Dice {best[1]:.4f} at epoch {best[0]:.0f}")
    total = sum(record.get("seconds") or 0 for record in records)
    return "     ".join([*parts, f"{clock(total)} of training"])


def _points(records: Sequence[LogRecord], name: str) -> list[tuple[float, float]]:
    return [
        (float(record["epoch"]), float(record[name]))
        for record in records
        if record.get(name) is not None
    ]


def _best(records: Sequence[LogRecord]) -> tuple[float, float] | None:
    """Epoch and mean Dice of the best validation; the first of equal ones, like the checkpoint."""
    return max(_points(records, "dice"), key=lambda point: point[1], default=None)


def _loss_chart(records: Sequence[LogRecord]) -> Chart:
    points = _points(records, "loss")
    lines = [Line(points, BLUE, "training")]
    if len(points) >= SMOOTH_FROM:
        lines = [
            Line(points, PALE, "training, each epoch", 1),
            Line(_smoothed(points), BLUE, "training, smoothed"),
        ]
    lines.append(Line(_points(records, "val_loss"), PURPLE, "validation"))
    return Chart("loss", lines)


def _smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Centred moving average; the window shrinks towards the ends, so the curve never lags."""
    widest = max(round(len(points) * SMOOTHED_SHARE), 1)
    smooth = []
    for place, (x, _) in enumerate(points):
        reach = min(widest, place, len(points) - 1 - place)
        window = points[place - reach : place + reach + 1]
        smooth.append((x, sum(y for _, y in window) / len(window)))
    return smooth


def _dice_chart(records: Sequence[LogRecord], colours: Mapping[str, str]) -> Chart:
    """Dice by class, its mean and moving average; ``colours`` by the names of the classes."""
    by_class = {name: _class_points(records, name) for name in colours}
    if len(colours) > MOST_COLOURS:
        # too many colours to distinguish: the worst class by name, the others in grey
        last = {name: points[-1][1] for name, points in by_class.items() if points}
        worst = min(last, key=lambda name: last[name]) if last else None
        lines = [Line(points, "#cccccc", "", 1) for points in by_class.values()]
        lines[:1] = [Line(lines[0].points, "#cccccc", f"{len(colours)} classes", 1)]
        if worst is not None:
            lines.append(Line(by_class[worst], colours[worst], f"worst: {worst}", 1.5))
    else:
        lines = [Line(points, colours[name], name, 1.5) for name, points in by_class.items()]
    if len(colours) > 1:
        lines.append(Line(_points(records, "dice"), INK, "mean", 3))
    lines.append(Line(_ema_points(records), INK, "moving average", 1.5, dashed=True))
    best = _best(records)
    text = "" if best is None else f"best {best[1]:.4f} at {best[0]:.0f}"
    return Chart("Dice of the validation cases", lines, mark=best, mark_text=text)


def _ema_points(records: Sequence[LogRecord]) -> list[tuple[float, float]]:
    """Moving average of the mean Dice, see ``next_ema``; also for logs of earlier versions, which lack it."""
    average: float | None = None
    points = []
    for epoch, dice in _points(records, "dice"):
        average = next_ema(average, dice)
        points.append((epoch, average))
    return points


def _class_points(records: Sequence[LogRecord], name: str) -> list[tuple[float, float]]:
    return [
        (float(record["epoch"]), float(record["dice_by_class"][name]))
        for record in records
        if record.get("dice_by_class", {}).get(name) is not None
    ]


def _time_chart(records: Sequence[LogRecord]) -> Chart:
    """Time of iterations and validation as two lines: their sum would be a sawtooth."""
    iterations = [
        (float(record["epoch"]), record["seconds"] - (record.get("validation_seconds") or 0.0))
        for record in records
        if record.get("seconds") is not None
    ]
    lines = [
        Line(iterations, BLUE, "iterations"),
        Line(_points(records, "validation_seconds"), PURPLE, "validation"),
    ]
    return Chart("time per epoch in s", lines, from_zero=True)

"""What a person watches while the network trains: a line an epoch, and the same as JSON lines for machines."""

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.optim import Optimizer
from tqdm import tqdm

from dynunet_bundle.files import atomic_write

LOG_NAME = "train_log.jsonl"

logger = logging.getLogger(__name__)


def _epoch_of(line: bytes) -> float:
    """Epoch of a line of the log; infinite for a line that a crash tore."""
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class ProgressHandler:
    """Print one line an epoch with loss, scores, time and ETA, and append it to ``train_log.jsonl``.

    On a terminal a bar shows the iterations of the running epoch. It must be attached last, so that resuming,
    validation and schedule have done their part. MONAI's StatsHandler prints neither times nor an ETA.

    Args:
        output_dir: folder of the log.
        evaluator: the validation engine.
        optimizer: for the learning rate.
        label_names: names by label value, index 0 the background.
        key_metric: name of the mean Dice among the evaluator's metrics.
        class_metric: name of the Dice by class.
    """

    def __init__(
        self,
        output_dir: str,
        evaluator: Engine,
        optimizer: Optimizer,
        label_names: Sequence[str],
        key_metric: str = "val_mean_dice",
        class_metric: str = "val_dice_by_class",
    ) -> None:
        self.path = Path(output_dir) / LOG_NAME
        self.evaluator = evaluator
        self.optimizer = optimizer
        self.label_names = list(label_names)
        self.key_metric = key_metric
        self.class_metric = class_metric
        self._bar: Any = None
        self._losses: list[torch.Tensor] = []
        self._started = self._epoch_started = 0.0
        self._first_epoch = 0
        self._rate = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _start(self, engine: Engine) -> None:
        self._started = time.monotonic()
        self._first_epoch = engine.state.epoch
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # lines of epochs that a killed run logged but did not save will be written again
        lines = self.path.read_bytes().splitlines() if self.path.is_file() else []
        kept = [line for line in lines if _epoch_of(line) <= engine.state.epoch]
        with atomic_write(self.path) as file:
            file.write(b"".join(line + b"\n" for line in kept))

    def _start_epoch(self, engine: Engine) -> None:
        self._epoch_started = time.monotonic()
        # the schedule steps before the report: this is the rate that the epoch begins with
        self._rate = self.optimizer.param_groups[0]["lr"]
        self._losses = []
        if sys.stderr.isatty():
            name = f"epoch {engine.state.epoch}/{engine.state.max_epochs}"
            self._bar = tqdm(total=engine.state.epoch_length, desc=name, leave=False)

    def _count(self, engine: Engine) -> None:
        # detached, not read: reading would wait for the GPU at every step
        self._losses.append(engine.state.output["loss"].detach())
        if self._bar is not None:
            self._bar.update()

    def _report(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        now = time.monotonic()
        done = engine.state.epoch - self._first_epoch
        eta_s = (now - self._started) / done * (engine.state.max_epochs - engine.state.epoch)
        record = {
            "epoch": engine.state.epoch,
            "loss": round(float(torch.stack(self._losses).mean()), 6),
            "learning_rate": self._rate,
            **self._scores(engine),
            "seconds": round(now - self._epoch_started, 3),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        logger.info(self._line(record, engine.state.max_epochs, eta_s))

    def _scores(self, engine: Engine) -> dict[str, Any]:
        """Scores of this epoch's validation; nothing in an epoch without one."""
        state = self.evaluator.state
        if state.epoch != engine.state.epoch or self.key_metric not in state.metrics:
            return {}
        by_class = torch.as_tensor(state.metrics[self.class_metric]).flatten().tolist()
        return {
            "dice": round(float(state.metrics[self.key_metric]), 6),
            "dice_by_class": {
                name: round(value, 6)
                for name, value in zip(self.label_names[1:], by_class, strict=True)
            },
            "best_dice": round(float(state.best_metric), 6),
            "best_epoch": state.best_metric_epoch,
        }

    def _line(self, record: dict[str, Any], num_epochs: int, eta_s: float) -> str:
        parts = [f"epoch {record['epoch']}/{num_epochs}", f"loss {record['loss']:.4f}"]
        if "dice" in record:
            classes = ", ".join(
                f"{name} {dice:.3f}" for name, dice in record["dice_by_class"].items()
            )
            best = f"best {record['best_dice']:.4f} at {record['best_epoch']}"
            parts.append(f"Dice {record['dice']:.4f} ({classes}; {best})")
        parts.append(f"lr {record['learning_rate']:.2e}")
        parts.append(f"{record['seconds']:.1f} s")
        minutes, seconds = divmod(round(eta_s), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"ETA {hours}:{minutes:02d}:{seconds:02d}")
        return "  ".join(parts)

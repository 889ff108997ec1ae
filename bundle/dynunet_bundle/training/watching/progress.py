"""Progress of a training: one line per epoch on screen, and the same as JSON lines.

Stored on disk: the keys of the records, in ``train_log.jsonl``.
"""

import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.optim import Optimizer
from tqdm import tqdm

from dynunet_bundle.drawing.text_table import number_cell
from dynunet_bundle.files import atomic_write
from dynunet_bundle.terminal import clock, printable
from dynunet_bundle.training.watching.status import (
    DICE_BY_CLASS,
    LOG_NAME,
    LOSS,
    MEAN_DICE,
    read_log,
    record_of,
)

EMA_SHARE = 0.1
"""Share of the newest value in the moving average of Dice; that of nnU-Net's "EMA pseudo Dice"."""

logger = logging.getLogger(__name__)


class ProgressHandler:
    """Print and log one line per epoch: ``train#handlers`` of train.json.

    The line has loss, scores, throughput and ETA; its record is appended to ``train_log.jsonl``. On a terminal, a bar
    shows the iterations of the epoch. Attach it after the handlers that resume, validate and step the schedule.
    MONAI's StatsHandler prints neither times nor an ETA.

    It sets two attributes of the trainer's state for other handlers. ``epoch_losses`` has the losses of the current
    epoch, floats or tensors; an epoch resumed in the middle keeps those of the checkpoint. ``epoch_record`` is the
    last logged record.

    The moving average of Dice is exponential, over validations, and continues from the log when a training resumes. It
    is only shown. The best epoch is that of the Dice itself: nnU-Net smooths the Dice of random patches, but this one
    is of whole cases, the same at each validation.

    With several processes only the first reports, and the loss is the mean over its own patches. Times start at the
    first iteration of the process, after the cases are prepared. The learning rate is that of the epoch or, if the
    schedule steps per iteration, the rate at the end of the epoch. The memory is the peak of torch's allocator since
    the process started, without DALI's own.

    Args:
        output_dir: folder of the log.
        evaluator: the validation engine.
        optimizer: source of the learning rate.
        label_names: background, then the names of the scored targets.
        batch_size: patches per batch, in one process.
        world_size: number of processes that train together.
    """

    def __init__(
        self,
        output_dir: str,
        evaluator: Engine,
        optimizer: Optimizer,
        label_names: Sequence[str],
        batch_size: int = 1,
        world_size: int = 1,
    ) -> None:
        self.path = Path(output_dir) / LOG_NAME
        self.evaluator = evaluator
        self.optimizer = optimizer
        self.label_names = list(label_names)
        self.batch_patches = batch_size * world_size
        self._bar: Any = None
        self._rate = 0.0
        self._started = self._epoch_started = 0.0
        self._first_iteration = 0
        self._ends: list[float] = []
        self._ema: float | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_iteration)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _start(self, engine: Engine) -> None:
        self._started = self._epoch_started = time.monotonic()
        self._first_iteration = engine.state.iteration
        # an epoch of which only the validation is left does not run any iteration
        self._rate = self.optimizer.param_groups[0]["lr"]
        self._ends = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # drop epochs that an earlier run logged but did not save: they are trained again
        lines = self.path.read_bytes().splitlines() if self.path.is_file() else []
        kept = [line for line in lines if _epoch_of(line) <= engine.state.epoch]
        with atomic_write(self.path) as file:
            file.write(b"".join(line + b"\n" for line in kept))
        self._ema = None
        for record in read_log(self.path):
            if record.get("dice") is not None:
                self._ema = next_ema(self._ema, record["dice"])

    def _start_epoch(self, engine: Engine) -> None:
        self._epoch_started = time.monotonic()
        self._ends = []
        is_fresh = engine.state.iteration == (engine.state.epoch - 1) * engine.state.epoch_length
        if is_fresh or not hasattr(engine.state, "epoch_losses"):
            engine.state.epoch_losses = []
        if sys.stderr.isatty():
            name = f"epoch {engine.state.epoch}/{engine.state.max_epochs}"
            done = len(engine.state.epoch_losses)
            self._bar = tqdm(total=engine.state.epoch_length, initial=done, desc=name, leave=False)

    def _start_iteration(self, engine: Engine) -> None:
        if engine.state.iteration == self._first_iteration + 1:
            self._started = self._epoch_started = time.monotonic()

    def _count(self, engine: Engine) -> None:
        # detached, not read: reading would wait for the GPU at each step
        engine.state.epoch_losses.append(engine.state.output["loss"].detach())
        # read here: a schedule per epoch steps before the report; one per iteration has already stepped
        self._rate = self.optimizer.param_groups[0]["lr"]
        self._ends.append(time.monotonic())
        if self._bar is not None:
            self._bar.update()

    def _report(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        now = time.monotonic()
        losses = engine.state.epoch_losses = as_floats(engine.state.epoch_losses)
        record = {
            "epoch": engine.state.epoch,
            "loss": _finite(sum(losses) / len(losses)) if losses else None,
            "learning_rate": self._rate,
            **self._scores(engine),
            "seconds": round(now - self._epoch_started, 3),
            **self._pace(engine),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        engine.state.epoch_record = record
        logger.info(_line(record, engine.state.max_epochs, self._eta_s(engine, now)))

    def _scores(self, engine: Engine) -> dict[str, Any]:
        """Scores and duration of this epoch's validation; empty in an epoch without validation."""
        state = self.evaluator.state
        if state.epoch != engine.state.epoch or MEAN_DICE not in state.metrics:
            return {}
        found = state.metrics[DICE_BY_CLASS]
        values = found.values() if isinstance(found, Mapping) else torch.as_tensor(found).flatten()
        dice = _finite(float(state.metrics[MEAN_DICE]))
        # from the rounded value, as a resumed training reads it from the log
        if dice is not None:
            self._ema = next_ema(self._ema, dice)
        loss = state.metrics.get(LOSS)
        scores = {
            **({} if loss is None else {"val_loss": _finite(float(loss))}),
            "dice": dice,
            "ema_dice": None if self._ema is None else _finite(self._ema),
            "dice_by_class": {
                name: _finite(float(value))
                for name, value in zip(self.label_names[1:], values, strict=True)
            },
            "best_dice": _finite(float(state.best_metric)),
            "best_epoch": state.best_metric_epoch,
        }
        seconds = getattr(state, "times", {}).get(Events.COMPLETED.name)
        return scores if seconds is None else {**scores, "validation_seconds": round(seconds, 3)}

    def _pace(self, engine: Engine) -> dict[str, Any]:
        """Throughput from the end of the first to the end of the last iteration; GPU memory. Either may be missing."""
        pace: dict[str, Any] = {}
        span = self._ends[-1] - self._ends[0] if self._ends else 0.0
        if span > 0:
            patches = (len(self._ends) - 1) * self.batch_patches
            pace["patches_per_second"] = round(patches / span, 3)
        device = getattr(engine.state, "device", None)
        if device is not None and torch.device(device).type == "cuda":
            pace["gpu_memory_mib"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
        return pace

    def _eta_s(self, engine: Engine, now: float) -> float | None:
        done = engine.state.iteration - self._first_iteration
        left = engine.state.max_epochs * engine.state.epoch_length - engine.state.iteration
        return (now - self._started) / done * left if done else None


def next_ema(before: float | None, dice: float) -> float:
    """The moving average after one more validation: ``0.9 * before + 0.1 * dice``, starting with the first Dice.

    Source: nnunetv2 2.8.1 ``nnUNetLogger``.
    """
    if before is None:
        return dice
    return (1 - EMA_SHARE) * before + EMA_SHARE * dice


def as_floats(losses: Sequence[torch.Tensor | float]) -> list[float]:
    """Losses as floats; waits for the GPU once, not per loss."""
    tensors = [loss for loss in losses if isinstance(loss, torch.Tensor)]
    values = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(values) if isinstance(loss, torch.Tensor) else float(loss) for loss in losses]


def _epoch_of(line: bytes) -> float:
    """Epoch of a line of the log; infinite for a line cut off by a crash."""
    record = record_of(line)
    return math.inf if record is None else float(record["epoch"])


def _finite(value: float) -> float | None:
    """The value rounded to six decimals, or None if not finite: JSON does not have NaN."""
    return round(value, 6) if math.isfinite(value) else None


def _line(record: Mapping[str, Any], num_epochs: int, eta_s: float | None) -> str:
    loss = number_cell(record["loss"], ".4f", "nan")
    parts = [f"epoch {record['epoch']}/{num_epochs}", f"loss {loss}"]
    if "val_loss" in record:
        parts.append(f"validation loss {number_cell(record['val_loss'], '.4f', 'nan')}")
    if "dice" in record:
        classes = ", ".join(
            f"{name} {number_cell(dice, '.3f', 'nan')}"
            for name, dice in record["dice_by_class"].items()
        )
        best = f"best {number_cell(record['best_dice'], '.4f', 'nan')} at {record['best_epoch']}"
        parts.append(f"Dice {number_cell(record['dice'], '.4f', 'nan')} ({classes}; {best})")
    parts.append(f"lr {record['learning_rate']:.2e}")
    parts.append(f"{record['seconds']:.1f} s")
    if "patches_per_second" in record:
        parts.append(f"{record['patches_per_second']:.1f} patches/s")
    if "gpu_memory_mib" in record:
        parts.append(f"{record['gpu_memory_mib']:.0f} MiB")
    parts.append(f"ETA {clock(eta_s)}")
    return printable("  ".join(parts))

"""What a person watches while the network trains: a line an epoch, and the same as JSON lines for machines."""

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
from dynunet_bundle.training.watching.status import DICE_BY_CLASS, LOG_NAME, MEAN_DICE, record_of
from dynunet_bundle.training.watching.status_text import clock

logger = logging.getLogger(__name__)


class ProgressHandler:
    """Print and log one line an epoch: ``train#handlers`` of train.json.

    The line has loss, scores, pace and ETA; it is appended to ``train_log.jsonl``. On a terminal a bar shows the
    iterations of the running epoch. It must be attached after what resumes, validates and steps the schedule.
    MONAI's StatsHandler prints neither times nor an ETA.

    Two attributes of the trainer's state are for others: ``epoch_losses``, the losses of the running epoch, floats or
    tensors; it is left as it is where an epoch goes on in the middle, so that a checkpoint can bring it back; and
    ``epoch_record``, what was logged last.

    Of several processes only the first reports, and the loss is the mean over its own patches. Times leave out what
    comes before the first iteration of the process: cases are prepared then, once. The learning rate is that of the
    epoch, or, where the schedule steps by iterations, the one that it ends with. The memory is the peak of torch's
    allocator since the process began; DALI's own is not in it.

    Args:
        output_dir: folder of the log.
        evaluator: the validation engine.
        optimizer: for the learning rate.
        label_names: names of what is scored, behind the background.
        batch_size: patches a batch, of one process.
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
        # an epoch whose validation alone is made up for has no iteration any more
        self._rate = self.optimizer.param_groups[0]["lr"]
        self._ends = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # epochs that an earlier run reported but did not save will be written again
        lines = self.path.read_bytes().splitlines() if self.path.is_file() else []
        kept = [line for line in lines if _epoch_of(line) <= engine.state.epoch]
        with atomic_write(self.path) as file:
            file.write(b"".join(line + b"\n" for line in kept))

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
        # detached, not read: reading would wait for the GPU at every step
        engine.state.epoch_losses.append(engine.state.output["loss"].detach())
        # a schedule by epochs steps before the report, one by iterations has stepped already
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
        """Scores of this epoch's validation and its time; nothing in an epoch without one."""
        state = self.evaluator.state
        if state.epoch != engine.state.epoch or MEAN_DICE not in state.metrics:
            return {}
        found = state.metrics[DICE_BY_CLASS]
        values = found.values() if isinstance(found, Mapping) else torch.as_tensor(found).flatten()
        scores = {
            "dice": _finite(float(state.metrics[MEAN_DICE])),
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
        """Throughput between the ends of the first and the last iteration, and the GPU memory, where there are any."""
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


def as_floats(losses: Sequence[torch.Tensor | float]) -> list[float]:
    """Losses as numbers; the GPU is waited for once, not for each."""
    tensors = [loss for loss in losses if isinstance(loss, torch.Tensor)]
    values = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(values) if isinstance(loss, torch.Tensor) else float(loss) for loss in losses]


def _epoch_of(line: bytes) -> float:
    """Epoch of a line of the log; infinite for a line that a crash tore."""
    record = record_of(line)
    return math.inf if record is None else float(record["epoch"])


def _finite(value: float) -> float | None:
    """Six digits, or None where there is no number: JSON knows no NaN."""
    return round(value, 6) if math.isfinite(value) else None


def _line(record: Mapping[str, Any], num_epochs: int, eta_s: float | None) -> str:
    loss = number_cell(record["loss"], ".4f", "nan")
    parts = [f"epoch {record['epoch']}/{num_epochs}", f"loss {loss}"]
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
    return "  ".join(parts)

"""The state of a training, read from its files: ``status.json``, ``train_log.jsonl``, and those in ``ckpt_dir``.

Only reading a checkpoint imports torch; everything else is fast.

Stored on disk: the file names, the names of metrics, and the keys that ``read_status`` reads.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import ConfigError, first_line
from dynunet_bundle.files import parse_json, read_json
from dynunet_bundle.networks.model_json import model_facts
from dynunet_bundle.shapes import (
    COUNT,
    DURATION,
    MAYBE_NUMBER,
    MAYBE_TEXT,
    TEXT,
    by_name,
    object_with,
)

LOG_NAME = "train_log.jsonl"
MEAN_DICE, DICE_BY_CLASS, LOSS = "val_mean_dice", "val_dice_by_class", "val_loss"
"""Names of the validation metrics in train.json."""

STATUS_NAME = "status.json"

RECENT_EPOCHS = 20
"""Number of last epochs that the ETA is estimated from; covers two validations with the default interval of ten."""

SILENT_EPOCHS = 3
"""A run counts as silent if its last sign of life is this many times its longest recent epoch ago."""

SILENT_S = 60.0
"""Minimum time without a sign of life before a run counts as silent, in seconds."""

STATUS_SCHEMA = object_with(
    {
        "state": TEXT,
        "task_name": MAYBE_TEXT,
        "folds": MAYBE_TEXT,
        "epoch": COUNT,
        "epochs": COUNT,
        "iteration": COUNT,
        "iterations_per_epoch": {"type": "integer", "minimum": 1},
        "world_size": COUNT,
        "updated": TEXT,
        "message": MAYBE_TEXT,
    },
    description="Delete the file; a training that runs writes it again.",
)
"""Shape of ``status.json``."""

LOG_SCHEMA = object_with(
    {
        "epoch": {"type": "number", "minimum": 0},
        "loss": MAYBE_NUMBER,
        "learning_rate": MAYBE_NUMBER,
        "val_loss": MAYBE_NUMBER,
        "dice": MAYBE_NUMBER,
        "ema_dice": MAYBE_NUMBER,
        "dice_by_class": by_name(MAYBE_NUMBER),
        "best_dice": MAYBE_NUMBER,
        "best_epoch": {"type": ["integer", "null"]},
        "seconds": DURATION,
        "validation_seconds": DURATION,
        "patches_per_second": DURATION,
    },
    ("epoch",),
)
"""Shape of a line of ``train_log.jsonl``."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunStatus:
    """State of one training. Unknown values are None.

    Attributes:
        folder: its ``output_dir``.
        state: ``running``, ``finished``, ``stopped`` by a signal, ``failed``, or ``unknown`` without a status.json.
        message: one line of details.
        task_name: name of the data set.
        folds: where the folds come from.
        epoch: completed epochs.
        epochs: total number of epochs.
        iteration: completed iterations.
        iterations_per_epoch: iterations per epoch.
        world_size: number of processes.
        loss: mean loss of the last logged epoch.
        learning_rate: learning rate of that epoch.
        dice: mean Dice of the last validation.
        dice_epoch: epoch of that validation.
        dice_by_class: Dice of each class in that validation, by name.
        best_dice: best mean Dice so far.
        best_epoch: epoch of the best mean Dice.
        epoch_s: mean seconds per epoch, validations included.
        patches_per_second: throughput in the last logged epoch.
        eta_s: seconds to the end, counted from the last sign of life.
        updated: UTC time of the last sign of life, in ISO 8601.
        idle_s: seconds since then.
        is_silent: whether ``idle_s`` is too long for a running training.
        checkpoint_epoch: completed epochs in the last checkpoint.
        checkpoint_iteration: completed iterations in the last checkpoint.
        model_epoch: epoch of the weights in ``model.pt``.
    """

    folder: str
    state: str
    message: str | None
    task_name: str | None
    folds: str | None
    epoch: int
    epochs: int | None
    iteration: int | None
    iterations_per_epoch: int | None
    world_size: int | None
    loss: float | None
    learning_rate: float | None
    dice: float | None
    dice_epoch: int | None
    dice_by_class: dict[str, float | None]
    best_dice: float | None
    best_epoch: int | None
    epoch_s: float | None
    patches_per_second: float | None
    eta_s: float | None
    updated: str
    idle_s: float
    is_silent: bool
    checkpoint_epoch: int | None
    checkpoint_iteration: int | None
    model_epoch: int | None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, without lines cut off by a crash; empty if the file is missing."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return [record for record in map(record_of, lines) if record is not None]


def record_of(line: bytes) -> dict[str, Any] | None:
    """The record in a line of the log, or None if the line is not a record."""
    try:
        record: dict[str, Any] = parse_json(line, LOG_NAME, ConfigError, LOG_SCHEMA)
    except ConfigError:
        return None
    return record


def read_status_file(path: Path) -> dict[str, Any]:
    """The content of ``status.json``; empty if it does not exist.

    Raises:
        ConfigError: if it is malformed.
    """
    written: dict[str, Any] = read_json(path, ConfigError, STATUS_SCHEMA) if path.is_file() else {}
    return written


def read_status(folder: Path, now: float, ckpt_dir: Path | None = None) -> RunStatus:
    """Read the state of a training.

    Args:
        folder: its ``output_dir``.
        now: current time, in seconds since 1970.
        ckpt_dir: its ``ckpt_dir``, to read the checkpoint too; None skips it.

    Raises:
        ConfigError: if no training has written to the folder, or its status.json is malformed.
    """
    log, status_file = folder / LOG_NAME, folder / STATUS_NAME
    written = read_status_file(status_file)
    if not written and not log.is_file():
        raise ConfigError(
            f"{folder} has neither {STATUS_NAME} nor {LOG_NAME}. Give the --output_dir of a training."
        )
    records = read_log(log)
    last = records[-1] if records else {}
    validated: dict[str, Any] = next(
        (record for record in reversed(records) if "dice" in record), {}
    )
    epoch = int(written.get("epoch", last.get("epoch", 0)))
    seconds = [record["seconds"] for record in records[-RECENT_EPOCHS:] if record.get("seconds")]
    epoch_s = sum(seconds) / len(seconds) if seconds else None
    state = written.get("state", "unknown")
    sign = _time_of(written) or (log if log.is_file() else status_file).stat().st_mtime
    idle_s = max(now - sign, 0.0)
    silent_s = max(SILENT_EPOCHS * max(seconds), SILENT_S) if seconds else math.inf
    return RunStatus(
        folder=str(folder),
        state=state,
        message=written.get("message"),
        task_name=written.get("task_name"),
        folds=written.get("folds"),
        epoch=epoch,
        epochs=written.get("epochs"),
        iteration=written.get("iteration"),
        iterations_per_epoch=written.get("iterations_per_epoch"),
        world_size=written.get("world_size"),
        loss=last.get("loss"),
        learning_rate=last.get("learning_rate"),
        dice=validated.get("dice"),
        dice_epoch=validated.get("epoch"),
        dice_by_class=validated.get("dice_by_class", {}),
        best_dice=validated.get("best_dice"),
        best_epoch=validated.get("best_epoch"),
        epoch_s=epoch_s,
        patches_per_second=last.get("patches_per_second"),
        eta_s=_eta_s(written, epoch_s),
        updated=datetime.fromtimestamp(sign, UTC).isoformat(timespec="seconds"),
        idle_s=idle_s,
        is_silent=state in ("running", "unknown") and idle_s > silent_s,
        **_checkpoint_facts(ckpt_dir),
    )


def find_runs(folder: Path) -> list[Path]:
    """Find the ``output_dir`` of each training in a folder.

    Args:
        folder: an ``output_dir``; or a fold's folder of ``train``, with ``run`` in it; or a folder of folds.

    Returns:
        At least one folder; ``folder`` itself if nothing is found.
    """
    if _is_run(folder):
        return [folder]
    if _is_run(folder / "run"):
        return [folder / "run"]
    found = [fold / "run" for fold in sorted(folder.glob("fold_*")) if _is_run(fold / "run")]
    return found or [folder]


def _is_run(folder: Path) -> bool:
    return (folder / STATUS_NAME).is_file() or (folder / LOG_NAME).is_file()


def _time_of(written: Mapping[str, Any]) -> float | None:
    try:
        return datetime.fromisoformat(written["updated"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None


def _eta_s(written: Mapping[str, Any], epoch_s: float | None) -> float | None:
    """Seconds for the remaining iterations, including their share of the validations."""
    needed = ("epochs", "iteration", "iterations_per_epoch")
    is_over = written.get("state") in ("finished", "failed")
    if is_over or epoch_s is None or not all(name in written for name in needed):
        return None
    left = written["epochs"] - written["iteration"] / written["iterations_per_epoch"]
    return float(max(left, 0.0) * epoch_s)


def _checkpoint_facts(ckpt_dir: Path | None) -> dict[str, int | None]:
    epoch = iteration = model_epoch = None
    if ckpt_dir is not None:
        last = ckpt_dir / "checkpoint_last.pt"
        if last.is_file():
            epoch, iteration = _position_of(last)
        model_epoch = model_facts(ckpt_dir / "model.pt").get("epoch")
    return {
        "checkpoint_epoch": epoch,
        "checkpoint_iteration": iteration,
        "model_epoch": model_epoch,
    }


def _position_of(checkpoint: Path) -> tuple[int | None, int | None]:
    from dynunet_bundle.networks.tensor_file import load_tensors

    try:
        # memory-mapped: only a few bytes are needed of a file that may have gigabytes
        state = load_tensors(checkpoint, mmap=True)
        return state["epoch"], state.get("iteration")
    except Exception as error:  # noqa: BLE001 - torch raises many kinds for a damaged file
        logger.warning("%s cannot be read (%s)", checkpoint, first_line(error))
        return None, None

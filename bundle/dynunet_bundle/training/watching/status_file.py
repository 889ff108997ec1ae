"""``status.json``: the state of a training, for people and schedulers that only see its files.

Stored on disk: the keys and states of this file, and the names of ``failed_process_*.json``.
"""

import logging
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from dynunet_bundle.errors import ConfigError, OutputError, first_line
from dynunet_bundle.files import read_json, write_json
from dynunet_bundle.shapes import TEXT, object_with
from dynunet_bundle.training.watching.status import STATUS_NAME

FAILED_NAME = "failed_process"
FAILURE_SCHEMA = object_with({"message": TEXT}, ("message",))
INTERVAL_S = 10.0
"""Shortest time between two updates within an epoch; shorter than the 60 s after which a run can count as silent."""

logger = logging.getLogger(__name__)


class StatusFile:
    """Keep ``status.json`` up to date: ``train#status`` of train.json.

    Its state is ``running``, ``finished``, ``stopped`` (by a signal) or ``failed``.

    Args:
        output_dir: folder of the file.
        task_name: name of the data set.
        rank: index of this process; only the first writes.
        world_size: number of processes.
        folds: where the folds come from, see ``FoldCases.source``.
    """

    def __init__(
        self,
        output_dir: str,
        task_name: str,
        rank: int = 0,
        world_size: int = 1,
        folds: str | None = None,
    ) -> None:
        self.path = Path(output_dir) / STATUS_NAME
        self.task_name = task_name
        self.folds = folds
        self.rank = rank
        self.is_main = rank == 0
        self.world_size = world_size
        self._written = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self._forget_failures)
        engine.add_event_handler(Events.STARTED, self.write, "running")
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write_sometimes)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write, "running")
        engine.add_event_handler(Events.COMPLETED, self.write, "finished")

    def _write_sometimes(self, engine: Engine) -> None:
        if time.monotonic() - self._written > INTERVAL_S:
            self.write(engine, "running")

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Record a failure; processes other than the first write a separate file."""
        if self.is_main:
            self.end(engine, "failed", first_line(error))
            return
        with suppress(OSError, OutputError):
            path = self.path.with_name(f"{FAILED_NAME}_{self.rank}.json")
            write_json(path, {"message": f"process {self.rank}: {first_line(error)}"})

    def failure_of_others(self) -> str | None:
        """Message of another process that failed, or None."""
        for path in sorted(self.path.parent.glob(f"{FAILED_NAME}_*.json")):
            with suppress(ConfigError):
                return str(read_json(path, ConfigError, FAILURE_SCHEMA)["message"])
        return None

    def _forget_failures(self) -> None:
        if self.is_main:
            for path in self.path.parent.glob(f"{FAILED_NAME}_*.json"):
                path.unlink(missing_ok=True)

    def end(self, engine: Engine, state: str, message: str) -> None:
        """Write the file before an early end; an error here must not hide the reason for the end."""
        try:
            self.write(engine, state, message)
        except (OSError, OutputError) as error:
            logger.warning("%s", error)

    def write(self, engine: Engine, state: str, message: str | None = None) -> None:
        """Write the file.

        Args:
            engine: the trainer.
            state: ``running``, ``finished``, ``stopped`` or ``failed``.
            message: one line of details.
        """
        if not self.is_main:
            return
        self._written = time.monotonic()
        length = engine.state.epoch_length or 1
        content: dict[str, Any] = {
            "state": state,
            "task_name": self.task_name,
            "folds": self.folds,
            "epoch": engine.state.iteration // length,
            "epochs": engine.state.max_epochs,
            "iteration": engine.state.iteration,
            "iterations_per_epoch": length,
            "world_size": self.world_size,
            "pid": os.getpid(),
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "message": message,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, content)

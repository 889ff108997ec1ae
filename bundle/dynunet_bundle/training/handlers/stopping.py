"""A training that is told to stop saves what it has, within seconds, and says so by its exit code.

Clusters send SIGTERM before they take a machine away, torchrun passes it on to every process and kills them after 30 s;
SLURM sends SIGUSR1 where it is asked to. Neither MONAI nor Ignite listens.
"""

import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

from ignite.engine import Engine, Events

from dynunet_bundle.errors import EXIT_FAILED, EXIT_STOPPED, STOP_SIGNALS
from dynunet_bundle.training.handlers.checkpoint import CheckpointHandler
from dynunet_bundle.training.handlers.clipping import steps_now
from dynunet_bundle.training.process.distributed import any_rank
from dynunet_bundle.training.watching.status_file import StatusFile

logger = logging.getLogger(__name__)


class StopHandler:
    """After a signal finish the iteration, save, and exit with code 75: ``train#handlers`` of train.json.

    The signals are SIGTERM, SIGUSR1 and Ctrl-C. All processes agree on the iteration after which they stop. During
    a validation, which may take minutes, they do not wait for its end: the state is that of the epoch's last
    iteration, and the validation is made up for when the training goes on; so nothing but the validation may change
    the state before it. A second Ctrl-C stops at once.

    Args:
        checkpoint: saves the state.
        evaluator: the validation engine.
        status: where the stop is noted, too.
        world_size: number of processes.
    """

    def __init__(
        self,
        checkpoint: CheckpointHandler,
        evaluator: Engine,
        status: StatusFile,
        world_size: int = 1,
    ) -> None:
        self.checkpoint = checkpoint
        self.evaluator = evaluator
        self.status = status
        self.world_size = world_size
        self._signal: str | None = None
        self._trainer: Engine | None = None
        self._validates = False
        self._previous: dict[int, Any] = {}
        self._trains = False

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        self._trainer = engine
        engine.add_event_handler(Events.STARTED, self._listen)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._stop_between_iterations)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._begin_training)
        engine.add_event_handler(Events.COMPLETED, self._restore)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop_after_others)
        self.evaluator.add_event_handler(Events.STARTED, self._begin_validation)
        self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._stop_at_case)
        self.evaluator.add_event_handler(Events.COMPLETED, self._end_validation)

    def _listen(self) -> None:
        self._trains = False
        # only the main thread may; MONAI Label trains in another one, and stops it its own way
        if threading.current_thread() is threading.main_thread():
            for name in STOP_SIGNALS:
                if hasattr(signal, name):
                    number = getattr(signal, name)
                    self._previous[number] = signal.signal(number, self._note)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            self._restore()
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
        if not self._trains and self._trainer is not None:
            # cases are being prepared, which may take hours; what is on disk is all there is
            self._exit(self._trainer)

    def _begin_training(self) -> None:
        self._trains = True

    def _begin_validation(self) -> None:
        self.checkpoint.remember_random_state()
        self._validates = True

    def _end_validation(self) -> None:
        self._validates = False

    def _stop_between_iterations(self, engine: Engine) -> None:
        done = engine.state.iteration % engine.state.epoch_length
        # gradients that have not been applied yet are in no checkpoint
        at_step = done == 0 or steps_now(engine)
        if at_step and any_rank(self._signal is not None):
            self.checkpoint.save_state(engine, engine.state.epoch - 1)
            self._exit(engine)

    def _stop_at_case(self) -> None:
        # before they exchange scores the ranks meet here, where one learns at once that another has left: in the
        # exchange it would hang, in a store or on a GPU, until torchrun kills it
        state = self.evaluator.state
        is_told = self._signal is not None
        if state.iteration == state.epoch_length:
            is_told = any_rank(is_told)
        if is_told:
            self._stop_in_validation()

    def _stop_in_validation(self) -> None:
        if self._validates and self._trainer is not None:
            self.checkpoint.save_state(
                self._trainer, self._trainer.state.epoch - 1, is_unfinished=True
            )
            self._exit(self._trainer)

    def _stop_after_others(self, engine: Engine, error: BaseException) -> None:
        # a rank that had no case left waits for the others, and loses them
        if self._trainer is None or self.world_size == 1 or isinstance(error, SystemExit):
            return
        if self._validates and self._signal is not None:
            self._stop_in_validation()
        elif self._validates:
            # the failure is reported by others; the epoch need not be lost with it
            self.checkpoint.save_state(
                self._trainer, self._trainer.state.epoch - 1, is_unfinished=True
            )

    def _exit(self, engine: Engine) -> NoReturn:
        state, message, code = self._outcome()
        self.status.end(engine, state, message)
        logger.warning("%s", message)
        self._restore()
        if self.world_size > 1:
            # leaving the process group in order would wait for processes that may be gone
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        raise SystemExit(code)

    def _outcome(self) -> tuple[str, str, int]:
        """State and message for status.json, and the exit code."""
        failure = self.status.failure_of_others()
        if failure is not None:
            # torchrun tells the others to stop when one fails: going on would fail again
            return "failed", failure, EXIT_FAILED
        reason = f"stopped by {self._signal or 'a signal to another process'}"
        if self.checkpoint.strategy == "none":
            return "failed", f"{reason}; nothing was saved, as checkpoint is none", EXIT_FAILED
        how = " without --restart True" if self.checkpoint.restart else ""
        return "stopped", f"{reason}; run the same command again{how} to go on", EXIT_STOPPED

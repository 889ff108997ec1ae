"""After a stop signal, a training saves its state within seconds and exits with its own exit code.

Clusters send SIGTERM before they take a machine away; torchrun forwards it to all processes and kills them after
30 s. SLURM can be set to send SIGUSR1. Neither MONAI nor Ignite handles these signals.
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
from dynunet_bundle.machine.locks import release_claims
from dynunet_bundle.training.handlers.checkpoint import CheckpointHandler
from dynunet_bundle.training.handlers.clipping import steps_now
from dynunet_bundle.training.process.distributed import any_rank
from dynunet_bundle.training.watching.status_file import StatusFile

logger = logging.getLogger(__name__)


class StopHandler:
    """On a signal, finish the iteration, save, and exit with code 75: ``train#handlers`` of train.json.

    The signals are SIGTERM, SIGUSR1 and Ctrl-C. All processes agree on the iteration after which they stop. A
    validation, which may take minutes, is interrupted: the state is that after the epoch's last iteration, and the
    resumed training repeats the validation. So only the validation may change the state between these two points.
    A second Ctrl-C stops at once.

    Args:
        checkpoint: saves the state.
        evaluator: the validation engine.
        status: status file, in which the stop is recorded.
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
        # Python allows handlers in the main thread only; MONAI Label trains in another, and stops it itself
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
            # cases are being prepared, which may take hours; there is nothing else to save
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
        # a checkpoint does not store accumulated gradients
        at_step = done == 0 or steps_now(engine)
        if at_step and any_rank(self._signal is not None):
            self.checkpoint.save_state(engine, engine.state.epoch - 1)
            self._exit(engine)

    def _stop_at_case(self) -> None:
        # the ranks meet here before they exchange scores: here a rank learns at once that another has left; in the
        # exchange it would wait, in a store or on a GPU, until torchrun kills it
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
        # a rank without further cases waits for the others and gets an error when they leave
        if self._trainer is None or self.world_size == 1 or isinstance(error, SystemExit):
            return
        if self._validates and self._signal is not None:
            self._stop_in_validation()
        elif self._validates:
            # another rank reports the failure; save the iterations of this epoch
            self.checkpoint.save_state(
                self._trainer, self._trainer.state.epoch - 1, is_unfinished=True
            )

    def _exit(self, engine: Engine) -> NoReturn:
        state, message, code = self._outcome()
        self.status.end(engine, state, message)
        logger.warning("%s", message)
        self._restore()
        if self.world_size > 1:
            # an orderly exit from the process group would wait for processes that may be gone
            release_claims()
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        raise SystemExit(code)

    def _outcome(self) -> tuple[str, str, int]:
        """State and message for status.json, and the exit code."""
        failure = self.status.failure_of_others()
        if failure is not None:
            # torchrun stops all processes when one fails; a resumed run would fail again
            return "failed", failure, EXIT_FAILED
        reason = f"stopped by {self._signal or 'a signal to another process'}"
        if self.checkpoint.strategy == "none":
            return "failed", f"{reason}; nothing was saved, because checkpoint is none", EXIT_FAILED
        how = " without --restart True" if self.checkpoint.restart else ""
        return "stopped", f"{reason}; run the same command again{how} to resume", EXIT_STOPPED

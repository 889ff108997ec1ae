"""An evaluator that one bad case does not stop, and a line in the log for each case."""

import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import decollate_batch
from monai.engines import SupervisedEvaluator

from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.errors import (
    EXIT_STOPPED,
    MAX_SHOWN,
    BundleError,
    OutputError,
    PredictionError,
    find_user_error,
    first_line,
)
from dynunet_bundle.preprocessing.raw_dataset import FAILURE

logger = logging.getLogger(__name__)


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's SupervisedEvaluator for cases one by one, of which some may fail: ``evaluator`` of inference.json.

    MONAI's stops at the first error. Here the other cases are finished, ``state.failures`` has the message by case
    name, and at the end the run fails with all of them. A single case fails with its own error, and so does a run
    whose results cannot be written.

    SIGTERM and SIGINT end the run between two steps of Python with exit code 75; what has been written is whole.

    Args:
        **kwargs: arguments of SupervisedEvaluator; the data loader gives one case at a time, see
            ``raw_dataset.collate_cases``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.state.failures = {}

    def run(self, global_epoch: int = 1) -> None:
        """Predict all cases.

        Raises:
            PredictionError: if some failed.
            BundleError: the error of the only case.
        """
        self.state.failures = {}
        if not self.state.epoch_length:
            logger.info("there is nothing to do")
            return
        with _stoppable():
            super().run(global_epoch=global_epoch)
        failures: Mapping[str, str] = self.state.failures
        if failures:
            shown = [f"  {message}" for message in list(failures.values())[:MAX_SHOWN]]
            more = f"\n  and {len(failures) - MAX_SHOWN} more" * (len(failures) > MAX_SHOWN)
            others = ", the others are done" * (len(failures) < self.state.epoch_length)
            raise PredictionError(
                f"{len(failures)} of {self.state.epoch_length} cases failed{others}:\n"
                + "\n".join(shown)
                + more
            )

    def _iteration(self, engine: Engine, batchdata: Any) -> Any:
        try:
            if FAILURE in batchdata:
                raise batchdata[FAILURE]
            return super()._iteration(engine, batchdata)
        except Exception as error:
            failure = _failure(error)
            if failure is None or self.state.epoch_length == 1:
                raise
            name = _name(batchdata)
            logger.error("%s failed: %s", name, first_line(failure))
            self.state.failures[name] = _message(name, failure)
            engine.state.batch, engine.state.output = [], []
            return engine.state.output


class CaseProgress:
    """Log each case when it is done, with its place and its seconds: ``handlers`` of inference.json."""

    def __init__(self) -> None:
        self._since = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._report)

    def _start(self) -> None:
        self._since = time.monotonic()

    def _report(self, engine: Engine) -> None:
        now = time.monotonic()
        for case, outputs in zip(engine.state.batch, engine.state.output, strict=True):
            logger.info(
                "%s: %d of %d, %.1f s",
                name_of({**case, "image": outputs["pred"]}),
                engine.state.iteration,
                engine.state.epoch_length,
                now - self._since,
            )
        self._since = now


def _failure(error: Exception) -> BaseException | None:
    """What is wrong with this case alone; None where all others would fail as well."""
    user_error = find_user_error(error)
    if isinstance(user_error, OutputError):
        return None
    if user_error is not None:
        return user_error
    is_too_large = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return error if is_too_large else None


def _message(name: str, failure: BaseException) -> str:
    if isinstance(failure, BundleError):
        return str(failure)
    return (
        f"case {name}: there is not enough memory ({first_line(failure)}). "
        "Lower sw_batch_size, or predict it on a machine with more."
    )


def _name(batchdata: Mapping[Any, Any]) -> str:
    return name_of(batchdata if FAILURE in batchdata else decollate_batch(batchdata)[0])


@contextmanager
def _stoppable() -> Iterator[None]:
    """End with exit code 75 at a signal to stop."""

    def stop(number: int, frame: FrameType | None) -> None:
        logger.warning(
            "stopped by %s; run it again with --resume True to go on", signal.Signals(number).name
        )
        raise SystemExit(EXIT_STOPPED)

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread, as in a server: its signals are not ours
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

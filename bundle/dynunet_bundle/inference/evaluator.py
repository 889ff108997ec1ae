"""An evaluator that continues after a bad case, and a log line for each case."""

import gc
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.data import decollate_batch
from monai.engines import SupervisedEvaluator

from dynunet_bundle.dataset.case_errors import failed_step_error, is_failed_step, too_large
from dynunet_bundle.dataset.cases import IMAGE, LABEL, PREDICTION, name_of
from dynunet_bundle.errors import (
    EXIT_STOPPED,
    BundleError,
    OutputError,
    PredictionError,
    WeightsError,
    counted,
    failed_cases,
    find_user_error,
    first_line,
    ran_out_of_memory,
)
from dynunet_bundle.inference.save_mask import SAVED, refused_objects
from dynunet_bundle.preprocessing.raw_dataset import FAILURE
from dynunet_bundle.training.process.distributed import of_all_ranks

NOTHING = {key: torch.zeros(1, 1, 1, 1) for key in (PREDICTION, LABEL)}
"""Output of a case that failed, for metrics over several processes: Dice skips classes that are absent from a label."""

logger = logging.getLogger(__name__)


class CaseEvaluator(SupervisedEvaluator):
    """An evaluator of one case at a time: ``evaluator`` of inference.json and evaluate.json.

    MONAI's evaluator stops at the first case that fails. This one finishes the other cases, collects the messages by
    case name in ``state.failures``, and raises an error with all of them at the end. The error of a single case, or of
    results that cannot be written, is raised as it is. If several processes each evaluate a part of the cases, the end
    is after the last process, and each raises the error for the cases of all.

    The text of an unexpected error of a transform is left out, since it may hold metadata of the image.

    SIGTERM and SIGINT end the run between two Python instructions with exit code 75; all written files are complete.

    Args:
        **kwargs: arguments of SupervisedEvaluator; the data loader yields one case at a time, see
            ``raw_dataset.collate_cases``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.state.failures = {}
        self._messages: dict[str, str | None] = {}

    def run(self, global_epoch: int = 1) -> None:
        """Predict all cases.

        Raises:
            PredictionError: if some cases failed.
            BundleError: the error of the only case.
        """
        self.state.failures = {}
        self._messages = {}
        if not self.state.epoch_length:
            logger.info("there are no cases to predict")
            return
        failures: dict[str, str] = self.state.failures
        try:
            with stoppable():
                super().run(global_epoch=global_epoch)
        except Exception:
            # MONAI's metrics raise an error of their own if all cases failed
            if len(failures) < self.state.epoch_length:
                raise
        messages, total = list(failures.values()), self.state.epoch_length
        if self._is_shared:
            found = of_all_ranks(self._messages)
            messages, total = list(filter(None, found.values())), len(found)
        if messages:
            raise PredictionError(failed_cases(messages, total)) from None

    def _iteration(self, engine: Engine, batchdata: Any) -> Any:
        if self._is_shared:
            self._messages[_name(batchdata)] = None
        try:
            output = self._predict(engine, batchdata)
            self._note_refused(engine)
            return output
        except Exception as error:
            failure = _failure_of(error, batchdata)
            alone = self.state.epoch_length == 1 and not self._is_shared
            if failure is None or (alone and find_user_error(error)):
                raise
            if alone:
                raise failure from error
            name = _name(batchdata)
            # the reason is in run.json, and is told with those of all cases at the end
            logger.error("%s failed", name)
            self.state.failures[name] = self._messages[name] = str(failure)
            # a process without outputs would leave the others waiting in MONAI's metrics
            engine.state.batch, engine.state.output = [], [NOTHING] if self._is_shared else []
        # free the arrays of this case, which the error refers to, before the next case needs the memory
        gc.collect()
        return engine.state.output

    @property
    def _is_shared(self) -> bool:
        """Whether other processes evaluate other cases."""
        return idist.get_world_size() > 1

    def _predict(self, engine: Engine, batchdata: Any) -> Any:
        if FAILURE in batchdata:
            raise batchdata[FAILURE]
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:
            if not is_failed_step(error) or find_user_error(error) or ran_out_of_memory(error):
                raise
            raise failed_step_error(_name(batchdata), error) from None

    def _note_refused(self, engine: Engine) -> None:
        """Count a case as failed if its mask is written but a DICOM object could not be made."""
        outputs = engine.state.output
        for outputs_of_case in outputs if isinstance(outputs, list) else ():
            message = refused_objects(outputs_of_case.get(SAVED, {}))
            if message:
                name = name_of({**outputs_of_case, IMAGE: outputs_of_case["pred"]})
                logger.error("%s: %s", name, message)
                self.state.failures[name] = self._messages[name] = f"case {name}: {message}"


class CaseProgress:
    """Log each finished case with its number and its time: ``handlers`` of inference.json."""

    def __init__(self) -> None:
        self._since = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._report)

    def _start(self, engine: Engine) -> None:
        self._since = time.monotonic()
        logger.info("predicting %s", counted(engine.state.epoch_length or 0, "case"))

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


def _failure_of(error: Exception, batchdata: Mapping[Any, Any]) -> BundleError | None:
    image = batchdata.get(IMAGE)
    return case_failure(error, lambda: _name(batchdata), () if image is None else image.shape[1:])


def case_failure(
    error: Exception, name: Callable[[], str], shape: Sequence[int]
) -> BundleError | None:
    """The error if it concerns only one case; None if all other cases would fail as well.

    Args:
        error: what happened as the case was predicted.
        name: gives the name of the case.
        shape: of the preprocessed image, for a message.
    """
    user_error = find_user_error(error)
    if isinstance(user_error, OutputError | WeightsError):
        return None
    if user_error is not None or not ran_out_of_memory(error):
        return user_error
    size = " x ".join(map(str, shape)) + " values at the spacing of the plan"
    return too_large(name(), first_line(error), size)


def _name(batchdata: Mapping[Any, Any]) -> str:
    return name_of(batchdata if FAILURE in batchdata else decollate_batch(batchdata)[0])


@contextmanager
def stoppable() -> Iterator[None]:
    """End with exit code 75 on a stop signal."""

    def stop(number: int, frame: FrameType | None) -> None:
        logger.warning(
            "stopped by %s; a prediction continues with --resume True", signal.Signals(number).name
        )
        raise SystemExit(EXIT_STOPPED)

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread, as in a server, which handles signals itself
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

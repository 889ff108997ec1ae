"""A line for each predicted case."""

import logging
import time

from ignite.engine import Engine, Events

from dynunet_bundle.dataset.cases import name_of

logger = logging.getLogger(__name__)


class CaseProgress:
    """Log each case when it is done, with its place in the list and its seconds."""

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

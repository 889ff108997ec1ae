"""When the network is validated, and when it has stopped getting better."""

import logging

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import ValidationHandler

logger = logging.getLogger(__name__)


class LateValidationHandler(ValidationHandler):
    """Validation without the first epochs, always after the last: ``train#handlers`` of train.json.

    MONAI's ValidationHandler knows an interval only.

    Args:
        validator: the validation engine.
        interval: validate every so many epochs.
        skip: epochs at the start that are not validated, as ``--skip-eval`` of NVIDIA's example.
    """

    def __init__(self, validator: Evaluator, interval: int, skip: int = 0) -> None:
        super().__init__(interval, validator)
        self.skip = skip

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Validate, if this epoch is one to validate."""
        epoch = engine.state.epoch
        is_last = epoch == engine.state.max_epochs
        if epoch > self.skip and (epoch % self.interval == 0 or is_last):
            super().__call__(engine)


class EarlyStopping:
    """End the training when the best validation lies too far back: ``train#handlers`` of train.json.

    It asks the evaluator which epoch was the best, which the checkpoint keeps; the counter of MONAI's EarlyStopHandler
    is lost when a training is resumed.

    Args:
        evaluator: the validation engine.
        patience: epochs without a better validation before the end; None trains to the last epoch, as nnU-Net does.
    """

    def __init__(self, evaluator: Engine, patience: int | None = None) -> None:
        self.evaluator = evaluator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        if self.patience is not None:
            engine.add_event_handler(Events.STARTED, self)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Stop, if it is time."""
        best = self.evaluator.state.best_metric_epoch
        if self.patience is not None and 0 <= best <= engine.state.epoch - self.patience:
            logger.info(
                "stopping after epoch %d: no validation was better than that of epoch %d",
                engine.state.epoch,
                best,
            )
            engine.terminate()

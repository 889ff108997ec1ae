"""When to validate, and when to stop because validation no longer improves."""

import logging

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import ValidationHandler

logger = logging.getLogger(__name__)


class LateValidationHandler(ValidationHandler):
    """Validate at an interval, not in the first epochs, always after the last: ``train#handlers`` of train.json.

    MONAI's ValidationHandler has an interval only.

    Args:
        validator: the validation engine.
        interval: number of epochs between validations.
        skip: number of first epochs without validation, like ``--skip-eval`` of NVIDIA's example.
    """

    def __init__(self, validator: Evaluator, interval: int, skip: int = 0) -> None:
        super().__init__(interval, validator)
        self.skip = skip

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Validate if it is due in this epoch."""
        epoch = engine.state.epoch
        is_last = epoch == engine.state.max_epochs
        if epoch > self.skip and (epoch % self.interval == 0 or is_last):
            super().__call__(engine)


class EarlyStopping:
    """Stop the training if validation has not improved for a while: ``train#handlers`` of train.json.

    The best epoch comes from the evaluator and is part of the checkpoint; MONAI's EarlyStopHandler loses its counter
    when a training is resumed.

    Args:
        evaluator: the validation engine.
        patience: number of epochs without a better validation; None trains to the last epoch, as in nnU-Net.
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
        """Stop if the best epoch is ``patience`` epochs ago."""
        best = self.evaluator.state.best_metric_epoch
        if self.patience is not None and 0 <= best <= engine.state.epoch - self.patience:
            logger.info(
                "stopping after epoch %d: no validation since epoch %d was better",
                engine.state.epoch,
                best,
            )
            engine.terminate()

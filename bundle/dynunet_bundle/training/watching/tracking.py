"""Support for ``--tracking mlflow`` of ``monai.bundle run``.

MONAI appends an MLFlowHandler to ``train#handlers`` and to ``validate#handlers``. They send all metrics of their
engine, and MLflow accepts numbers only.

Stored on disk: the names of metrics, in MLflow runs.
"""

import torch
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler

from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.training.watching.status import DICE_BY_CLASS
from dynunet_bundle.training.watching.tensorboard import tag_of

TAGS = {
    "loss": "train_loss",
    "learning_rate": "learning_rate",
    "seconds": "seconds",
    "patches_per_second": "patches_per_second",
    "gpu_memory_mib": "gpu_memory_mib",
    "ema_dice": "val_ema_dice",
}
"""Names of MLflow metrics by the names in the log; the evaluator's handler sends the other scores."""


class NamedScores:
    """Replace the tensor of Dice per class by named numbers: ``validate#handlers`` of train.json.

    MONAI's metric is one tensor for all classes; the numbers are named ``val_dice_liver`` and so on. This must be the
    first of ``validate#handlers``.

    Args:
        labels: the plan's labels.
    """

    def __init__(self, labels: LabelScheme) -> None:
        self.names = labels.target_names[1:]

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Name the scores of this validation."""
        scores = torch.as_tensor(engine.state.metrics[DICE_BY_CLASS]).flatten().tolist()
        engine.state.metrics[DICE_BY_CLASS] = {
            f"val_dice_{tag_of(name)}": score
            for name, score in zip(self.names, scores, strict=True)
        }


class EpochTracking:
    """Send each epoch's values to the MLFlowHandler of a trainer: ``train#handlers`` of train.json.

    The values are loss, learning rate, throughput, memory and the moving average of Dice. As MONAI sets it up, the
    handler reads the loss from decollated output, ``[{"loss": ...}, ...]``, at each iteration. Our trainer does not
    decollate, because MONAI's Decollated reads the loss and so waits for the GPU; two messages per iteration to a local
    database also take tens of milliseconds. Attach it after ProgressHandler.
    """

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note_epoch)

    def _start(self, engine: Engine) -> None:
        for tracker in _trackers(engine):
            tracker.iteration_logger = _send_nothing

    def _note_epoch(self, engine: Engine) -> None:
        # at the end of an epoch a tracker sends the metrics of its engine
        record = engine.state.epoch_record
        values = {tag: record.get(name) for name, tag in TAGS.items()}
        engine.state.metrics.update(
            {tag: value for tag, value in values.items() if value is not None}
        )


def _send_nothing(engine: Engine) -> None:
    pass


def _trackers(engine: Engine) -> list[MLFlowHandler]:
    """The MLFlowHandlers attached to an engine; Ignite has no public API for this."""
    attached = getattr(engine, "_event_handlers", {}).get(Events.ITERATION_COMPLETED, [])
    owners = (getattr(handler, "__self__", None) for handler, *_ in attached)
    return [owner for owner in owners if isinstance(owner, MLFlowHandler)]

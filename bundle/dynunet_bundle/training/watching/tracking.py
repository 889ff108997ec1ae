"""What ``--tracking mlflow`` of ``monai.bundle run`` needs of our engines.

MONAI appends an MLFlowHandler to ``train#handlers`` and one to ``validate#handlers``. They send whatever they find, and
MLflow refuses all but numbers.
"""

from collections.abc import Sequence

import torch
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler

from dynunet_bundle.training.watching.status import DICE_BY_CLASS
from dynunet_bundle.training.watching.tensorboard import tag_of

TAGS = {
    "loss": "train_loss",
    "learning_rate": "learning_rate",
    "seconds": "seconds",
    "patches_per_second": "patches_per_second",
    "gpu_memory_mib": "gpu_memory_mib",
}
"""Names in the log, and names of metrics; the validation sends its own."""


class NamedScores:
    """Put the Dice by class into the metrics by name: ``validate#handlers`` of train.json.

    They are numbers called ``val_dice_liver`` and so on. MONAI's metrics give a tensor for all classes. It must be
    the first of ``validate#handlers``.

    Args:
        label_names: names of what is scored, behind the background.
    """

    def __init__(self, label_names: Sequence[str]) -> None:
        self.label_names = list(label_names)

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Name the scores of this validation."""
        scores = torch.as_tensor(engine.state.metrics[DICE_BY_CLASS]).flatten().tolist()
        engine.state.metrics[DICE_BY_CLASS] = {
            f"val_dice_{tag_of(name)}": score
            for name, score in zip(self.label_names[1:], scores, strict=True)
        }


class EpochTracking:
    """Send each epoch's figures to the MLFlowHandler of a trainer: ``train#handlers`` of train.json.

    They are loss, learning rate, throughput and memory, sent once an epoch. The one of MONAI's settings looks for
    the loss in decollated output, ``[{"loss": ...}, ...]``, at every iteration. Our trainer does not decollate,
    because MONAI's Decollated reads the loss, and so waits for the GPU; and two messages an iteration to a local
    database take tens of milliseconds. It must be attached after ProgressHandler.
    """

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note_epoch)

    def _start(self, engine: Engine) -> None:
        for tracker in _trackers(engine):
            tracker.iteration_logger = _send_nothing

    def _note_epoch(self, engine: Engine) -> None:
        # what a tracker sends at the end of an epoch are the metrics of its engine
        record = engine.state.epoch_record
        values = {tag: record.get(name) for name, tag in TAGS.items()}
        engine.state.metrics.update(
            {tag: value for tag, value in values.items() if value is not None}
        )


def _send_nothing(engine: Engine) -> None:
    pass


def _trackers(engine: Engine) -> list[MLFlowHandler]:
    """Ignite has no public way to ask what is attached."""
    attached = getattr(engine, "_event_handlers", {}).get(Events.ITERATION_COMPLETED, [])
    owners = (getattr(handler, "__self__", None) for handler, *_ in attached)
    return [owner for owner in owners if isinstance(owner, MLFlowHandler)]

"""Weights that come from outside after a training was built: from MONAI Label, or from the server of a federation."""

import logging
import math

from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

logger = logging.getLogger(__name__)


class GivenWeights:
    """Tells whether a network was given weights, which no file may then replace.

    MONAI Label inserts a CheckpointLoader among the handlers. MONAI's client for federated learning
    (``monai.fl.client.MonaiAlgo``) copies the weights of the server into the network before each round, even if they
    are equal, so values cannot tell: torch's counters of in-place changes do.

    Args:
        network: the network as it was built, wrapped or not.
    """

    def __init__(self, network: nn.Module) -> None:
        self._parameters = list(network.parameters())
        self._changes = self._count()

    def came(self, engine: Engine) -> bool:
        """Whether weights came since the network was built; ask before a handler loads any.

        Args:
            engine: the trainer.
        """
        # Ignite has no public API for its handlers
        handlers = getattr(engine, "_event_handlers", {}).get(Events.STARTED, [])
        has_loader = any(isinstance(handler, CheckpointLoader) for handler, *_ in handlers)
        return has_loader or self._count() != self._changes

    def _count(self) -> int:
        return sum(parameter._version for parameter in self._parameters)


def begin_round(averaged: nn.Module, lr_scheduler: LRScheduler) -> None:
    """Begin a later round of a federation: a new average, and the schedule anew if it has ended.

    Args:
        averaged: the network, or its moving average.
        lr_scheduler: schedule of the training.
    """
    if isinstance(averaged, AveragedModel):
        # its next update copies the weights
        averaged.n_averaged.zero_()
    if lr_scheduler.last_epoch >= getattr(lr_scheduler, "num_steps", math.inf):
        logger.info(
            "the learning rate begins anew, because its schedule has %d steps; set lr_scheduler#num_steps to the "
            "steps of all rounds for one schedule",
            lr_scheduler.last_epoch,
        )
        lr_scheduler.last_epoch = -1
        lr_scheduler.step()

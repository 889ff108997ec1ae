"""Weights that come from outside after a training was built: from MONAI Label, or from the server of a federation."""

from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader
from torch import nn


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

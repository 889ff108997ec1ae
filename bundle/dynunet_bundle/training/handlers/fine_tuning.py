"""Fine-tuning: a training starts from the weights of another one, as far as they fit."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from dynunet_bundle.errors import WeightsError
from dynunet_bundle.networks.weights import read_weights
from dynunet_bundle.training.handlers.identity import starts_from_given_weights
from dynunet_bundle.training.handlers.matching import match_weights

logger = logging.getLogger(__name__)


class PretrainedWeights:
    """Start a training from a ``model.pt`` and report what was copied: ``train#handlers`` of train.json.

    Channels and classes may be others. It must be attached after the checkpoint: a training that goes on keeps its
    own weights, and so do weights that MONAI's CheckpointLoader has loaded. An average (``ema_decay``) needs no
    more: its first update copies the weights.

    Args:
        network: the network that is trained, wrapped or not.
        path: the ``.pt`` file; None for a fresh start.
        plan: the plan ids of the config.

    Raises:
        WeightsError: when the run starts, if the file is missing, damaged or no plain weights, or if its network has
            nothing in common with this one.
    """

    def __init__(self, network: nn.Module, path: str | None, plan: Mapping[str, Any]) -> None:
        self.network = network
        self.path = path
        self.plan = plan

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        if self.path is not None:
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Copy, unless the training goes on or has its weights from elsewhere."""
        if self.path is None or engine.state.iteration > 0:
            return
        if starts_from_given_weights(engine):
            logger.info(
                "pretrained (%s) is not used: a CheckpointLoader gave the weights", self.path
            )
            return
        path = Path(self.path)
        if not path.is_file():
            raise WeightsError(
                f"there are no weights at {path}. Pass --pretrained with a model.pt."
            )
        state, facts = read_weights(path)
        fit = match_weights(self.network, state, self.plan, facts.get("plan", {}))
        if not fit.has_body:
            why = fit.skipped[0] if fit.skipped else "no name is the same"
            raise WeightsError(
                f"{self.path} has no inner convolution in common with the network of this plan: {why}. Choose weights "
                "of the same architecture, filters and kernel_sizes, or leave --pretrained out."
            )
        fit.copy()
        for line in fit.lines():
            logger.info("%s: %s", self.path, line)

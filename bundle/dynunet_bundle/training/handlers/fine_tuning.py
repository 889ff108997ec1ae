"""Fine-tuning: start a training from the matching weights of another one."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from dynunet_bundle.errors import WeightsError
from dynunet_bundle.networks.starting_model import starting_weights
from dynunet_bundle.networks.weights import read_weights
from dynunet_bundle.training.handlers.given_weights import GivenWeights
from dynunet_bundle.training.handlers.matching import match_weights

logger = logging.getLogger(__name__)


class PretrainedWeights:
    """Start a training from another model and log what was copied: ``train#handlers`` of train.json.

    Channels and classes may differ. Attach it after the checkpoint: a resumed training, or one whose weights were given
    (``GivenWeights``), keeps its weights. An average (``ema_decay``) needs no extra step: its first update copies the
    weights.

    Args:
        network: the network that is trained, wrapped or not.
        path: a ``.pt`` file, or a package or the folder of a training, whose first weights are taken; None for a
            fresh start.
        plan: the plan ids of the config.

    Raises:
        WeightsError: at the start of a run, if the file is missing, damaged or holds more than plain weights, or if
            its network has nothing in common with this one.
    """

    def __init__(self, network: nn.Module, path: str | None, plan: Mapping[str, Any]) -> None:
        self.network = network
        self.given = GivenWeights(network)
        self.path = path
        self.plan = plan

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        if self.path is not None:
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Copy the weights, unless the training is resumed or its weights were given."""
        if self.path is None or engine.state.iteration > 0:
            return
        if self.given.came(engine):
            logger.info("pretrained (%s) is not used: the weights were given", self.path)
            return
        path, num_models = starting_weights(Path(self.path))
        if not path.is_file():
            raise WeightsError(
                f"{path} is missing. Pass --pretrained with a model.pt, a package, or the folder of a training."
            )
        if num_models > 1:
            logger.info(
                "%s has %d models; %s is the start. Pass the file of another to start from it.",
                self.path,
                num_models,
                path,
            )
        state, facts = read_weights(path, checkpoint=True)
        fit = match_weights(self.network, state, self.plan, facts.get("plan", {}))
        if not fit.has_body:
            why = fit.skipped[0] if fit.skipped else "no tensor name is the same"
            raise WeightsError(
                f"{self.path} has no inner convolution in common with the network of this plan: {why}. Choose weights "
                "of the same architecture, filters and kernel_sizes, or omit --pretrained."
            )
        fit.copy()
        for line in fit.lines():
            logger.info("%s: %s", self.path, line)

"""Exponential moving average of the weights, for validation and for the model that is kept."""

from ignite.engine import Engine, Events
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.networks.dynunet import unwrapped
from dynunet_bundle.training.handlers.clipping import steps_now


def averaged_network(network: nn.Module, decay: float | None) -> nn.Module:
    """The network to validate and to keep: ``averaged_network`` of train.json.

    Args:
        network: the network that is trained, bare or wrapped by DDP or ``torch.compile``.
        decay: share that an update leaves of the average, e.g. 0.999; None for no average.

    Returns:
        Without ``decay`` the bare network itself; else torch's AveragedModel of it in evaluation mode, without
        gradients, with the buffers averaged too (the statistics of batch norms).

    Raises:
        ConfigError: if ``decay`` is not from 0 to below 1.
    """
    bare = unwrapped(network)
    if decay is None:
        return bare
    if not 0 <= decay < 1:
        raise ConfigError(
            f"ema_decay is {decay}. Give null, or a number from 0 to below 1, such as 0.999."
        )
    averaged = AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return averaged.requires_grad_(False).eval()


class EmaHandler:
    """Update the average after each step of the optimizer: ``train#handlers`` of train.json.

    The first update copies the weights. MONAI has no such handler; Ignite's EMAHandler makes its own copy, which the
    evaluator and the checkpoints of a config could not name, and knows nothing of accumulated gradients.

    Args:
        network: the network that is trained.
        averaged: what ``averaged_network`` gave; nothing is done where that is the network itself.
    """

    def __init__(self, network: nn.Module, averaged: nn.Module) -> None:
        self.network = unwrapped(network)
        self.averaged = averaged

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        if isinstance(self.averaged, AveragedModel):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Update, if the optimizer stepped in this iteration."""
        if isinstance(self.averaged, AveragedModel) and steps_now(engine):
            self.averaged.update_parameters(self.network)

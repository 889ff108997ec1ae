"""Exponential moving average of the weights, for validation and the saved model."""

from ignite.engine import Engine, Events
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.networks.dynunet import unwrapped
from dynunet_bundle.training.handlers.clipping import steps_now


def averaged_network(network: nn.Module, decay: float | None) -> nn.Module:
    """The network to validate and to save: ``averaged_network`` of train.json.

    Args:
        network: the network that is trained, bare or wrapped by DDP or ``torch.compile``.
        decay: weight of the old average in an update, e.g. 0.999; None for no average.

    Returns:
        Without ``decay`` the bare network itself; else its AveragedModel of torch, in evaluation mode, without
        gradients; buffers (the statistics of batch norms) are averaged too.

    Raises:
        ConfigError: if ``decay`` is not from 0 to below 1.
    """
    bare = unwrapped(network)
    if decay is None:
        return bare
    if not 0 <= decay < 1:
        raise ConfigError(
            f"ema_decay is {decay}. Give null, or a number at least 0 and below 1, such as 0.999."
        )
    averaged = AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return averaged.requires_grad_(False).eval()


class EmaHandler:
    """Update the average after each step of the optimizer: ``train#handlers`` of train.json.

    The first update copies the weights. MONAI does not have such a handler. Ignite's EMAHandler makes its own copy,
    which a config cannot pass to the evaluator and the checkpoints, and does not support accumulated gradients.

    Args:
        network: the network that is trained.
        averaged: result of ``averaged_network``; if that is the network itself, the handler does nothing.
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

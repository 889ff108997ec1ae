"""Gradient clipping; MONAI's trainer has none."""

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn


class GradientClipping:
    """Clip the norm of all gradients together, before each optimizer step.

    Args:
        network: the network that is trained.
        max_norm: largest norm; nnU-Net's is 12.
    """

    def __init__(self, network: nn.Module, max_norm: float = 12.0) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip; under AMP the gradients are brought back to scale first."""
        scaler = getattr(engine, "scaler", None)
        if scaler is not None:
            scaler.unscale_(engine.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)

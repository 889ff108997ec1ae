"""Gradient clipping, which MONAI's trainer does not offer."""

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn

from dynunet_bundle.errors import TrainingError


def steps_now(engine: Engine) -> bool:
    """Whether the optimizer steps in this iteration, by the rule of MONAI's SupervisedTrainer for accumulation."""
    every = getattr(engine, "accumulation_steps", 1)
    if every == 1:
        return True
    length = engine.state.epoch_length
    done = (engine.state.iteration - 1) % length + 1 if length else engine.state.iteration
    return bool(done % every == 0 or done == length)


class GradientClipping:
    """Clip the global norm of the gradients before each step: ``train#handlers`` of train.json.

    Args:
        network: the network that is trained.
        max_norm: largest norm; nnU-Net's is 12. None does not clip but still checks for NaN.

    Raises:
        TrainingError: at a step whose gradient is NaN or infinite.
    """

    def __init__(self, network: nn.Module, max_norm: float | None = 12.0) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip; under AMP the gradients are unscaled first."""
        scaler = getattr(engine, "scaler", None)
        if not steps_now(engine) or (self.max_norm is None and scaler is not None):
            return
        if scaler is not None:
            scaler.unscale_(engine.optimizer)
        if self.max_norm is None:
            gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
        else:
            norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        # under mixed precision the scaler skips such a step and lowers the scale
        if scaler is None and not torch.isfinite(norm):
            raise TrainingError(
                f"the gradient is {float(norm)} in iteration {engine.state.iteration}, though the loss is finite. The "
                "weights are unchanged and the last checkpoint is good. Resume with a lower --learning_rate."
            )

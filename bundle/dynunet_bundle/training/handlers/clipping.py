"""Gradient clipping; MONAI's trainer has none."""

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import nn

from dynunet_bundle.errors import TrainingError


def steps_now(engine: Engine) -> bool:
    """Whether the optimizer steps in this iteration: with accumulated gradients not in every one.

    The rule is that of MONAI's SupervisedTrainer.
    """
    every = getattr(engine, "accumulation_steps", 1)
    if every == 1:
        return True
    length = engine.state.epoch_length
    done = (engine.state.iteration - 1) % length + 1 if length else engine.state.iteration
    return bool(done % every == 0 or done == length)


class GradientClipping:
    """Clip the norm of all gradients together, before each step: ``train#handlers`` of train.json.

    Args:
        network: the network that is trained.
        max_norm: largest norm; nnU-Net's is 12. None does not clip, but looks all the same.

    Raises:
        TrainingError: at a step whose gradient is no number.
    """

    def __init__(self, network: nn.Module, max_norm: float | None = 12.0) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip; under AMP the gradients are brought back to scale first."""
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
        # under mixed precision the scaler leaves out such a step and lowers the scale
        if scaler is None and not torch.isfinite(norm):
            raise TrainingError(
                f"the gradient is {float(norm)} in iteration {engine.state.iteration}, though the loss is finite. The "
                "weights are as before and the last checkpoint is good. Go on with a lower --learning_rate."
            )

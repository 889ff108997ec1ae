"""The training's loss of the validation cases."""

import copy
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from ignite.metrics.metric import EpochWise, MetricUsage
from monai.engines import IterationEvents
from torch import nn

from dynunet_bundle.dataset.cases import LABEL, PREDICTION


class ValidationLoss(Average):
    """Mean loss of whole validation cases: ``validate#additional_metrics#val_loss`` of train.json.

    It is computed from the logits of the validation before they become masks, on the grid of the prepared cases,
    without the coarser outputs of deep supervision. MONAI's IgniteMetricHandler would see the masks.

    Args:
        loss: the loss of the training; a copy in evaluation mode is used.
    """

    def __init__(self, loss: Any) -> None:
        self.loss = copy.deepcopy(loss).eval() if isinstance(loss, nn.Module) else loss
        super().__init__(output_transform=self._loss_of)

    def attach(self, engine: Engine, name: str, usage: str | MetricUsage | None = None) -> None:
        """Register with a MONAI evaluator.

        Args:
            engine: the evaluator.
            name: name of the metric in its state.
            usage: events of Ignite; by default the loss is computed after the forward pass.
        """
        after_forward = MetricUsage(
            EpochWise().STARTED, Events.EPOCH_COMPLETED, IterationEvents.FORWARD_COMPLETED
        )
        super().attach(engine, name, usage or after_forward)

    @torch.no_grad()
    def _loss_of(self, output: dict[str, Any]) -> torch.Tensor:
        """Loss of one batch of the evaluator, a scalar."""
        logits = output[PREDICTION].as_subclass(torch.Tensor)
        # logits of a large case may be on the CPU
        label = output[LABEL].as_subclass(torch.Tensor).to(logits.device)
        loss: torch.Tensor = self.loss(logits, label)
        return loss

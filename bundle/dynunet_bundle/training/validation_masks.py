"""Input of MONAI's metrics: one mask per target, without ignored voxels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dynunet_bundle.dataset.cases import LABEL, PREDICTION
from dynunet_bundle.labels.scheme import IGNORE_CLASS, LabelScheme


class TargetMasks:
    """Convert predictions and labels for ``MeanDice``: ``validate#target_masks`` of train.json.

    Class numbers stay unchanged; regions become one mask each. A voxel that the label ignores becomes background in
    both, so it does not affect the score. MONAI's ``from_engine`` only takes values out of a dictionary; MeanDice
    supports neither regions nor an ignored class (DiceMetric supports the latter).

    Args:
        labels: the plan's labels.
    """

    def __init__(self, labels: LabelScheme) -> None:
        self.targets = labels.target_classes if labels.sigmoid else None

    def __call__(
        self, outputs: Sequence[Mapping[str, Any]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Convert the output of the evaluator.

        Args:
            outputs: for each case the class numbers of prediction and label, ``[1, D, H, W]``; unlabelled voxels of
                the label are ``IGNORE_CLASS``.

        Returns:
            Predictions and labels, each ``[1, D, H, W]``, or ``[regions, D, H, W]`` boolean.
        """
        predictions, labels = [], []
        for output in outputs:
            prediction, label = output[PREDICTION], output[LABEL]
            ignored = label == IGNORE_CLASS
            if ignored.any():
                prediction, label = (mask.masked_fill(ignored, 0) for mask in (prediction, label))
            predictions.append(self._masks(prediction))
            labels.append(self._masks(label))
        return predictions, labels

    def _masks(self, mask: torch.Tensor) -> torch.Tensor:
        if self.targets is None:
            return mask
        return torch.cat(
            [
                torch.isin(mask, torch.tensor(classes, device=mask.device))
                for classes in self.targets
            ]
        )

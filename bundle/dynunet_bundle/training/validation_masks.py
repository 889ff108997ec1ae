"""What MONAI's metrics are given: masks of the targets, without the voxels that nobody labelled."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dynunet_bundle.dataset.cases import LABEL, PREDICTION
from dynunet_bundle.labels.scheme import IGNORE_CLASS, LabelScheme


class TargetMasks:
    """Predictions and labels as ``MeanDice`` can count them: ``validate#target_masks`` of train.json.

    Class numbers stay as they are, and regions become one mask each. A voxel that the label ignores becomes background
    in both, so that it counts neither for nor against any target. MONAI's ``from_engine`` only takes values out of a
    dictionary, and MeanDice knows no regions and cannot be told to ignore a class (its DiceMetric can).

    Args:
        labels: the plan's labels.
    """

    def __init__(self, labels: LabelScheme) -> None:
        self.targets = labels.target_classes if labels.sigmoid else None

    def __call__(
        self, outputs: Sequence[Mapping[str, Any]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Masks of some cases.

        Args:
            outputs: of each case the class numbers of prediction and label, ``[1, D, H, W]``; ``IGNORE_CLASS`` in the
                label where nobody labelled.

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

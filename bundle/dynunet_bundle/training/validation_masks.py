"""What MONAI's metrics are given: masks of the targets, without the voxels that nobody labelled."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dynunet_bundle.labels.scheme import IGNORE_CLASS, LabelScheme


class TargetMasks:
    """Predictions and labels as ``MeanDice`` can count them: ``validate#target_masks`` of train.json.

    Class numbers stay as they are, and regions become one mask each. A voxel that the label ignores becomes background
    in both, so that it counts neither for nor against any target. MONAI's ``from_engine`` only takes values out of a
    dictionary, and MeanDice knows no regions and cannot be told to ignore a class (its DiceMetric can).

    Args:
        labels: the plan's labels.
        prediction_key: key of the class numbers that were found, ``[1, D, H, W]``.
        label_key: key of the label's, likewise; ``IGNORE_CLASS`` where nobody labelled.
    """

    def __init__(
        self,
        labels: LabelScheme,
        prediction_key: str = "pred",
        label_key: str = "label",
    ) -> None:
        self.targets = labels.target_classes if labels.sigmoid else None
        self.prediction_key = prediction_key
        self.label_key = label_key

    def __call__(
        self, outputs: Sequence[Mapping[str, Any]]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Predictions and labels of some cases, each ``[1, D, H, W]``, or ``[regions, D, H, W]`` boolean."""
        predictions, labels = [], []
        for output in outputs:
            prediction, label = output[self.prediction_key], output[self.label_key]
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

"""The loss of a training: Dice and a loss by pixel, at every resolution that the network gives.

Tensors are ``[B, C, *spatial]``.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as distributed
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.preprocessing.labels import IGNORE_CLASS

PIXEL_LOSSES = ("cross_entropy", "focal", "topk")


class SegmentationLoss(nn.Module):
    """Soft Dice plus a loss by pixel, as nnU-Net v2 has them; 1 higher than there, so that it ends at 0.

    MONAI's DiceCELoss knows no ignored voxels, takes ``batch`` Dice in each process alone, computes softmax and one-hot
    twice, and has no top-k; its DeepSupervisionLoss copies the label to float for each level.

    Under torch.distributed the mean over processes, and the gradient that DDP averages, are those of one process with
    the joint batch.

    Args:
        label_values: one value a class; only their number counts, and which class a region's value is.
        regions: None, or values by region; then there is one sigmoid output a region.
        batch_dice: take Dice over the batch, of all processes, instead of each patch.
        include_background: whether Dice counts the background; regions are all counted.
        pixel_loss: ``cross_entropy``; ``focal`` (Lin et al. 2017); ``topk``, the mean of the hardest voxels of each
            patch (nnU-Net takes them from the batch as a whole, which would depend on the number of processes).
        focal_gamma: exponent of ``focal``.
        topk_percent: share of voxels of ``topk``.
        dice_weight: weight of Dice.
        pixel_weight: weight of the loss by pixel.
        smooth: added to numerator and denominator of Dice.
        level_weights: one weight an output of the network, finest first.

    Raises:
        ConfigError: for an unknown ``pixel_loss`` or a region of an unknown value.
    """

    membership: torch.Tensor

    def __init__(
        self,
        label_values: Sequence[int],
        regions: Mapping[str, Sequence[int]] | None = None,
        batch_dice: bool = False,
        include_background: bool = False,
        pixel_loss: str = "cross_entropy",
        focal_gamma: float = 2.0,
        topk_percent: float = 10.0,
        dice_weight: float = 1.0,
        pixel_weight: float = 1.0,
        smooth: float = 1e-5,
        level_weights: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        if pixel_loss not in PIXEL_LOSSES:
            raise ConfigError(
                f'loss#pixel_loss is "{pixel_loss}". Choose one of {", ".join(PIXEL_LOSSES)}.'
            )
        self.num_classes = len(label_values)
        self.by_region = regions is not None
        self.batch_dice = batch_dice
        self.first = 0 if include_background or self.by_region else 1
        self.pixel_loss = pixel_loss
        self.focal_gamma = focal_gamma
        self.topk_percent = topk_percent
        self.dice_weight = dice_weight
        self.pixel_weight = pixel_weight
        self.smooth = smooth
        self.level_weights = list(level_weights)
        self.register_buffer("membership", _membership(label_values, regions), persistent=False)

    def forward(
        self, outputs: torch.Tensor | Sequence[torch.Tensor], label: torch.Tensor
    ) -> torch.Tensor:
        """The weighted sum over the levels.

        Args:
            outputs: logits ``[B, C, ...]``, or a list of them, finest first.
            label: classes ``[B, 1, *spatial]``; 255 is not counted.

        Raises:
            ConfigError: if there is not one weight a level.
        """
        levels = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        if len(levels) != len(self.level_weights):
            raise ConfigError(
                f"the network gives {len(levels)} outputs, but loss#level_weights has {len(self.level_weights)}."
            )
        with torch.autocast(label.device.type, enabled=False):
            losses = [
                weight * self._level(logits.float(), label_at(label, logits.shape[2:])[:, 0])
                # a head without weight still takes part, or DDP would wait for its gradient
                if weight
                else 0.0 * logits.float().sum()
                for logits, weight in zip(levels, self.level_weights, strict=True)
            ]
        return torch.stack(losses).sum()

    def _level(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        valid = label != IGNORE_CLASS
        classes = torch.where(valid, label, 0).long()
        if self.by_region:
            target = self.membership.to(logits.device)[classes].movedim(-1, 1)
            probabilities = torch.sigmoid(logits)
            by_pixel = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            if self.pixel_loss == "focal":
                missed = (probabilities - target).abs()
                by_pixel = by_pixel * missed**self.focal_gamma
            by_pixel = by_pixel.mean(1)
        else:
            log_probabilities = F.log_softmax(logits, 1)
            probabilities = log_probabilities.exp()
            target = F.one_hot(classes, self.num_classes).movedim(-1, 1).to(logits.dtype)
            by_pixel = F.nll_loss(log_probabilities, classes, reduction="none")
            if self.pixel_loss == "focal":
                by_pixel = by_pixel * (1 - torch.exp(-by_pixel)) ** self.focal_gamma
        return self.dice_weight * self._dice(probabilities, target, valid) + (
            self.pixel_weight * self._pixels(by_pixel, valid)
        )

    def _dice(
        self, probabilities: torch.Tensor, target: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        mask = valid[:, None].to(probabilities.dtype)
        predicted = (probabilities[:, self.first :] * mask).flatten(2)
        reference = (target[:, self.first :] * mask).flatten(2)
        sums = torch.stack(
            [(predicted * reference).sum(2), predicted.sum(2) + reference.sum(2)]
        )  # [2, B, C]
        if self.batch_dice:
            sums = sums.sum(1, keepdim=True)
            if _num_processes() > 1:
                sums = distributed.all_reduce(sums)
        return 1 - ((2 * sums[0] + self.smooth) / (sums[1] + self.smooth)).mean()

    def _pixels(self, by_pixel: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        by_pixel = by_pixel * valid
        if self.pixel_loss == "topk":
            flat = by_pixel.flatten(1)
            count = max(1, round(flat.shape[1] * self.topk_percent / 100))
            return flat.topk(count, sorted=False).values.mean()
        count = valid.sum().to(by_pixel.dtype)
        if _num_processes() > 1:
            dist.all_reduce(count)
            count = count / _num_processes()
        return by_pixel.sum() / count.clamp(min=1)


def label_at(label: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The label on a coarser grid, its nearest voxels as ``nearest-exact`` takes them.

    Args:
        label: ``[B, 1, *spatial]``.
        size: the spatial size that is wanted; it divides that of the label.
    """
    for axis, (whole, wanted) in enumerate(zip(label.shape[2:], size, strict=True), start=2):
        if whole != wanted:
            # the centre of a coarse voxel lies between two fine ones: it takes the later
            places = ((torch.arange(wanted, device=label.device) + 0.5) * whole / wanted).long()
            label = label.index_select(axis, places)
    return label


def _membership(
    label_values: Sequence[int], regions: Mapping[str, Sequence[int]] | None
) -> torch.Tensor:
    """``[classes, regions]``: 1 where a class is part of a region."""
    table = torch.zeros(len(label_values), len(regions or ()))
    for column, (name, values) in enumerate((regions or {}).items()):
        unknown = [value for value in values if value not in label_values]
        if unknown:
            raise ConfigError(f"region {name} has the value {unknown[0]}, which is no label value.")
        for value in values:
            table[list(label_values).index(value), column] = 1
    return table


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

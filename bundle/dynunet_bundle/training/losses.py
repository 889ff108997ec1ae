"""The training loss: Dice plus a voxel-wise loss, at every output resolution of the network.

Tensors are ``[B, C, *spatial]``; flattened, ``N`` is the number of voxels of a patch.

Stored on disk: ``PIXEL_LOSSES``, in configs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn

from dynunet_bundle.errors import ConfigError, counted
from dynunet_bundle.labels.scheme import IGNORE_CLASS, LabelScheme

PIXEL_LOSSES = ("cross_entropy", "focal", "topk")
SLAB_VALUES = 2**24
"""Most logits of a validation case that are computed at once; each of a few temporary copies takes 64 MiB."""

TABLE_SIZE = 256
"""Number of uint8 values: every label value is a valid index."""


class SegmentationLoss(nn.Module):
    """Soft Dice plus a voxel-wise loss, as in nnU-Net v2: ``loss`` of train.json.

    The value is 1 higher than nnU-Net's, so that its minimum is 0. The defaults equal MONAI's DiceCELoss inside its
    DeepSupervisionLoss. Those support neither ignored voxels nor top-k, compute ``batch`` Dice per process, compute
    the softmax twice, and copy the label to float for each level.

    With regions, Dice counts all outputs, as in nnU-Net; the voxel-wise loss is the mean over voxels and regions.
    (nnU-Net sums it over regions, but only if there is an ignore label.)

    Under torch.distributed, the mean over processes (and the gradient that DDP averages) equals that of one process
    with the joint batch. All processes must compute the loss at the same time, with equal batch sizes.

    In evaluation mode (``eval()``), a process computes the loss of its own cases, and all losses but ``topk`` in slabs,
    which bounds the memory.

    Args:
        labels: the plan's labels: softmax over the classes, or one sigmoid output per region.
        batch_dice: compute Dice over the batch of all processes instead of per patch.
        include_background: whether Dice counts the background; the voxel-wise loss always does.
        pixel_loss: ``cross_entropy``; ``focal`` (Lin et al., ICCV 2017), scaled like MONAI's FocalLoss, which also
            averages over classes; or ``topk``, cross entropy of the worst voxels of each patch. (nnU-Net takes the
            worst of the batch, which would depend on its split between processes.)
        focal_gamma: exponent of ``focal``, at least 0.
        topk_percent: percentage of a patch's valid voxels that ``topk`` uses, above 0, at most 100.
        dice_weight: weight of Dice.
        pixel_weight: weight of the voxel-wise loss.
        smooth: added to numerator and denominator of Dice.
        level_weights: one weight per output of the network, finest first.

    Raises:
        ConfigError: for an unknown ``pixel_loss``, a number out of range, or if Dice would not count any class.
    """

    membership: torch.Tensor

    def __init__(
        self,
        labels: LabelScheme,
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
        self.by_region = labels.sigmoid
        self.first = 0 if include_background or self.by_region else 1
        self.batch_dice = batch_dice
        self.pixel_loss = pixel_loss
        self.focal_gamma = focal_gamma
        self.topk_percent = topk_percent
        self.dice_weight = dice_weight
        self.pixel_weight = pixel_weight
        self.smooth = smooth
        self.level_weights = list(level_weights)
        self._require_sense(len(labels.names))
        self.register_buffer("membership", _membership(labels), persistent=False)

    def _require_sense(self, num_classes: int) -> None:
        if self.pixel_loss not in PIXEL_LOSSES:
            names = ", ".join(PIXEL_LOSSES)
            raise ConfigError(f'loss#pixel_loss is "{self.pixel_loss}". Choose one of {names}.')
        if not 0 < self.topk_percent <= 100:
            raise ConfigError(
                f"loss#topk_percent is {self.topk_percent}. Give it above 0, at most 100."
            )
        for name in ("focal_gamma", "dice_weight", "pixel_weight", "smooth"):
            if getattr(self, name) < 0:
                raise ConfigError(f"loss#{name} is {getattr(self, name)}. Give it 0 or more.")
        if num_classes <= self.first and not self.by_region:
            raise ConfigError(
                "label_names has only the background. Add a class, or set loss#include_background."
            )

    def forward(
        self, outputs: torch.Tensor | Sequence[torch.Tensor], label: torch.Tensor
    ) -> torch.Tensor:
        """The weighted sum over the levels, in float32 even under autocast: half precision overflows in the softmax.

        Args:
            outputs: logits ``[B, C, ...]`` of each level, finest first; a single tensor (evaluation mode) is the
                finest level, with weight 1.
            label: class numbers ``[B, 1, *spatial]``, uint8; ``IGNORE_CLASS`` (255) is not counted.

        Raises:
            ConfigError: if the numbers of levels and weights differ.
        """
        if isinstance(outputs, torch.Tensor):
            outputs, weights = [outputs], [1.0]
        else:
            weights = self.level_weights
        if len(outputs) != len(weights):
            raise ConfigError(
                f"the network gives {counted(len(outputs), 'output')}, but loss#level_weights is {weights}. "
                "Give one weight per output."
            )
        with torch.autocast(label.device.type, enabled=False):
            # levels of weight 0 are computed too: DDP waits for the gradient of each head
            sums_of = self._level_sums if self.training else self._slab_sums
            levels = [sums_of(logits, label_at(label, logits.shape[2:])) for logits in outputs]
            if self.training:
                levels = self._over_ranks(levels)
            losses = [self._level_loss(sums) for sums in levels]
            return torch.stack(
                [weight * loss for weight, loss in zip(weights, losses, strict=True)]
            ).sum()

    def _slab_sums(self, logits: torch.Tensor, label: torch.Tensor) -> "LevelSums":
        """The same as ``_level_sums``, slab by slab along the first spatial axis."""
        if self.pixel_loss == "topk":
            # the worst voxels of a case are not those of its slabs
            return self._level_sums(logits, label)
        planes = max(SLAB_VALUES // logits[:, :, 0].numel(), 1)
        pairs = zip(logits.split(planes, 2), label.split(planes, 2), strict=True)
        slabs = [self._level_sums(*pair) for pair in pairs]
        return LevelSums(
            torch.stack([slab.voxels for slab in slabs]).sum(),
            torch.stack([slab.count for slab in slabs]).sum(),
            torch.stack([slab.dice for slab in slabs]).sum(0),
        )

    def _level_sums(self, logits: torch.Tensor, label: torch.Tensor) -> "LevelSums":
        """Contribution of one level, as sums over voxels that can be added over processes."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(2)
        label = label.flatten(2)
        valid = (label != IGNORE_CLASS).to(logits.dtype)
        if self.by_region:
            target = self._region_target(label).to(logits.dtype)
            probabilities = logits.sigmoid()
            by_voxel = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * valid
        else:
            # one-hot, 0 where ignored: on a CPU faster than gather and scatter, which add element by element
            classes = torch.arange(logits.shape[1], dtype=label.dtype, device=label.device)
            target = (label == classes[:, None]).to(logits.dtype)
            log_probabilities = logits.log_softmax(1)
            probabilities = log_probabilities.exp()
            by_voxel = -(log_probabilities * target).sum(1, keepdim=True)
        overlap = (probabilities * target).sum(2)
        # not a matrix product, which would use TF32 on a GPU
        predicted = (probabilities * valid).sum(2)
        dice_sums = torch.stack([overlap, predicted + target.sum(2)])[..., self.first :]
        if self.batch_dice:
            dice_sums = dice_sums.sum(1, keepdim=True)
        return LevelSums(*self._voxel_sums(by_voxel, valid, logits.shape[1]), dice_sums)

    def _region_target(self, label: torch.Tensor) -> torch.Tensor:
        if self.membership.device != label.device:
            self.membership = self.membership.to(label.device)
        regions = self.membership.index_select(1, label.flatten().int())
        return regions.unflatten(1, (label.shape[0], -1)).transpose(0, 1)

    def _voxel_sums(
        self, by_voxel: torch.Tensor, valid: torch.Tensor, num_channels: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum and number of the counted voxel losses.

        Args:
            by_voxel: cross entropy ``[B, 1 or regions, N]``, 0 where ignored.
            valid: ``[B, 1, N]``, 1 where not ignored.
            num_channels: number of network outputs.
        """
        if self.pixel_loss == "topk":
            share = self.topk_percent / 100
            most = max(int(by_voxel[0].numel() * share), 1)
            worst = by_voxel.flatten(1).topk(most).values
            counted = valid.sum((1, 2))[:, None] * by_voxel.shape[1]
            wanted = (counted * share).floor().clamp_min(1).minimum(counted)
            taken = torch.arange(most, device=worst.device) < wanted
            return (worst * taken).sum(), taken.sum().to(worst.dtype)
        if self.pixel_loss == "focal":
            # 1 - p of the true class; at 0 a power below 1 has an infinite gradient
            missed = (-torch.expm1(-by_voxel)).clamp_min(torch.finfo(by_voxel.dtype).tiny)
            return (by_voxel * missed**self.focal_gamma).sum(), valid.sum() * num_channels
        return by_voxel.sum(), valid.sum() * by_voxel.shape[1]

    def _over_ranks(self, levels: "list[LevelSums]") -> "list[LevelSums]":
        """Sum over all processes what they share, in one message for all levels."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return levels
        # missing in torch builds without distributed; this all_reduce is differentiable
        from torch.distributed.nn.functional import all_reduce

        counts = torch.stack([level.count for level in levels])
        shared = [level.dice for level in levels] if self.batch_dice else []
        joint = all_reduce(torch.cat([counts, *(sums.flatten() for sums in shared)]))
        sizes = [sums.numel() for sums in shared]
        counts, *parts = joint.split([len(levels), *sizes])
        # DDP and the log average over processes, so each process scales its sums by their number
        joined = [
            replace(level, voxels=level.voxels * dist.get_world_size(), count=count)
            for level, count in zip(levels, counts, strict=True)
        ]
        if not self.batch_dice:
            return joined
        return [
            replace(level, dice=part.view_as(level.dice))
            for level, part in zip(joined, parts, strict=True)
        ]

    def _level_loss(self, sums: "LevelSums") -> torch.Tensor:
        overlap, total = sums.dice
        # the bound is nnU-Net's, for smooth = 0
        dice = (2 * overlap + self.smooth) / (total + self.smooth).clamp_min(1e-8)
        by_voxel = sums.voxels / sums.count.clamp_min(1)
        return self.dice_weight * (1 - dice.mean()) + self.pixel_weight * by_voxel


@dataclass(frozen=True)
class LevelSums:
    """Sums over the voxels of one level.

    Attributes:
        voxels: sum of the voxel-wise losses, a scalar.
        count: number of these losses, a scalar.
        dice: ``[2, B, C]``, or ``[2, 1, C]`` over the batch: sums of prediction times reference, and of both added.
    """

    voxels: torch.Tensor
    count: torch.Tensor
    dice: torch.Tensor


def label_at(label: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The label on a coarser grid, by ``nearest-exact`` as in MONAI and nnU-Net; a view if the sizes divide.

    Args:
        label: ``[B, 1, *spatial]``, uint8.
        size: target spatial size.
    """
    shape = label.shape[2:]
    if any(fine % coarse for fine, coarse in zip(shape, size, strict=True)):
        return F.interpolate(label, size=tuple(size), mode="nearest-exact")
    ratios = [fine // coarse for fine, coarse in zip(shape, size, strict=True)]
    # the centre of an even number of voxels is between two; nearest-exact takes the later one
    places = (slice(None), slice(None), *(slice(ratio // 2, None, ratio) for ratio in ratios))
    return label[places]


def _membership(labels: LabelScheme) -> torch.Tensor:
    """``[regions, 256]``: 1 if the class is part of the region; the column of ``IGNORE_CLASS`` is 0."""
    regions = labels.target_classes if labels.sigmoid else []
    table = torch.zeros(len(regions), TABLE_SIZE)
    for row, classes in zip(table, regions, strict=True):
        row[classes] = 1
    return table

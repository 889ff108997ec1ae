"""Match the weights of one training with the network of another, by name.

nnU-Net (``run/load_pretrained_weights.py``) copies all weights except the outputs and rejects any other difference;
MONAI's ``copy_model_state`` copies tensors of equal name and shape. Neither matches channels or classes by name, and
neither says why a tensor was skipped.

Stored on disk: the names of tensors, in all weight files. A renamed layer is not found in older files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import nn

from dynunet_bundle.errors import some_of
from dynunet_bundle.networks.dynunet import HEADS_PREFIX, unwrapped

FIRST_CONVOLUTIONS = ("input_block.conv1.conv.weight", "stem.conv.weight")
"""First convolutions of DynUNet and ResidualEncoderUNet; weights ``[filters, channels, *kernel]``."""

OUTPUT_PREFIX = "output_block."
"""Prefix of the layer that gives the logits, in both networks; weights ``[outputs, ...]``."""

KERNEL_NDIM = 4
"""Number of axes of convolution weights in 2D; norms and biases have fewer."""

Plans = tuple[Mapping[str, Any], Mapping[str, Any]]


@dataclass
class Fit:
    """Result of ``match_weights``.

    Attributes:
        copies: tensors of the network, each with its new values.
        num_copied: number of values that come from the weights.
        num_own: number of values of the network, without the deep supervision heads.
        matched: tensors matched by channel or output name, each with these names.
        skipped: tensors of the weights that are not copied, each with the reason.
        missing: tensors of the network that the weights lack.
        has_body: whether a convolution between the first and the last is copied.
    """

    copies: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    num_copied: int = 0
    num_own: int = 0
    matched: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    has_body: bool = False

    @torch.no_grad()
    def copy(self) -> None:
        """Copy the weights into the network."""
        for tensor, values in self.copies:
            tensor.copy_(values)

    def lines(self) -> list[str]:
        """Lines for the log: what is copied and what is not."""
        kinds = {"matched": self.matched, "skipped": self.skipped, "fresh": self.missing}
        return [
            f"copied {len(self.copies)} tensors, {self.num_copied:,} of {self.num_own:,} values",
            *(f"{kind}: {some_of(tensors)}" for kind, tensors in kinds.items() if tensors),
        ]


@dataclass(frozen=True)
class _Axis:
    """An axis of a tensor with named entries: names in this network and in the weights."""

    index: int
    ours: list[str]
    theirs: list[str]

    def pairs(self) -> list[tuple[int, int]]:
        """Indices (here, in the weights) of each common name; repeated names are paired in their order."""
        left: list[str | None] = list(self.theirs)
        pairs = []
        for here, name in enumerate(self.ours):
            if name in left:
                there = left.index(name)
                left[there] = None
                pairs.append((here, there))
        return pairs


def match_weights(
    network: nn.Module,
    state: Mapping[str, torch.Tensor],
    plan: Mapping[str, Any],
    source_plan: Mapping[str, Any],
) -> Fit:
    """Find out which of some weights fit a network; nothing is copied yet.

    Tensors of equal name and shape fit. If both plans name them, the channels of the first convolution and the
    outputs are matched by name; unmatched ones keep their initial values. If no channel name matches but the number
    of channels is equal, they are copied in order: one modality is a useful start for another. The deep supervision
    heads keep their initial values.

    Args:
        network: a DeepSupervisedDynUNet or ResidualEncoderUNet, wrapped or not.
        state: the weights by name.
        plan: the plan ids of the network.
        source_plan: the plan ids of the weights; empty if unknown.
    """
    fit = Fit()
    bare = unwrapped(network)
    known = bare.state_dict()
    # DynUNet's state dict has each weight under two names; parameters and buffers list it once
    for name, tensor in chain(bare.named_parameters(), bare.named_buffers()):
        if name not in known or name.startswith(HEADS_PREFIX):
            continue
        fit.num_own += tensor.numel()
        if name in state:
            axis = _named_axis(name, (tensor, state[name]), (plan, source_plan))
            _match(fit, name, tensor, state[name], axis)
        else:
            fit.missing.append(name)
    if any(name.startswith(HEADS_PREFIX) for name in known):
        fit.missing.append(f"{HEADS_PREFIX}* (a model.pt has none)")
    fit.skipped += [f"{name} (this network has none)" for name in state if name not in known]
    return fit


def _match(
    fit: Fit, name: str, ours: torch.Tensor, theirs: torch.Tensor, axis: _Axis | None
) -> None:
    """Match one tensor and record the result in ``fit``."""
    pairs = axis.pairs() if axis else []
    is_output = name.startswith(OUTPUT_PREFIX)
    if axis and pairs:
        here, there = (list(indices) for indices in zip(*pairs, strict=True))
        taken = theirs.index_select(axis.index, torch.tensor(there))
        values = ours.detach().clone()
        values.index_copy_(axis.index, torch.tensor(here, device=ours.device), taken.to(ours))
        _note(fit, name, axis, here, there)
    elif ours.shape == theirs.shape and not (axis and is_output):
        taken = values = theirs
        if axis:
            fit.matched.append(f"{name} ({some_of(axis.theirs)} for {some_of(axis.ours)})")
    else:
        why = f"it is {tuple(theirs.shape)}, here {tuple(ours.shape)}"
        if axis:
            why = f"it is for {some_of(axis.theirs)}, here for {some_of(axis.ours)}"
        fit.skipped.append(f"{name} ({why})")
        return
    fit.copies.append((ours, values))
    fit.num_copied += taken.numel()
    is_inner = not is_output and name not in FIRST_CONVOLUTIONS
    fit.has_body |= is_inner and theirs.ndim >= KERNEL_NDIM


def _note(fit: Fit, name: str, axis: _Axis, here: list[int], there: list[int]) -> None:
    if here == there == list(range(len(axis.ours))) and len(axis.ours) == len(axis.theirs):
        return
    fresh = [other for index, other in enumerate(axis.ours) if index not in here]
    shared = some_of([axis.ours[index] for index in here])
    fit.matched.append(f"{name} ({shared}{'; fresh: ' + some_of(fresh) if fresh else ''})")


def _named_axis(
    name: str, tensors: tuple[torch.Tensor, torch.Tensor], plans: Plans
) -> _Axis | None:
    """The axis of channels or outputs, if the tensor has one, both plans name its entries, and other sizes agree."""
    if name in FIRST_CONVOLUTIONS:
        index, names = 1, [_inputs(plan) for plan in plans]
    elif name.startswith(OUTPUT_PREFIX):
        index, names = 0, [_outputs(plan) for plan in plans]
    else:
        return None
    shapes = [list(tensor.shape) for tensor in tensors]
    sizes = [shape.pop(index) for shape in shapes]
    is_named = sizes == [len(one) for one in names]
    return _Axis(index, *names) if is_named and shapes[0] == shapes[1] else None


def _inputs(plan: Mapping[str, Any]) -> list[str]:
    """Names of the inputs: the channels of the image, and in a cascade one mask per class."""
    masks = [f"mask of {name}" for name in plan.get("label_names", ())[1:]]
    return list(plan.get("channel_names", ())) + (masks if plan.get("cascade") else [])


def _outputs(plan: Mapping[str, Any]) -> list[str]:
    """Names of the outputs; a region (sigmoid) never matches the class of the same name (softmax)."""
    regions = plan.get("regions")
    if regions:
        return [f"region {name}" for name in regions]
    return list(plan.get("label_names", ()))

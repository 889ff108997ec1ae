"""Several trainings of one plan as one network."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from dynunet_bundle.errors import ConfigError


class FoldEnsemble(nn.Module):
    """Several trainings of one plan, whose logits are averaged.

    That is nnU-Net's rule for folds (``predict_logits_from_preprocessed_data`` of nnunetv2 2.8.1). Different plans are
    averaged in probability, by the command ``ensemble``, which is nnU-Net's rule too. Only the weights are held several
    times; the members process a window one after the other.

    Args:
        network: a network of the plan; its own weights are not used.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.members: list[Mapping[str, torch.Tensor]] = []

    def load_members(self, states: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Set the weights of all members; each must fit the network strictly."""
        members: list[Mapping[str, torch.Tensor]] = []
        for state in states:
            self.network.load_state_dict(state)
            # a DynUNet lists each weight twice; parameters are listed once
            tensors = {
                **dict(self.network.named_parameters()),
                **dict(self.network.named_buffers()),
            }
            members.append({name: tensor.detach().clone() for name, tensor in tensors.items()})
        self.members = members

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mean logits ``[B, outputs, *spatial]`` float32 of the members.

        Raises:
            ConfigError: without members.
        """
        total: torch.Tensor | None = None
        for member in self.members:
            logits = functional_call(self.network, dict(member), (x,)).float()
            total = logits if total is None else total.add_(logits)
        if total is None:
            raise ConfigError(
                "the ensemble has no weights. Pass --weights_file with a list of files."
            )
        return total.div_(len(self.members))


def load_states(network: nn.Module, states: Sequence[Mapping[str, Any]]) -> None:
    """Load weights into a network, or into the members of an ensemble.

    Raises:
        ConfigError: if there are several weights for a single network.
    """
    if isinstance(network, FoldEnsemble):
        network.load_members(states)
    elif len(states) == 1:
        network.load_state_dict(states[0])
    else:
        raise ConfigError(
            f"{len(states)} files of weights were given for one network. "
            "Pass one file, or --weights_file with the list."
        )

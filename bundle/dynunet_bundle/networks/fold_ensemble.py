"""The network of a prediction: a plain one, several of one plan as one, or an exported model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.networks.exported import network_of

SMALLEST_PROBABILITY = 1e-7


class FoldEnsemble(nn.Module):
    """Networks of one plan and several trainings, averaged in probability.

    It gives logits of the mean: what follows takes it for a single network. Only the weights are there several times;
    windows are computed by one network after the other.

    Args:
        network: a network of the plan; its own weights are not used.
        regions: whether outputs are regions, each with a probability of its own.
    """

    def __init__(self, network: nn.Module, regions: bool = False) -> None:
        super().__init__()
        self.network = network
        self.regions = regions
        self.members: list[Mapping[str, torch.Tensor]] = []

    def load_members(self, states: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Take the weights of all members; each fits the network strictly."""
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
        """Logits ``[B, outputs, *spatial]`` float32 of the members' mean probability."""
        total: torch.Tensor | None = None
        for member in self.members:
            logits = functional_call(self.network, dict(member), (x,)).float()
            shares = logits.sigmoid() if self.regions else logits.softmax(1)
            total = shares if total is None else total.add_(shares)
        if total is None:
            raise ConfigError(
                "an ensemble needs weights. Pass --weights_file with a list of files."
            )
        mean = total.div_(len(self.members)).clamp_(min=SMALLEST_PROBABILITY)
        return mean.clamp_(max=1 - SMALLEST_PROBABILITY).logit_() if self.regions else mean.log_()


def inference_network(
    network_def: nn.Module,
    device: torch.device | str,
    weights_file: str | Sequence[str] = "",
    regions: bool = False,
    plan: Mapping[str, Any] | None = None,
    backend: str = "torch",
    backend_file: str | None = None,
) -> nn.Module:
    """The network on its device, without weights: ``network`` of inference.json and evaluate.json.

    Args:
        network_def: a plain network of the plan.
        device: where it goes.
        weights_file: a list makes it an ensemble.
        regions: whether its outputs are regions.
        plan: the plan ids, which an exported model must have been made for.
        backend: ``"torch"``, or what runs an exported model, see ``backends.network_of``.
        backend_file: the exported model.

    Raises:
        BundleError: as ``backends.network_of``.
    """
    device = torch.device(device)
    if backend != "torch":
        return network_of(network_def, plan or {}, backend, backend_file, weights_file)
    network = network_def.to(device).eval()
    if isinstance(weights_file, str):
        return network
    return FoldEnsemble(network, regions)


def load_states(network: nn.Module, states: Sequence[Mapping[str, Any]]) -> None:
    """Give a network of ``inference_network`` its weights.

    Raises:
        ConfigError: if there are several for a single network.
    """
    if isinstance(network, FoldEnsemble):
        network.load_members(states)
    elif len(states) == 1:
        network.load_state_dict(states[0])
    else:
        raise ConfigError(f"{len(states)} files of weights need the network of an ensemble.")

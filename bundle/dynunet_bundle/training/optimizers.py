"""The optimizer of a training, with a parameter group without weight decay.

Stored on disk: the names of ``OPTIMIZERS`` and ``NO_DECAY``, in configs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam

from dynunet_bundle.errors import ConfigError, first_line
from dynunet_bundle.training.lookahead import Lookahead

OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "radam": RAdam}

HAS_FUSED = (Adam, AdamW)
"""Optimizers used with torch's fused step (one kernel). RAdam does not have one. Fused SGD leaves its momentum
uninitialised if the first step overflows under mixed precision (torch 2.13, ``_fused_sgd``; reproducible on a CPU),
and at the initial loss scale that is common."""

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
"""Base classes of all norms: ``_NormBase`` covers batch and instance norms of all dimensions, and SyncBatchNorm."""

CONVOLUTIONS = nn.modules.conv._ConvNd

NO_DECAY = ("norm", "bias")


def make_optimizer(
    network: nn.Module,
    name: str = "sgd",
    learning_rate: float = 0.01,
    momentum: float = 0.99,
    nesterov: bool = True,
    weight_decay: float = 3e-5,
    no_decay: Sequence[str] = (),
    lookahead: Mapping[str, Any] | None = None,
) -> Optimizer:
    """Make a torch optimizer for all parameters of a network: ``optimizer`` of train.json.

    The defaults are nnU-Net's. MONAI's ``generate_param_groups`` sets learning rates per layer, not weight decay.

    Args:
        network: bare, or wrapped by DDP or ``torch.compile``. On CUDA, Adam and AdamW use their fused step.
        name: "sgd", "adam" (weight decay is an L2 term of the gradient), "adamw" (decoupled) or "radam" (like adam).
        learning_rate: rate at the peak of the schedule.
        momentum: momentum of SGD; the Adam family uses torch's betas, (0.9, 0.999).
        nesterov: whether SGD uses Nesterov momentum.
        weight_decay: factor of the decay.
        no_decay: parameters without decay: "norm" (scales and shifts of normalisation layers), "bias" (of
            convolutions). Empty decays all, as in nnU-Net; ["norm"] is the rule of NVIDIA's nnU-Net for TensorFlow 2.
        lookahead: arguments of ``Lookahead``, which then wraps the optimizer ({}: defaults); None for plain.

    Raises:
        ConfigError: for an unknown name or entry, or a number that torch rejects.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f'optimizer#name is "{name}". Choose one of {", ".join(OPTIMIZERS)}.')
    kind = OPTIMIZERS[name]
    settings: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if kind is SGD:
        settings |= {"momentum": momentum, "nesterov": nesterov}
    if kind in HAS_FUSED and all(parameter.is_cuda for parameter in network.parameters()):
        # not on the CPU, where rounding differs from torch's default
        settings["fused"] = True
    groups = _groups(network, no_decay)
    try:
        # torch accepts NaN
        if not all(0 <= settings[key] < math.inf for key in ("lr", "weight_decay")):
            raise ValueError("a number is out of range")
        optimizer = kind(groups, **settings)
    except (TypeError, ValueError) as error:
        shown = ", ".join(f"{key} {value}" for key, value in settings.items())
        raise ConfigError(
            f"torch rejects the optimizer {name} with {shown}: {first_line(error)}. "
            "Rate, decay and momentum must be at least 0; nesterov needs a momentum above 0."
        ) from error
    return optimizer if lookahead is None else _with_lookahead(optimizer, lookahead)


def _groups(network: nn.Module, no_decay: Sequence[str]) -> list[dict[str, Any]]:
    """Split the parameters, each once and in the network's order, into groups with and without decay."""
    exempt = _exempt(network, no_decay)
    parameters = list(network.parameters())
    decayed = [parameter for parameter in parameters if id(parameter) not in exempt]
    others = [parameter for parameter in parameters if id(parameter) in exempt]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _exempt(network: nn.Module, no_decay: Sequence[str]) -> set[int]:
    """``id`` of each parameter without decay."""
    unknown = [entry for entry in no_decay if entry not in NO_DECAY]
    # a string would be read letter by letter
    if isinstance(no_decay, str) or unknown:
        raise ConfigError(
            f"optimizer#no_decay is {no_decay!r}. Give a list with any of {', '.join(NO_DECAY)}."
        )
    exempt: set[int] = set()
    for module in network.modules():
        if "norm" in no_decay and isinstance(module, NORMS):
            exempt |= {id(parameter) for parameter in module.parameters(recurse=False)}
        if "bias" in no_decay and isinstance(module, CONVOLUTIONS) and module.bias is not None:
            exempt.add(id(module.bias))
    return exempt


def _with_lookahead(optimizer: Optimizer, settings: Mapping[str, Any]) -> Lookahead:
    try:
        return Lookahead(optimizer, **settings)
    except TypeError as error:
        raise ConfigError(
            f'optimizer#lookahead is {settings!r}. Give null or {{"steps": 6, "rate": 0.5}}.'
        ) from error

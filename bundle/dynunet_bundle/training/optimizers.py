"""The optimizer of a training, with groups of parameters that weight decay leaves alone."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam

from dynunet_bundle.errors import ConfigError, first_line
from dynunet_bundle.training.lookahead import Lookahead

OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "radam": RAdam}

HAS_FUSED = (Adam, AdamW)
"""Classes whose step torch computes in one kernel, where that is sound. RAdam has no such form. That of SGD leaves its
momentum uninitialised where the very first step overflows under mixed precision (torch 2.13, ``_fused_sgd``), as at the
initial scale it often does; a CPU shows it too."""

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
"""Batch and instance norms of all dimensions share the first; SyncBatchNorm does too."""

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
    """Make one of torch's optimizers for all parameters of a network: ``optimizer`` of train.json.

    The defaults are nnU-Net's. MONAI's ``generate_param_groups`` sets learning rates by layer, not weight decay.

    Args:
        network: bare, or wrapped by DDP or ``torch.compile``. Where its parameters are on CUDA the step is fused, if
            the class can.
        name: "sgd", "adam" (weight decay is an L2 term of the gradient), "adamw" (decoupled) or "radam" (as adam).
        learning_rate: rate at the peak of the schedule.
        momentum: of SGD; the Adam family has torch's betas, (0.9, 0.999).
        nesterov: of SGD.
        weight_decay: factor of the decay.
        no_decay: what is not decayed: "norm" (scales and shifts of normalisation layers), "bias" (of convolutions).
            Empty decays all, as nnU-Net does; ["norm"] is the rule of NVIDIA's nnU-Net for TensorFlow 2.
        lookahead: None, or arguments of ``Lookahead``, which then wraps the optimizer; {} gives its defaults.

    Raises:
        ConfigError: for an unknown name or entry, or a number that torch refuses.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f'optimizer#name is "{name}". Choose one of {", ".join(OPTIMIZERS)}.')
    kind = OPTIMIZERS[name]
    settings: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if kind is SGD:
        settings |= {"momentum": momentum, "nesterov": nesterov}
    if kind in HAS_FUSED and all(parameter.is_cuda for parameter in network.parameters()):
        # not on the CPU, where it rounds otherwise than torch's default
        settings["fused"] = True
    groups = _groups(network, no_decay)
    try:
        # torch lets NaN pass
        if not all(0 <= settings[key] < math.inf for key in ("lr", "weight_decay")):
            raise ValueError("a number is out of range")
        optimizer = kind(groups, **settings)
    except (TypeError, ValueError) as error:
        shown = ", ".join(f"{key} {value}" for key, value in settings.items())
        raise ConfigError(
            f"torch refuses the optimizer {name} with {shown}: {first_line(error)}. "
            "Rate, decay and momentum must be at least 0; nesterov needs a momentum above 0."
        ) from error
    return optimizer if lookahead is None else _with_lookahead(optimizer, lookahead)


def _groups(network: nn.Module, no_decay: Sequence[str]) -> list[dict[str, Any]]:
    """Split the parameters, each once and in the network's order, into those that decay and those that do not."""
    exempt = _exempt(network, no_decay)
    parameters = list(network.parameters())
    decayed = [parameter for parameter in parameters if id(parameter) not in exempt]
    others = [parameter for parameter in parameters if id(parameter) in exempt]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _exempt(network: nn.Module, no_decay: Sequence[str]) -> set[int]:
    """Identities of the parameters that do not decay."""
    unknown = [entry for entry in no_decay if entry not in NO_DECAY]
    # a string would be taken letter by letter
    if isinstance(no_decay, str) or unknown:
        raise ConfigError(
            f"optimizer#no_decay is {no_decay!r}. Give a list out of {', '.join(NO_DECAY)}; [] decays all."
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

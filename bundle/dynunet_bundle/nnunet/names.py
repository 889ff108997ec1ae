"""The same parameters under our names and under nnU-Net's.

Source of nnU-Net's names: dynamic_network_architectures 0.4.4, ``PlainConvUNet`` and ``ResidualEncoderUNet``. It lists
most parameters several times (``all_modules``, ``decoder.encoder``); ``nnunet_name`` gives the short ones.
"""

import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from dynunet_bundle.errors import WeightsError
from dynunet_bundle.networks.dynunet import inference_state_dict

ALIAS = re.compile(r"^decoder\.encoder\.|\.all_modules\.")
"""nnU-Net's second names of parameters."""

HEAD = "decoder.seg_layers."
CONV_ALIAS, NORM_ALIAS = ".all_modules.0.", ".all_modules.1."
WITH_BIAS = re.compile(r"(?<!skip\.0)(?<!skip\.1)\.conv\.weight$")
"""Convolutions of nnU-Net that have a bias before their norm: all except those of shortcuts."""

UNUSED = re.compile(rf"\.conv\.bias$|^{re.escape(HEAD)}")
"""Parameters of nnU-Net that a prediction does not need: a bias before a norm, which removes it, and lower heads."""

TRANSPOSED_BIAS = re.compile(r"decoder\.transpconvs\.\d+\.bias$")

RENAMED = tuple(
    (re.compile(rf"{ours}(\w+)"), theirs)
    for ours, theirs in (
        (r"upsamples\.(\d+)\.transp_conv\.conv\.", r"decoder.transpconvs.\1.\2"),
        (
            r"upsamples\.(\d+)\.conv_block\.conv([12])\.conv\.",
            r"decoder.stages.\1.convs.#\2.conv.\3",
        ),
        (r"upsamples\.(\d+)\.conv_block\.norm([12])\.", r"decoder.stages.\1.convs.#\2.norm.\3"),
        (r"level\.(\d+)\.conv([12])\.conv\.", r"encoder.stages.\1.0.convs.#\2.conv.\3"),
        (r"level\.(\d+)\.norm([12])\.", r"encoder.stages.\1.0.convs.#\2.norm.\3"),
        (r"head\.(\d+)\.conv\.conv\.", rf"{HEAD}\1.\2"),
        # ResidualEncoderUNet
        (r"decoder\.(\d+)\.transp_conv\.conv\.", r"decoder.transpconvs.\1.\2"),
        (r"decoder\.(\d+)\.conv\.(conv|norm)\.", r"decoder.stages.\1.convs.0.\2.\3"),
        (r"stem\.(conv|norm)\.", r"encoder.stem.convs.0.\1.\2"),
        (r"encoder\.(\d+)\.(\d+)\.(\w+)\.(conv|norm)\.", r"encoder.stages.\1.blocks.\2.\3.\4.\5"),
        (
            r"encoder\.(\d+)\.(\d+)\.skip\.(\d)\.(conv|norm)\.",
            r"encoder.stages.\1.blocks.\2.skip.\3.\4.\5",
        ),
    )
)
"""Names here and there. ``level`` and ``head`` are numbered as in nnU-Net; after ``#`` one is subtracted."""


def nnunet_name(name: str, num_levels: int) -> str:
    """nnU-Net's name of one of our parameters or buffers.

    Args:
        name: name in ``PlainConvUNet``, ``DynUNet`` or ``ResidualEncoderUNet``, with or without heads.
        num_levels: levels of the network, ``len(strides)``.

    Raises:
        ValueError: if the name is of another network.
    """
    block, _, rest = name.partition(".")
    number, _, inner = rest.partition(".")
    numbered = {
        "input_block": f"level.0.{rest}",
        "downsamples": f"level.{int(number) + 1}.{inner}" if number.isdigit() else "",
        "bottleneck": f"level.{num_levels - 1}.{rest}",
        "output_block": f"head.{num_levels - 2}.{rest}",
        "supervision_heads": f"head.{num_levels - 3 - int(number)}.{inner}"
        if number.isdigit()
        else "",
    }.get(block, name)
    # MONAI's Convolution has its norm in "adn"
    plain = numbered.replace(".adn.N.", ".norm.").replace(".shortcut.", ".skip.")
    for pattern, theirs in RENAMED:
        found = pattern.fullmatch(plain)
        if found:
            text = found.expand(theirs)
            return re.sub(r"#(\d)", lambda digit: str(int(digit.group(1)) - 1), text)
    raise ValueError(f"{name} is not a parameter of these networks")


def load_nnunet_state(
    network: nn.Module, state: Mapping[str, torch.Tensor], num_levels: int, source: Path
) -> dict[str, torch.Tensor]:
    """Fill a network with nnU-Net's weights.

    Args:
        network: a network of the plan, without deep supervision heads; it is changed in place.
        state: weights by nnU-Net's names.
        num_levels: levels of the network.
        source: the checkpoint, for messages.

    Returns:
        The weights as ``model.pt`` holds them.

    Raises:
        WeightsError: if the two networks differ.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    names = {name: nnunet_name(name, num_levels) for name in tensors}
    used = set(names.values())
    unbiased = not any(name.endswith(".conv.bias") for name in state)
    with torch.no_grad():
        for name, theirs in names.items():
            if unbiased and theirs not in state and TRANSPOSED_BIAS.match(theirs):
                # trained with conv_bias False
                tensors[name].zero_()
                continue
            if theirs not in state or state[theirs].shape != tensors[name].shape:
                found = tuple(state[theirs].shape) if theirs in state else "missing"
                raise WeightsError(
                    f"{source} does not fit the network of plans.json: {theirs} is {found}, expected "
                    f"{tuple(tensors[name].shape)}. Its trainer changed the network; such a model cannot be imported."
                )
            tensors[name].copy_(state[theirs])
            bias = theirs.replace("norm.running_mean", "conv.bias")
            if bias != theirs and bias not in used and bias in state:
                # a batch norm removes its own mean, not that of the image, so a bias before it counts
                tensors[name].sub_(state[bias])
    for theirs in state:
        if theirs not in used and not ALIAS.search(theirs) and not UNUSED.search(theirs):
            raise WeightsError(
                f"{source} has {theirs}, which the network of plans.json lacks. "
                "Its trainer changed the network; such a model cannot be imported."
            )
    return inference_state_dict(network)


def nnunet_state(network: nn.Module, num_levels: int) -> dict[str, torch.Tensor]:
    """Weights of one of our networks by nnU-Net's names, which its network loads strictly.

    Args:
        network: a network of the plan, without deep supervision heads.
        num_levels: levels of the network.

    Returns:
        Detached copies, each listed under all names that nnU-Net has for it. Parameters that our network lacks are 0
        and change no prediction: biases before norms, and heads below the full resolution.
    """
    state: dict[str, torch.Tensor] = {}
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        theirs = nnunet_name(name, num_levels)
        state[theirs] = tensor.detach().clone()
        if WITH_BIAS.search(theirs):
            state.setdefault(theirs.replace("weight", "bias"), tensor.new_zeros(len(tensor)))
    head = state[f"{HEAD}{num_levels - 2}.weight"]
    for level in range(num_levels - 2):
        # the transposed convolution of a level has the channels of its head: weight [below, here, *kernel]
        width = state[f"decoder.transpconvs.{level}.weight"].shape[1]
        state[f"{HEAD}{level}.weight"] = head.new_zeros(len(head), width, *head.shape[2:])
        state[f"{HEAD}{level}.bias"] = head.new_zeros(len(head))
    for name, tensor in list(state.items()):
        aliases = {name, name.replace(".conv.", CONV_ALIAS).replace(".norm.", NORM_ALIAS)}
        if name.startswith("encoder."):
            aliases |= {f"decoder.{alias}" for alias in aliases}
        state |= dict.fromkeys(sorted(aliases), tensor)
    return state


def has_batch_norm(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether weights are those of a network with batch norm, whatever plans.json says.

    ``nnUNetTrainerBN`` changes the norm, and does not write that to plans.json.
    """
    return any(name.endswith(".norm.running_mean") for name in state)

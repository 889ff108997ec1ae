"""The network of a configuration of nnU-Net, and what ours cannot compute.

Source: nnunetv2 2.8.1, ``default_experiment_planner.py``, and for plans before 2.3 ``plans_handler.py`` of its version
2.2; dynamic_network_architectures 0.4.4.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import PlanError
from dynunet_bundle.networks.residual import RESENC_BLOCKS

ARCHITECTURES = ("PlainConvUNet", "ResidualEncoderUNet")
CONVOLUTIONS = 2
"""Convolutions of a level of PlainConvUNet here; nnU-Net's planners always take this number."""

NETWORK_ARGUMENTS: dict[str, Any] = {
    "nonlin_first": False,
    "stem_channels": None,
    "bottleneck_channels": None,
    "squeeze_excitation": False,
    "pool": "conv",
    "pool_type": "conv",
}
"""Further arguments of both networks, with the only value that the bundle's networks have; nnU-Net's planners give none
of them."""

READ_ARGUMENTS = {
    *("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", "n_conv_per_stage"),
    *("n_blocks_per_stage", "n_conv_per_stage_decoder", "conv_bias", "norm_op", "norm_op_kwargs"),
    *("nonlin", "nonlin_kwargs"),
}
UNUSED_ARGUMENTS = {
    *("dropout_op", "dropout_op_kwargs", "deep_supervision", "stochastic_depth_p"),
    "squeeze_excitation_reduction_ratio",
}
"""Arguments that do not change a prediction."""

LAYER_OPTIONS = {
    "norm_op_kwargs": {"eps", "affine", "momentum"},
    "nonlin_kwargs": {"negative_slope", "inplace"},
}
"""Options of layers that the bundle's networks take, or that do not change a prediction."""

SLOPE = 0.01
"""Slope of torch's LeakyReLU, which nnU-Net does not change."""

Levels = Sequence[Sequence[int]]


def network_ids(content: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """The ids of a plan that describe the network.

    Args:
        content: a configuration of plans.json, with what it inherits.
        source: the results folder, for messages.

    Raises:
        PlanError: if ours would compute something else.
    """
    old = "architecture" not in content
    kind, arguments = _old_network(content) if old else _declared_network(content)
    dims = len(content["patch_size"])
    fault = _network_fault(kind, arguments, dims)
    if fault:
        raise PlanError(
            f"{source}: {fault}. Such a network cannot be imported; "
            f"{' and '.join(ARCHITECTURES)} of nnU-Net's planners can."
        )
    norm = str(arguments["norm_op"]).rpartition(".")[2]
    options = arguments.get("norm_op_kwargs") or {}
    eps = {"eps": options["eps"]} if options.get("eps", 1e-5) != 1e-5 else {}
    name = "BATCH" if norm.startswith("BatchNorm") else "INSTANCE"
    kernels = [_per_axis(kernel, dims) for kernel in arguments["kernel_sizes"]]
    is_even = kind == "PlainConvUNet" and all(kernel == kernels[0] for kernel in kernels)
    return {
        "spatial_dims": dims,
        # with one kernel for all levels, MONAI's own network is the same
        "architecture": "DynUNet" if is_even else kind,
        "kernel_sizes": kernels,
        "strides": [_per_axis(stride, dims) for stride in arguments["strides"]],
        "filters": list(arguments["features_per_stage"]),
        "norm_name": [name, {"affine": bool(options.get("affine", name == "BATCH")), **eps}],
        "negative_slope": (arguments.get("nonlin_kwargs") or {}).get("negative_slope", SLOPE),
    }


def _per_axis(value: Any, dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else list(value)


def _declared_network(content: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    declared = content["architecture"]
    return declared["network_class_name"].rpartition(".")[2], declared["arch_kwargs"]


def _old_network(content: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The network of plans before nnU-Net 2.3, which name its class and a base number of features."""
    kernels, strides = content.get("conv_kernel_sizes", ()), content.get("pool_op_kernel_sizes", ())
    dims = len(content["patch_size"])
    base, most = (
        content.get("UNet_base_num_features", 32),
        content.get("unet_max_num_features", 320),
    )
    convolutions = content.get("n_conv_per_stage_encoder", [CONVOLUTIONS] * len(kernels))
    kind = str(content.get("UNet_class_name", ""))
    return kind, {
        "features_per_stage": [min(base * 2**level, most) for level in range(len(kernels))],
        "kernel_sizes": kernels,
        "strides": strides,
        "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage": convolutions,
        "n_conv_per_stage_decoder": content.get("n_conv_per_stage_decoder", []),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def _network_fault(kind: str, arguments: Mapping[str, Any], dims: int) -> str | None:
    """Why a network is not one of ours, or None."""
    if kind not in ARCHITECTURES:
        return f"the network is {kind or 'not named'}"
    needed = {"features_per_stage", "kernel_sizes", "strides", "norm_op", "nonlin"}
    if missing := sorted(needed - arguments.keys()):
        return f"the network lacks {', '.join(missing)}"
    levels = len(arguments["strides"])
    if {len(arguments["kernel_sizes"]), len(arguments["features_per_stage"])} != {levels}:
        return "kernels, strides and features are not of the same number of levels"
    norm, activation = (str(arguments[key]).rpartition(".")[2] for key in ("norm_op", "nonlin"))
    if norm.rstrip("23d") not in ("InstanceNorm", "BatchNorm") or activation != "LeakyReLU":
        return f"the norm is {norm}, the activation {activation}"
    kernels, strides = (
        [_per_axis(value, dims) for value in arguments[key]] for key in ("kernel_sizes", "strides")
    )
    wrong = [value for value in (*kernels, *strides) if len(value) != dims]
    if wrong:
        return f"a level has the kernel or stride {wrong[0]}, not {dims} numbers"
    return (
        padding_fault(kind, kernels, strides)
        or _option_fault(arguments)
        or _depth_fault(kind, levels, arguments)
    )


def padding_fault(kind: str, kernels: Levels, strides: Levels) -> str | None:
    """Where nnU-Net pads a convolution by another width than MONAI's DynUNet, or None.

    nnU-Net pads by (k - 1) // 2, DynUNet by (k - s + 1) // 2: equal for odd kernels k and the strides s of 1 and 2.

    Args:
        kind: name of the network.
        kernels: kernel of each level.
        strides: stride into each level.
    """
    for kernel, stride in zip(kernels, strides, strict=True):
        for size, step in zip(kernel, stride, strict=True):
            is_padded_alike = kind == "ResidualEncoderUNet" or step <= 2
            if size % 2 == 0 or not is_padded_alike:
                return f"a level has the kernel {list(kernel)} and the stride {list(stride)}"
    return None


def network_depths(kind: str, levels: int) -> dict[str, list[int]]:
    """nnU-Net's numbers of convolutions or blocks of each level, by its own keys.

    Args:
        kind: name of the network.
        levels: number of levels.
    """
    last = RESENC_BLOCKS[-1]
    blocks = [*RESENC_BLOCKS, *[last] * levels][:levels]
    if kind == "PlainConvUNet":
        return {
            "n_conv_per_stage": [CONVOLUTIONS] * levels,
            "n_conv_per_stage_decoder": [CONVOLUTIONS] * (levels - 1),
        }
    return {"n_blocks_per_stage": blocks, "n_conv_per_stage_decoder": [1] * (levels - 1)}


def _option_fault(arguments: Mapping[str, Any]) -> str | None:
    """An argument or an option of a layer that the bundle's networks do not have."""
    for key in sorted(arguments.keys() - READ_ARGUMENTS - UNUSED_ARGUMENTS):
        if key not in NETWORK_ARGUMENTS or arguments[key] != NETWORK_ARGUMENTS[key]:
            return f"the network has {key} {arguments[key]!s:.40}"
    for key, known in LAYER_OPTIONS.items():
        for option in sorted((arguments.get(key) or {}).keys() - known):
            return f"{key} has {option} {arguments[key][option]!s:.40}"
    return None


def _depth_fault(kind: str, levels: int, arguments: Mapping[str, Any]) -> str | None:
    for key, numbers in network_depths(kind, levels).items():
        found = _per_axis(arguments.get(key) or numbers, len(numbers))
        if found != numbers:
            return f"{key} is {found}, not {numbers}"
    return None

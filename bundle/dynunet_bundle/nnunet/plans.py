"""nnU-Net's plans.json and dataset.json as a plan of this bundle.

A kind of model whose masks would differ is refused with the reason. Source: nnunetv2 2.8.1, ``plans_handler.py``,
``default_experiment_planner.py`` and ``imageio``; for plans before 2.3, ``plans_handler.py`` of its version 2.2.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import PlanError
from dynunet_bundle.labels.dataset_json import LABELS_SCHEMA, read_labels
from dynunet_bundle.labels.faults import find_name_fault
from dynunet_bundle.networks.residual import RESENC_BLOCKS
from dynunet_bundle.planning.plan import Plan
from dynunet_bundle.preprocessing.axes import STORED
from dynunet_bundle.shapes import OBJECT, TEXT, by_name, list_of, object_with

AXES_BY_READER = {
    "SimpleITKIO": STORED[::-1],
    "NibabelIO": STORED[::-1],
    "NaturalImage2DIO": STORED[::-1],
    "Tiff3DIO": STORED[::-1],
    "SimpleITKIOWithReorient": "SAR",
    "NibabelIOWithReorient": "SAR",
}
"""Array axes of each reader, before the plan's ``transpose_forward``."""

NORMALIZATIONS = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}
RESAMPLING = {
    "resampling_fn_data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": {
        "is_seg": False,
        "order": 1,
        "order_z": 0,
        "force_separate_z": None,
    },
}
"""Arguments of nnU-Net's ``resample_data_or_seg_to_shape`` that the bundle's resampling implements."""

ARCHITECTURES = ("PlainConvUNet", "ResidualEncoderUNet")
CONVOLUTIONS = 2
"""Convolutions of a level of PlainConvUNet here; nnU-Net's planners always take this number."""

SLOPE = 0.01
"""Slope of torch's LeakyReLU, which nnU-Net does not change."""

CHANNELS = by_name(TEXT, minProperties=1, propertyNames={"pattern": "^[0-9]{1,4}$"})
DATASET_SCHEMA = object_with(
    {"channel_names": CHANNELS, "modality": CHANNELS, "labels": LABELS_SCHEMA, "file_ending": TEXT},
    ("labels",),
    description="Pass a folder of nnUNet_results with the dataset.json that nnU-Net saved.",
)
"""Schema of the dataset.json of a results folder, which lists no cases."""

NUMBERS = list_of({"type": "number"}, minItems=2, maxItems=3)
CONFIGURATION_SCHEMA = object_with(
    {
        "inherits_from": TEXT,
        "spacing": NUMBERS,
        "patch_size": list_of({"type": "integer", "minimum": 1}, minItems=2, maxItems=3),
        "batch_size": {"type": "integer", "minimum": 1},
        "normalization_schemes": list_of(TEXT, minItems=1),
        "use_mask_for_norm": list_of({"type": "boolean"}),
        "architecture": object_with(
            {"network_class_name": TEXT, "arch_kwargs": OBJECT},
            ("network_class_name", "arch_kwargs"),
        ),
    }
)
PLANS_SCHEMA = object_with(
    {
        "configurations": by_name(CONFIGURATION_SCHEMA, minProperties=1),
        "image_reader_writer": TEXT,
        "transpose_forward": list_of({"enum": [0, 1, 2]}, minItems=3, maxItems=3),
        "foreground_intensity_properties_per_channel": by_name(OBJECT),
        "foreground_intensity_properties_by_modality": by_name(OBJECT),
    },
    ("configurations",),
    description="Pass a folder of nnUNet_results with the plans.json that nnU-Net saved.",
)
"""Schema of plans.json; other keys are ignored."""


def resolved_configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits.

    Args:
        plans: content of plans.json.
        name: e.g. ``3d_cascade_fullres``.

    Raises:
        PlanError: if there is no such configuration, or it inherits from itself.
    """
    chain: list[str] = []
    content: dict[str, Any] = {}
    following: Any = name
    while following:
        if following in chain or following not in plans["configurations"]:
            known = ", ".join(plans["configurations"])
            raise PlanError(f'plans.json has no configuration "{following}"; it has {known}.')
        chain.append(following)
        own = plans["configurations"][following]
        content = {**own, **content}
        following = own.get("inherits_from")
    return content


def imported_plan(
    plans: Mapping[str, Any], dataset: Mapping[str, Any], name: str, task_name: str, source: Path
) -> Plan:
    """The plan of one configuration.

    Args:
        plans: content of plans.json.
        dataset: content of dataset.json.
        name: of the configuration.
        task_name: name of the data set.
        source: the results folder, for messages.

    Raises:
        PlanError: if the bundle would not give the masks of nnU-Net.
        DatasetError: if the labels contradict themselves.
    """
    content = resolved_configuration(plans, name)
    _require_known_steps(content, source)
    channels = dataset.get("channel_names") or dataset.get("modality") or {}
    channel_names = [channels[key] for key in sorted(channels, key=int)]
    for channel in channel_names:
        if fault := find_name_fault(channel, "channel"):
            raise PlanError(f"{source}/dataset.json: {fault}")
    network = _network_ids(content, source)
    return Plan(
        task_name=task_name,
        axcodes=_axes(plans, dataset, source),
        channel_names=channel_names,
        **read_labels(dataset, source / "dataset.json").ids(),
        spacing=[float(value) for value in content["spacing"]],
        patch_size=list(content["patch_size"]),
        batch_size=content.get("batch_size", 2),
        batch_dice=bool(content.get("batch_dice", False)),
        normalization=_normalization(content, source),
        intensity_statistics=_statistics(plans, content),
        cascade=bool(content.get("previous_stage")),
        **network,
    )


def _require_known_steps(content: Mapping[str, Any], source: Path) -> None:
    missing = {"spacing", "patch_size", "normalization_schemes"} - content.keys()
    if missing:
        raise PlanError(f"{source}/plans.json lacks {', '.join(sorted(missing))}.")
    preprocessor = content.get("preprocessor_name", "DefaultPreprocessor")
    if preprocessor != "DefaultPreprocessor":
        raise PlanError(
            f"{source}: the preprocessor is {preprocessor}. Only nnU-Net's DefaultPreprocessor can be imported."
        )
    for step, arguments in RESAMPLING.items():
        function = content.get(step, "resample_data_or_seg_to_shape")
        given = content.get(f"{step}_kwargs", arguments)
        if function != "resample_data_or_seg_to_shape" or dict(given) != arguments:
            raise PlanError(
                f"{source}: {step} is {function} with {dict(given)}. Only nnU-Net's default resampling can be imported."
            )


def _axes(plans: Mapping[str, Any], dataset: Mapping[str, Any], source: Path) -> str:
    reader = str(
        dataset.get("overwrite_image_reader_writer") or plans.get("image_reader_writer", "")
    )
    if reader not in AXES_BY_READER:
        raise PlanError(
            f'{source}: the images were read by "{reader}". Known readers are {", ".join(AXES_BY_READER)}.'
        )
    axes = AXES_BY_READER[reader]
    return "".join(axes[place] for place in plans.get("transpose_forward", (0, 1, 2)))


def _normalization(content: Mapping[str, Any], source: Path) -> list[str]:
    names: Sequence[str] = content["normalization_schemes"]
    masked = content.get("use_mask_for_norm") or [False] * len(names)
    unknown = [name for name in names if name not in NORMALIZATIONS]
    if unknown:
        raise PlanError(
            f'{source}: the normalization "{unknown[0]}" is not one of {", ".join(NORMALIZATIONS)}.'
        )
    found = [NORMALIZATIONS[name] for name in names]
    return [
        "zscore_nonzero" if scheme == "zscore" and mask else scheme
        for scheme, mask in zip(found, masked, strict=True)
    ]


def _statistics(
    plans: Mapping[str, Any], content: Mapping[str, Any]
) -> list[dict[str, float] | None]:
    old = plans.get("foreground_intensity_properties_by_modality", {})
    table = plans.get("foreground_intensity_properties_per_channel", old)
    found: list[dict[str, float] | None] = []
    for channel, name in enumerate(content["normalization_schemes"]):
        if name != "CTNormalization":
            found.append(None)
            continue
        facts = table.get(str(channel), {})
        keys = {
            "lower": "percentile_00_5",
            "upper": "percentile_99_5",
            "mean": "mean",
            "std": "std",
        }
        if not all(isinstance(facts.get(key), int | float) for key in keys.values()):
            raise PlanError(f"plans.json lacks the intensities of channel {channel}, a CT.")
        found.append({ours: float(facts[theirs]) for ours, theirs in keys.items()})
    return found


def _network_ids(content: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """The ids of the network."""
    old = "architecture" not in content
    kind, arguments = _old_network(content) if old else _declared_network(content)
    fault = _network_fault(kind, arguments)
    if fault:
        raise PlanError(
            f"{source}: {fault}. Such a network cannot be imported; "
            f"{' and '.join(ARCHITECTURES)} of nnU-Net's planners can."
        )
    dims = len(content["patch_size"])
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
        "norm_name": [name, {"affine": bool(options.get("affine", True)), **eps}],
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


def _network_fault(kind: str, arguments: Mapping[str, Any]) -> str | None:
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
    return _depth_fault(kind == "PlainConvUNet", levels, arguments)


def _depth_fault(is_plain: bool, levels: int, arguments: Mapping[str, Any]) -> str | None:
    expected = {
        "n_conv_per_stage" if is_plain else "n_blocks_per_stage": [CONVOLUTIONS] * levels
        if is_plain
        else list(_blocks(levels)),
        "n_conv_per_stage_decoder": [CONVOLUTIONS if is_plain else 1] * (levels - 1),
    }
    for key, numbers in expected.items():
        found = _per_axis(arguments.get(key) or numbers, len(numbers))
        if found != numbers:
            return f"{key} is {found}, not {numbers}"
    return None


def _blocks(levels: int) -> Sequence[int]:
    last = RESENC_BLOCKS[-1]
    return [*RESENC_BLOCKS, *[last] * levels][:levels]

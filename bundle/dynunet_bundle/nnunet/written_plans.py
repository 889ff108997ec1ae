"""A plan of this bundle as nnU-Net's plans.json and dataset.json.

Source of the keys: nnunetv2 2.8.1, ``plans_handler.py`` and ``label_handling.py``. A plan that nnU-Net would read in
another way is refused with the reason.
"""

from collections.abc import Iterable
from typing import Any

from dynunet_bundle.errors import PlanError
from dynunet_bundle.nnunet.network_plan import ARCHITECTURES, network_depths, padding_fault
from dynunet_bundle.nnunet.plans import AXES_BY_READER, NORMALIZATIONS
from dynunet_bundle.nnunet.plans_schema import RESAMPLING
from dynunet_bundle.planning.plan import Plan

CLASSES = "dynamic_network_architectures.architectures.unet."
IMPORTED = ("conv_op", "norm_op", "dropout_op", "nonlin")
"""Arguments of a network that nnU-Net imports by their path."""

STAGE = "3d_lowres"
"""Configuration of the previous stage of a cascade."""

NORMS = {
    "INSTANCE": "instancenorm.InstanceNorm",
    "INSTANCE_NVFUSER": "instancenorm.InstanceNorm",
    "BATCH": "batchnorm.BatchNorm",
    "SYNCBATCH": "batchnorm.BatchNorm",
}
"""torch's classes of the norms of MONAI that nnU-Net's networks can build; the last of two kinds predicts equally."""

SCHEMES = {ours: theirs for theirs, ours in NORMALIZATIONS.items()}
RESERVED = ("background", "ignore")
"""Names of labels with a meaning in nnU-Net."""

NIFTI = (".nii.gz", ".nii")
PICTURES = (".png", ".bmp")
TIFF = (".tif", ".tiff")
VOLUMES = (*NIFTI, ".nrrd", ".mha", ".gipl")
ENDINGS = (*VOLUMES, *PICTURES, *TIFF)
"""Endings of image files that nnU-Net's readers take."""


def reader_for(plan: Plan, ending: str) -> str:
    """nnU-Net's reader that gives arrays with the axes of a plan.

    Args:
        plan: the plan.
        ending: of the image files, one of ``ENDINGS``.

    Raises:
        PlanError: if nnU-Net does not have such a reader.
    """
    stored = plan.axcodes.islower()
    if ending in VOLUMES:
        kind = "NibabelIO" if ending in NIFTI and not (stored and ending == ".nii.gz") else ""
        reader = f"{kind or 'SimpleITKIO'}{'' if stored else 'WithReorient'}"
    elif ending not in ENDINGS:
        raise PlanError(f'nnU-Net does not read "{ending}". Choose one of {", ".join(ENDINGS)}.')
    else:
        reader = "Tiff3DIO" if ending in TIFF and plan.spatial_dims == 3 else "NaturalImage2DIO"
        if not stored:
            raise PlanError(
                f"the plan has the axes {plan.axcodes}, and nnU-Net reads {ending} with the axes as stored. Export for "
                "another --file_ending, and convert the images to it."
            )
    if sorted(AXES_BY_READER[reader]) != sorted(plan.axcodes):
        raise PlanError(
            f"the plan has the axes {plan.axcodes}. nnU-Net reads the directions S, A and R only, in any order."
        )
    return reader


def nnunet_plans(plan: Plan, configuration: str, reader: str) -> dict[str, Any]:
    """Content of plans.json with one configuration.

    Args:
        plan: the plan.
        configuration: its name in nnU-Net, e.g. ``3d_fullres``.
        reader: of ``reader_for``.

    Raises:
        PlanError: if nnU-Net cannot build the network.
    """
    axes = AXES_BY_READER[reader]
    forward = [axes.index(axis) for axis in plan.axcodes]
    masked = [scheme == "zscore_nonzero" for scheme in plan.normalization]
    content = {
        "data_identifier": f"nnUNetPlans_{configuration}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": plan.batch_size,
        "patch_size": plan.patch_size,
        "spacing": plan.spacing,
        "normalization_schemes": [
            SCHEMES[name.partition("_nonzero")[0]] for name in plan.normalization
        ],
        "use_mask_for_norm": masked,
        **{step: "resample_data_or_seg_to_shape" for step in RESAMPLING},
        **{f"{step}_kwargs": arguments for step, arguments in RESAMPLING.items()},
        "architecture": _architecture(plan),
        "batch_dice": plan.batch_dice,
        **({"previous_stage": STAGE} if plan.cascade else {}),
    }
    return {
        "dataset_name": plan.task_name,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": reader,
        "transpose_forward": forward,
        "transpose_backward": [forward.index(axis) for axis in range(len(forward))],
        "label_manager": "LabelManager",
        "configurations": {configuration: content},
        "foreground_intensity_properties_per_channel": {
            str(channel): _intensities(facts)
            for channel, facts in enumerate(plan.intensity_statistics)
        },
    }


def _intensities(facts: dict[str, float] | None) -> dict[str, float]:
    names = {"lower": "percentile_00_5", "upper": "percentile_99_5", "mean": "mean", "std": "std"}
    return {theirs: facts[ours] for ours, theirs in names.items()} if facts else {}


def _architecture(plan: Plan) -> dict[str, Any]:
    dims, levels = plan.spatial_dims, len(plan.strides)
    kernels, strides = (
        [[value] * dims if isinstance(value, int) else list(value) for value in values]
        for values in (plan.kernel_sizes, plan.strides)
    )
    kind = "PlainConvUNet" if plan.architecture == "DynUNet" else plan.architecture
    if kind not in ARCHITECTURES:
        raise PlanError(f"the network is {kind}, which nnU-Net does not have.")
    if plan.architecture == "DynUNet" and any(kernel != kernels[0] for kernel in kernels):
        raise PlanError(
            "the network is a DynUNet whose kernels differ by level: its decoder has the kernels of the level below, "
            "nnU-Net's those of its own. Train with the architecture PlainConvUNet, which new plans have."
        )
    if fault := padding_fault(kind, kernels, strides):
        raise PlanError(f"{fault}. nnU-Net would compute something else.")
    norm, options = _norm(plan)
    return {
        "network_class_name": CLASSES + kind,
        "arch_kwargs": {
            "n_stages": levels,
            "features_per_stage": plan.filters[:levels],
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": kernels,
            "strides": strides,
            **network_depths(kind, levels),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.{norm}{dims}d",
            "norm_op_kwargs": options,
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True, "negative_slope": plan.negative_slope},
        },
        "_kw_requires_import": list(IMPORTED),
    }


def _norm(plan: Plan) -> tuple[str, dict[str, Any]]:
    """Class of the norm in torch, and its arguments."""
    name, options = (
        (plan.norm_name, {}) if isinstance(plan.norm_name, str) else (*plan.norm_name, {})[:2]
    )
    if str(name).upper() not in NORMS:
        raise PlanError(
            f'the norm is "{name}". nnU-Net\'s networks have instance norm or batch norm.'
        )
    return NORMS[str(name).upper()], dict(options)


def nnunet_dataset(plan: Plan, ending: str, num_training: int) -> dict[str, Any]:
    """Content of dataset.json, without cases.

    Args:
        plan: the plan.
        ending: of the image files.
        num_training: number of training cases; 0 if unknown.

    Raises:
        PlanError: if nnU-Net would write other values into its masks.
    """
    content: dict[str, Any] = {
        "channel_names": {str(place): name for place, name in enumerate(plan.channel_names)},
        "labels": {"background": 0},
        "numTraining": num_training,
        "file_ending": ending,
    }
    values = plan.label_values
    if plan.regions is None:
        if values != list(range(len(values))):
            raise PlanError(
                f"the label values are {values}. nnU-Net's masks would have 0, 1, 2, ..., without gaps."
            )
        names = _distinct(plan.label_names[1:])
        content["labels"] |= dict(zip(names, values[1:], strict=True))
    else:
        used = {value for region in plan.regions.values() for value in region}
        if plan.cascade and used != set(values[1:]):
            raise PlanError("in nnU-Net's cascade, each label value must be in a region.")
        # nnU-Net takes labels for regions if one has two entries; a value given twice counts once
        parts = [list(region) * (2 if len(region) == 1 else 1) for region in plan.regions.values()]
        content["labels"] |= dict(zip(_distinct(plan.regions), parts, strict=True))
        content["regions_class_order"] = plan.regions_class_order
        values = [0, *sorted(used)]
    if plan.ignore_value is not None:
        # nnU-Net requires the value after the last; a prediction never has it
        content["labels"]["ignore"] = values[-1] + 1
    return content


def _distinct(names: Iterable[str]) -> list[str]:
    """Names that differ from each other and from ``RESERVED``, as the keys of ``labels`` must."""
    found: list[str] = []
    for name in names:
        number, own = 1, name
        while own in (*RESERVED, *found):
            number += 1
            own = f"{name} {number}"
        found.append(own)
    return found

"""nnU-Net's plans.json and dataset.json as a plan of this bundle.

A kind of model whose masks would differ is refused with the reason. Source: nnunetv2 2.8.1, ``plans_handler.py``,
``default_experiment_planner.py`` and ``imageio``; for plans before 2.3, ``plans_handler.py`` of its version 2.2.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import PlanError
from dynunet_bundle.labels.dataset_json import read_labels
from dynunet_bundle.labels.faults import find_name_fault
from dynunet_bundle.nnunet.network_plan import network_ids
from dynunet_bundle.nnunet.plans_schema import RESAMPLING, STATISTICS
from dynunet_bundle.planning.plan import Plan
from dynunet_bundle.preprocessing.axes import STORED

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
    network = network_ids(content, source)
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
    # nnU-Net predicts with the reader of the plans; that of dataset.json served to plan
    reader = str(
        plans.get("image_reader_writer") or dataset.get("overwrite_image_reader_writer", "")
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
    if len(masked) != len(names):
        raise PlanError(
            f"{source}/plans.json has {len(names)} normalization_schemes, but {len(masked)} use_mask_for_norm."
        )
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
        if not set(STATISTICS.values()) <= facts.keys():
            raise PlanError(f"plans.json lacks the intensities of channel {channel}, a CT.")
        found.append({ours: float(facts[theirs]) for ours, theirs in STATISTICS.items()})
    return found

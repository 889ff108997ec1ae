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
from dynunet_bundle.nnunet.network_plan import network_ids
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

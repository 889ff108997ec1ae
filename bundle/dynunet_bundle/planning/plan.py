"""The plan: the flat, literal ids with which a config file describes one task.

The command ``plan`` writes a plan as a task overlay; train.json and inference.json hold its defaults (evaluate.json is
read on top of train.json). Every list of lengths or sizes is in the order of the array axes that ``axcodes`` names
("SAR" = (z, y, x)); the coarsest axis comes first.

Stored on disk: ``PLAN_IDS``, in task overlays, checkpoints and model.json.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from dynunet_bundle.errors import PlanError
from dynunet_bundle.shapes import TEXT, Schema, by_name, excerpt, list_of, object_with


@dataclass(frozen=True)
class Plan:
    """One task in one dimension.

    Attributes:
        task_name: name of the data set, e.g. ``Task04_Hippocampus``.
        spatial_dims: 3, or 2 for a network that works slice by slice along the first array axis.
        axcodes: orientation of the array axes, for ``ArrayAxesd``; lower-case letters are axes as the file stores them.
        channel_names: one name per channel.
        label_names: one name per class; index 0 is the background.
        label_values: value of each class in label files, ascending from 0.
        spacing: target spacing in mm, ``spatial_dims`` values; a 2D plan does not resample the first array axis.
        patch_size: voxels of a patch, ``spatial_dims`` values.
        batch_size: patches per training step and device.
        batch_dice: whether Dice is computed over the batch instead of each patch.
        architecture: name of the network, ``DynUNet``, ``PlainConvUNet`` (the same with nnU-Net's decoder for kernels
            that differ by level) or ``ResidualEncoderUNet``; all take the ids below.
        kernel_sizes: convolution kernel of each level, top to bottom.
        strides: stride into each level; the first is all ones.
        filters: channels of each level.
        normalization: one scheme per channel, see ``NormalizeChannelsd``.
        intensity_statistics: per channel None, or ``lower``, ``upper``, ``mean``, ``std`` of a CT's foreground.
        norm_name: the network's normalization layer in the format of MONAI's layer factories; ``""`` for no layer.
        negative_slope: slope of the leaky ReLU below zero.
        ignore_value: value of unlabelled voxels in label files, or None.
        regions: label values of each region by its name, or None. With regions, the network has one sigmoid output
            per region, and regions may overlap.
        regions_class_order: value written into the mask for each region; later regions overwrite earlier ones.
        cascade: whether the network also gets the mask of a previous stage, one channel per foreground class.
    """

    task_name: str
    spatial_dims: int
    axcodes: str
    channel_names: list[str]
    label_names: list[str]
    label_values: list[int]
    spacing: list[float]
    patch_size: list[int]
    batch_size: int
    batch_dice: bool
    architecture: str
    kernel_sizes: list[list[int]]
    strides: list[list[int]]
    filters: list[int]
    normalization: list[str]
    intensity_statistics: list[dict[str, float] | None]
    norm_name: list[Any] | str = field(default_factory=lambda: ["INSTANCE", {"affine": True}])
    negative_slope: float = 0.01
    ignore_value: int | None = None
    regions: dict[str, list[int]] | None = None
    regions_class_order: list[int] | None = None
    cascade: bool = False

    def overlay(self) -> dict[str, Any]:
        """The plan as the content of a task overlay: JSON data, top-level ids only."""
        return asdict(self)


PLAN_IDS = tuple(item.name for item in fields(Plan))

VALUE: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
"""Schema of the value of a class in label files, which are read as int32."""

SIZES = list_of({"type": "integer", "minimum": 1, "maximum": 2**15 - 1}, minItems=2, maxItems=3)
"""Schema of voxels by axis; the prepared store has positions in int16."""

LEVELS = list_of(
    {
        "type": ["integer", "array"],
        "minimum": 1,
        "maximum": 64,
        "items": {"type": "integer", "minimum": 1, "maximum": 64},
    },
    minItems=1,
    maxItems=16,
    description="a list with one entry per level: whole numbers by axis, or one for all axes",
)
"""Schema of kernels or strides, one per level."""

FILTERS = list_of({"type": "integer", "minimum": 1, "maximum": 2**14}, minItems=1)
"""Schema of channels, one number per level."""

BATCH_SIZE: Schema = {"type": "integer", "minimum": 1, "maximum": 2**16}
SPACING = list_of({"type": "number", "exclusiveMinimum": 0}, minItems=2, maxItems=3)

INTENSITIES = {
    **object_with(
        {name: {"type": "number"} for name in ("lower", "upper", "mean")}
        | {"std": {"type": "number", "minimum": 0}},
        ("lower", "upper", "mean", "std"),
    ),
    "type": ["object", "null"],
}

PLAN_SCHEMA = object_with(
    {
        "task_name": TEXT,
        "spatial_dims": {"enum": [2, 3]},
        "axcodes": {
            "type": "string",
            "pattern": "^([RLAPSI]{3}|[xyz]{3})$",
            "description": "the orientation of three axes, such as SAR, or stored axes, such as zyx",
        },
        "channel_names": list_of(TEXT, minItems=1),
        "label_names": list_of(TEXT, minItems=1),
        "label_values": list_of(VALUE, minItems=1),
        "spacing": SPACING,
        "patch_size": SIZES,
        "batch_size": BATCH_SIZE,
        "batch_dice": {"type": "boolean"},
        "architecture": TEXT,
        "kernel_sizes": LEVELS,
        "strides": LEVELS,
        "filters": FILTERS,
        "normalization": list_of(TEXT, minItems=1),
        "intensity_statistics": list_of(INTENSITIES),
        "norm_name": {"type": ["string", "array"], "minItems": 1},
        "negative_slope": {"type": "number"},
        "ignore_value": {**VALUE, "type": ["integer", "null"]},
        "regions": {**by_name(list_of(VALUE, minItems=1)), "type": ["object", "null"]},
        "regions_class_order": {**list_of(VALUE), "type": ["array", "null"]},
        "cascade": {"type": "boolean"},
    }
)
"""Schema of the plan ids. Overlays and plans of earlier versions may have only some of them. Whether ids fit each other
is checked by the code that uses them."""

DEFAULTS = {
    item.name: item.default if item.default_factory is MISSING else item.default_factory()
    for item in fields(Plan)
}


def plan_from(config: Mapping[str, Any]) -> Plan:
    """Pick the plan's ids out of a config.

    Raises:
        PlanError: if an id without a default is missing.
    """
    missing = [name for name in PLAN_IDS if name not in config and DEFAULTS[name] is MISSING]
    if missing:
        raise PlanError(
            f"the config lacks ids of a plan: {', '.join(missing)}. Pass an overlay of dynunet-bundle plan."
        )
    return Plan(**{name: config[name] for name in PLAN_IDS if name in config})


def find_old_architecture(plan: Mapping[str, Any]) -> str | None:
    """What to change in a plan that names its network by import path, as earlier versions did; else None."""
    path = plan.get("architecture")
    if not isinstance(path, str) or not path.startswith("dynunet_bundle."):
        return None
    name = path.rpartition(".")[2]
    return f'architecture is "{path}", an import path. Change the line to "architecture": "{name}".'


def plan_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Ids in which two plans differ, each as ``"id: ours against theirs"``.

    The task's name and the batch do not count: a model works the same without them. An id that is missing, as in plans
    of earlier versions, has its default.
    """
    pairs = {
        name: (ours.get(name, DEFAULTS[name]), theirs.get(name, DEFAULTS[name]))
        for name in PLAN_IDS
        if name not in ("task_name", "batch_size", "batch_dice")
    }
    return [
        f"{name}: {_shown(one)} against {_shown(other)}"
        for name, (one, other) in pairs.items()
        if _ordered(one) != _ordered(other)
    ]


def _ordered(value: Any) -> Any:
    """A mapping as a list of its items, since the order of regions is that of the network's outputs."""
    return list(value.items()) if isinstance(value, Mapping) else value


def _shown(value: Any) -> Any:
    return None if value is MISSING else excerpt(str(value))

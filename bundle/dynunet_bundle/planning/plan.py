"""The plan: the flat, literal ids by which every config file describes one task.

A plan is what ``scripts/plan.py`` writes as a task overlay, and what train.json and inference.json hold as defaults
(evaluate.json is read on top of train.json and has none). Every list of lengths or sizes is in the order of the array
axes that ``axcodes`` names ("SAR" = (z, y, x)); the coarsest axis comes first.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from dynunet_bundle.errors import PlanError


@dataclass(frozen=True)
class Plan:
    """One task in one dimension.

    Attributes:
        task_name: name of the data set, e.g. ``Task04_Hippocampus``.
        spatial_dims: 3, or 2 for a network that works slice by slice along the first array axis.
        axcodes: orientation of the array axes, for ``Orientationd``.
        channel_names: one name a channel.
        label_names: one name a class; index 0 is the background.
        label_values: value of each class in the files of labels, ascending from 0.
        spacing: target spacing in mm, ``spatial_dims`` values; a 2D plan leaves the first array axis as it is.
        patch_size: voxels a patch, ``spatial_dims`` values.
        batch_size: patches a training step on one device.
        batch_dice: whether Dice is taken over the batch instead of each patch.
        architecture: name of the network, ``DynUNet`` or ``ResidualEncoderUNet``; both take the ids below.
        kernel_sizes: convolution kernel of each level, top to bottom.
        strides: stride into each level; the first is all ones.
        filters: channels of each level.
        normalization: one scheme a channel, see ``NormalizeChannelsd``.
        intensity_statistics: for each channel None, or ``lower``, ``upper``, ``mean``, ``std`` of a CT's foreground.
        norm_name: norm of the network, in the terms of MONAI's layer factories; ``""`` for none.
        negative_slope: slope of the leaky ReLU below zero.
        ignore_value: value in the files of labels of voxels that nobody labelled, or None.
        regions: None, or by the name of each region the values that make it up, each a list; the network then has one
            sigmoid output a region, and regions may overlap.
        regions_class_order: the value that a mask gets where a region is found, one a region; later ones win.
        cascade: whether the network gets the mask of a previous stage, too, one channel a foreground class.
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
        """The plan as the content of a task overlay: top-level ids and literals only."""
        return asdict(self)


PLAN_IDS = tuple(item.name for item in fields(Plan))
DEFAULTS = {
    item.name: item.default if item.default_factory is MISSING else item.default_factory()
    for item in fields(Plan)
}


def plan_from(config: Mapping[str, Any]) -> Plan:
    """Pick the plan out of a config that may hold more.

    Raises:
        PlanError: if an id is missing that has no default.
    """
    missing = [name for name in PLAN_IDS if name not in config and DEFAULTS[name] is MISSING]
    if missing:
        raise PlanError(f"the config lacks the plan id(s) {', '.join(missing)}.")
    return Plan(**{name: config[name] for name in PLAN_IDS if name in config})


def find_old_architecture(plan: Mapping[str, Any]) -> str | None:
    """What to change in a plan that names its network by an import path, as earlier versions did; else None."""
    path = plan.get("architecture")
    if not isinstance(path, str) or not path.startswith("dynunet_bundle."):
        return None
    name = path.rpartition(".")[2]
    return f'architecture is "{path}", an import path. Change the line to "architecture": "{name}".'


def plan_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Ids in which two plans differ, each as ``"id: ours against theirs"``.

    The task's name and the batch do not count: they do not decide what a model means. A plan that was saved before an
    id was known has its default.
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
    """Regions in another order are other outputs of the network."""
    return list(value.items()) if isinstance(value, Mapping) else value


def _shown(value: Any) -> Any:
    return None if value is MISSING else value

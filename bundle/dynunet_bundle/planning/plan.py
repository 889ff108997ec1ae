"""The plan: the flat, literal ids by which every config file describes one task.

A plan is what ``scripts/plan.py`` writes as a task overlay, and what train.json, evaluate.json and inference.json
hold as defaults. Every list of lengths or sizes is in the order of the array axes that ``axcodes`` names
("SAR" = (z, y, x)); the coarsest axis comes first.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
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
        architecture: class of the network, ``DynUNet`` or the path of ``ResidualEncoderUNet``; both take the ids below.
        kernel_sizes: convolution kernel of each level, top to bottom.
        strides: stride into each level; the first is all ones.
        filters: channels of each level.
        normalization: one scheme a channel, see ``NormalizeChannelsd``.
        intensity_statistics: for each channel None, or ``lower``, ``upper``, ``mean``, ``std`` of a CT's foreground.
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

    def overlay(self) -> dict[str, Any]:
        """The plan as the content of a task overlay: top-level ids and literals only."""
        return asdict(self)


PLAN_IDS = tuple(field.name for field in fields(Plan))


def plan_from(config: Mapping[str, Any]) -> Plan:
    """Pick the plan out of a config that may hold more.

    Raises:
        PlanError: if an id is missing.
    """
    missing = [name for name in PLAN_IDS if name not in config]
    if missing:
        raise PlanError(f"the config lacks the plan id(s) {', '.join(missing)}.")
    return Plan(**{name: config[name] for name in PLAN_IDS})


def plan_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Ids in which two plans differ, each as ``"id: ours against theirs"``.

    The task's name and the batch do not count: they do not decide what a model means.
    """
    return [
        f"{name}: {ours.get(name)} against {theirs.get(name)}"
        for name in PLAN_IDS
        if name not in ("task_name", "batch_size", "batch_dice")
        and ours.get(name) != theirs.get(name)
    ]

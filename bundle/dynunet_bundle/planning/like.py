"""A new data set with the plan of a trained model, so that fine-tuning continues with its network and preprocessing.

nnU-Net does so with ``nnUNetv2_move_plans_between_datasets`` (nnunetv2 2.8.1): patch, spacing, network, normalization
and the intensities of the source are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.errors import PlanError, counted
from dynunet_bundle.planning.plan import Plan, plan_from


@dataclass(frozen=True)
class SourceModel:
    """A trained model whose plan is kept.

    Attributes:
        path: of the model, as the user gave it.
        plan: the plan ids.
        mirror_axes: axes of the patch that its training mirrored over; None if unknown.
    """

    path: str
    plan: Mapping[str, Any]
    mirror_axes: list[int] | None = None


def plan_like(dataset: DatasetDescription, source: SourceModel) -> Plan:
    """The plan of a model with the name, the channels and the labels of a data set.

    Channels of the same names keep their own normalization, in whatever order; others are matched by their order.

    Args:
        dataset: the new data set.
        source: the model.

    Raises:
        PlanError: if the model does not say its plan, or has another number of channels.
    """
    if not source.plan:
        raise PlanError(
            f"{source.path} does not say its plan: it lacks model.json beside the weights. Plan without --like."
        )
    plan = plan_from(source.plan)
    ours, theirs = list(dataset.channel_names), plan.channel_names
    if len(ours) != len(theirs):
        raise PlanError(
            f"{dataset.name} has {counted(len(ours), 'channel')} ({', '.join(ours)}), {source.path} has {len(theirs)} "
            f"({', '.join(theirs)}), each with its normalization. Pass data with the channels of the model, or plan "
            "without --like; a training takes the weights of channels of the same names."
        )
    is_reordered = sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours)
    order = [theirs.index(name) for name in ours] if is_reordered else range(len(ours))
    return replace(
        plan,
        task_name=dataset.name,
        channel_names=ours,
        normalization=[plan.normalization[place] for place in order],
        intensity_statistics=[plan.intensity_statistics[place] for place in order],
        **dataset.labels.ids(),
    )

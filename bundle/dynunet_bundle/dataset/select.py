"""A data set on disk -> the cases that a config trains, validates or predicts on."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.cases import Case, apply_to_case, find_images, name_of
from dynunet_bundle.dataset.folds import SPLIT_SEED, default_folds, read_folds
from dynunet_bundle.dataset.layouts import DatasetDescription, read_layout
from dynunet_bundle.dataset.previous_stage import with_previous
from dynunet_bundle.errors import DatasetError, PlanError
from dynunet_bundle.labels.scheme import require_label_plan

logger = logging.getLogger(__name__)

__all__ = [
    "Case",
    "DatasetDescription",
    "apply_to_case",
    "find_images",
    "load_dataset",
    "names_for",
    "select_cases",
]


def load_dataset(dataset_dir: str | os.PathLike[str]) -> DatasetDescription:
    """Read what a folder says of its data set.

    Args:
        dataset_dir: folder in the layout of the Medical Segmentation Decathlon or of nnU-Net, or with two folders
            ``images`` and ``labels``.

    Returns:
        The data set, with absolute paths.

    Raises:
        DatasetError: if the layout is unknown or malformed, or files that it lists are missing.
    """
    return read_layout(Path(dataset_dir).resolve())


def names_for(name: str, facts: Mapping[str, Any]) -> DatasetDescription:
    """A data set without cases, to plan from saved facts: names where they were saved, else numbers.

    Args:
        name: name of the data set.
        facts: a saved fingerprint; ours has ``channel_names``, ``label_names``, ``label_values`` and, where there are
            such, ``ignore_value``, ``regions`` and ``regions_class_order``; nnU-Net's facts have ``modality``,
            ``num_channels`` and ``num_classes_with_background``.

    Raises:
        PlanError: if the facts tell neither names nor numbers, or their regions do not fit the labels.
    """
    try:
        channels = facts.get("channel_names") or [str(facts["modality"])] * int(
            facts["num_channels"]
        )
        labels = facts.get("label_names") or [
            "background",
            *(f"class_{value}" for value in range(1, int(facts["num_classes_with_background"]))),
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise PlanError(f"the fingerprint tells no channels or labels ({error!r}).") from error
    order = facts.get("regions_class_order")
    dataset = DatasetDescription(
        name,
        tuple(channels),
        tuple(labels),
        (),
        (),
        tuple(facts.get("label_values") or ()),
        facts.get("ignore_value"),
        facts.get("regions"),
        None if order is None else tuple(order),
    )
    require_label_plan(dataset.label_values, dataset.ignore_value, dataset.regions, order)
    return dataset


def select_cases(
    dataset_dir: str,
    part: str,
    channel_names: Sequence[str],
    label_names: Sequence[str],
    label_values: Sequence[int] | None = None,
    fold: int | str = 0,
    num_folds: int = 5,
    seed: int = SPLIT_SEED,
    splits_file: str | None = None,
    previous_dir: str | None = None,
    cascade: bool = False,
) -> list[Case]:
    """Raw cases of one part of a data set, for ``train#dataset#data`` and ``validate#dataset#data``.

    Args:
        dataset_dir: folder of the data set, see ``load_dataset``.
        part: ``"training"`` or ``"validation"`` of the fold.
        channel_names: the plan's channels, to catch a plan that belongs to another data set.
        label_names: the plan's labels, likewise.
        label_values: the plan's values of the labels in the files, likewise; 0, 1, 2, ... where None.
        fold: index of the validation fold; ``"all"`` trains on every case and validates on the same ones.
        num_folds: number of folds, where no file gives them.
        seed: seed of the split, likewise.
        splits_file: JSON with the folds; where it exists it decides.
        previous_dir: folder of the masks of the previous stage, for a cascade.
        cascade: whether the plan is one, see ``with_previous``.

    Returns:
        ``[{"image": path, "label": path}, ...]``, in a cascade with the mask of the previous stage as ``previous``.

    Raises:
        DatasetError: if the data set or the file of folds is malformed, the fold does not exist, or a case has no mask
            of the previous stage.
        PlanError: if the plan's channels or labels are not the data set's.
        ConfigError: if there is no folder of such masks, or it is given to a plan that is no cascade.
    """
    dataset = load_dataset(dataset_dir)
    _require_own_plan(dataset, dataset_dir, channel_names, label_names, label_values)
    cases = _part_of(dataset, part, fold, num_folds, seed, splits_file)
    return with_previous(cases, previous_dir, cascade)


def _part_of(
    dataset: DatasetDescription,
    part: str,
    fold: int | str,
    num_folds: int,
    seed: int,
    splits_file: str | None,
) -> list[Case]:
    if part not in ("training", "validation"):
        raise DatasetError(f'part must be "training" or "validation", not "{part}".')
    if fold == "all":
        return list(dataset.training)
    by_name = {name_of(case): case for case in dataset.training}
    if splits_file and Path(splits_file).is_file():
        folds = read_folds(Path(splits_file), list(by_name))
        if len(folds) != num_folds:
            logger.warning("%s has %d folds; num_folds is not used", splits_file, len(folds))
        source = f"{splits_file} has {len(folds)} fold(s)"
    else:
        folds = default_folds(list(by_name), num_folds, seed)
        source = f"there are {num_folds} folds"
    if not isinstance(fold, int) or not 0 <= fold < len(folds):
        raise DatasetError(
            f"there is no fold {fold}: {source}. Pass a --fold from 0 to {len(folds) - 1}, or all."
        )
    names = folds[fold]["val" if part == "validation" else "train"]
    return [by_name[name] for name in sorted(names)]


def _require_own_plan(
    dataset: DatasetDescription,
    dataset_dir: str,
    channel_names: Sequence[str],
    label_names: Sequence[str],
    label_values: Sequence[int] | None,
) -> None:
    values = range(len(label_names)) if label_values is None else label_values
    for what, planned, found in (
        ("channels", tuple(channel_names), dataset.channel_names),
        ("labels", tuple(label_names), dataset.label_names),
        ("label values", tuple(values), dataset.label_values),
    ):
        # plain folders name nothing; then the plan's names count, and the values are checked case by case
        if found and planned != found:
            raise PlanError(
                f"the plan's {what} are {list(planned)}, those of {dataset.name} are {list(found)}. "
                f"Run scripts/plan.py --dataset_dir {dataset_dir} and pass its overlay as second config file."
            )

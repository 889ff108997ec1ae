"""From a data set on disk to the cases on which a config trains, validates or predicts."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.cases import Case, absolute, name_of
from dynunet_bundle.dataset.default_task import other_sizes, plan_line, require_names
from dynunet_bundle.dataset.folds import (
    SPLIT_SEED,
    cases_of_splits,
    find_folds,
    find_splits,
    folds_source,
    told_fold,
)
from dynunet_bundle.dataset.image_folder import find_images
from dynunet_bundle.dataset.layouts import DatasetDescription, read_layout, task_name
from dynunet_bundle.dataset.previous_stage import with_previous
from dynunet_bundle.errors import DatasetError, PlanError, counted, some_of
from dynunet_bundle.labels.scheme import LabelScheme

logger = logging.getLogger(__name__)

__all__ = [
    "Case",
    "DatasetDescription",
    "FoldCases",
    "find_images",
    "load_dataset",
    "names_for",
]


def load_dataset(dataset_dir: str | os.PathLike[str]) -> DatasetDescription:
    """Read the description of a data set.

    Args:
        dataset_dir: folder in the layout of the Medical Segmentation Decathlon or of nnU-Net, or with two folders
            ``images`` and ``labels``.

    Returns:
        The data set, with absolute paths.

    Raises:
        DatasetError: if the layout is unknown or malformed.
        CaseError: if listed files are missing.
    """
    return read_layout(absolute(dataset_dir))


def names_for(name: str, facts: Mapping[str, Any]) -> DatasetDescription:
    """A data set without cases, to plan from saved facts; names that were not saved are numbered.

    Args:
        name: name of the data set.
        facts: a saved fingerprint. Ours has ``channel_names``, ``label_names``, ``label_values`` and optionally
            ``ignore_value``, ``regions`` and ``regions_class_order``; nnU-Net's has ``modality``, ``num_channels`` and
            ``num_classes_with_background``.

    Raises:
        PlanError: if the facts have neither names nor numbers, or their regions do not fit the labels.
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
        raise PlanError(f"the fingerprint has no channels or labels ({error!r}).") from error
    scheme = LabelScheme.from_plan({**facts, "label_names": labels})
    return DatasetDescription(task_name(Path(name)), tuple(channels), scheme, (), ())


@dataclass(frozen=True)
class FoldCases:
    """Raw cases of a data set, split by fold: ``cases`` of train.json.

    The folder is read on access to ``training`` or ``validation``, so a client that replaces both needs no folder.

    Attributes:
        dataset_dir: folder of the data set, see ``load_dataset``.
        channel_names: the plan's channels, which must be those of the data set.
        labels: the plan's labels, which must be those of the data set.
        fold: index of the validation fold; ``"all"`` trains and validates on all cases.
        num_folds: number of folds if there is no splits file.
        seed: seed of the split if there is no splits file.
        splits_file: JSON with the folds; used if it exists.
        previous_dir: folder of the masks of the previous stage, for a cascade.
        cascade: whether the plan is a cascade, see ``with_previous``.
        plan: ids of the plan; the default one is refused for data that it may not fit.
    """

    dataset_dir: str
    channel_names: Sequence[str]
    labels: LabelScheme
    fold: int | str = 0
    num_folds: int = 5
    seed: int = SPLIT_SEED
    splits_file: str | None = None
    previous_dir: str | None = None
    cascade: bool = False
    plan: Mapping[str, Any] | None = None

    @property
    def training(self) -> list[Case]:
        """Cases to train on.

        Returns:
            ``[{"image": path, "label": path}, ...]``; a cascade also has the mask of the previous stage, ``previous``.

        Raises:
            DatasetError: if the data set or the splits file is malformed, or the fold does not exist.
            CaseError: if files are missing, or a case of a cascade has no mask of the previous stage.
            PlanError: if the plan's channels or labels are not those of the data set.
            ConfigError: if a cascade has no folder of such masks, or another plan has one.
        """
        return self._part("train")

    @property
    def validation(self) -> list[Case]:
        """Cases to validate on, in the form of ``training`` and with the same errors."""
        return self._part("val")

    @property
    def source(self) -> str:
        """Where the folds come from: the path of the file, the draw, or every case."""
        if self.fold == "all":
            return "all cases"
        return folds_source(self.splits_file, self.num_folds, self.seed)

    def _part(self, part: str) -> list[Case]:
        dataset = load_dataset(self.dataset_dir)
        self.require_own_plan(dataset)
        cases = self._cases(dataset, part)
        told = f"; folds: {self.source}" if part == "train" else ""
        number = counted(len(cases), "case")
        logger.info("fold %s, %s: %s%s", told_fold(self.fold), part, number, told)
        return with_previous(cases, self.previous_dir, self.cascade)

    def _cases(self, dataset: DatasetDescription, part: str) -> list[Case]:
        if self.fold == "all":
            return list(dataset.training)
        by_name = {name_of(case): case for case in dataset.training}
        folds = find_folds(list(by_name), self.splits_file, self.num_folds, self.seed)
        if not isinstance(self.fold, int) or not 0 <= self.fold < len(folds):
            path = find_splits(self.splits_file)
            found = (
                f"the data set has {counted(len(folds), 'fold')}"
                if path is None
                else f"{path} has {counted(len(folds), 'fold')}"
            )
            raise DatasetError(
                f"there is no fold {self.fold}: {found}. "
                f"Pass a --fold from 0 to {len(folds) - 1}, or all."
            )
        return [by_name[name] for name in sorted(folds[self.fold][part])]

    def require_own_plan(self, dataset: DatasetDescription) -> None:
        """Refuse a plan that was made for other data.

        Args:
            dataset: the data set.

        Raises:
            PlanError: with the command that plans the data.
        """
        require_names(dataset, self.dataset_dir, self.plan)
        self._require_own_folds(dataset)
        for what, planned, found in (
            ("channels", tuple(self.channel_names), dataset.channel_names),
            ("labels", self.labels.names, dataset.labels.names),
            ("label values", self.labels.values, dataset.labels.values),
        ):
            # plain folders have no names; then the plan's names are used, and the values are checked case by case
            if found and planned != found:
                raise PlanError(
                    f"the plan's {what} are {list(planned)}, those of {dataset.name} are {list(found)}. "
                    f"{plan_line(self.dataset_dir)}"
                )
        if dataset.name != (self.plan or {}).get("task_name"):
            doubt = other_sizes(dataset.training, self.plan)
            if doubt:
                logger.warning("%s %s", doubt, plan_line(self.dataset_dir))

    def _require_own_folds(self, dataset: DatasetDescription) -> None:
        """Refuse the overlay of another data set by its name and its folds, which are right for that data set."""
        planned, path = (self.plan or {}).get("task_name"), find_splits(self.splits_file)
        if path is None or planned in (None, dataset.name):
            return
        unknown = cases_of_splits(path) - {name_of(case) for case in dataset.training}
        if unknown:
            raise PlanError(
                f"the overlay is of {planned}, and the data set is {dataset.name}: the folds of {planned} have "
                f"{counted(len(unknown), 'case')} outside {dataset.name}, {some_of(sorted(unknown))}. "
                f"{plan_line(self.dataset_dir)} If {planned} is another name of {dataset.name}, correct {path}."
            )

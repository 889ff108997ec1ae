"""Read the cross-validations of several plans on one data set, as written by ``dynunet-bundle train``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynunet_bundle.cross_validation.results import ResultFolder, require_same, split_difference
from dynunet_bundle.cross_validation.summary import summarize_folds
from dynunet_bundle.dataset.cases import absolute, list_images
from dynunet_bundle.errors import BundleError, ConfigError, some_of
from dynunet_bundle.files import case_name
from dynunet_bundle.inference.probabilities import (
    ProbabilityFile,
    label_differences,
    read_probabilities,
)
from dynunet_bundle.labels.scheme import LABEL_IDS, LabelScheme

PROBABILITIES_DIR = "probabilities"
SAME_IDS = ("task_name", *LABEL_IDS)


@dataclass(frozen=True)
class RunResults:
    """Results of the cross-validation of one run.

    Attributes:
        name: name of its folder.
        path: the folder.
        plan: the plan of its models.
        held_out: names of the held-out cases of each fold.
        scores: Dice by class or region of each case, as recorded by the run.
        masks: the out-of-fold mask of each case.
        probabilities: the out-of-fold probabilities of each case; None if the run cannot be in an ensemble.
        lacking: why it cannot be in an ensemble; None if it can.
    """

    name: str
    path: Path
    plan: Mapping[str, Any]
    held_out: Sequence[Sequence[str]]
    scores: Mapping[str, Sequence[float | None]]
    masks: Mapping[str, Path]
    probabilities: Mapping[str, ProbabilityFile] | None
    lacking: str | None

    @property
    def weights(self) -> list[Path]:
        """The existing models of all folds."""
        models = (self.path / f"fold_{fold}" / "models" / "model.pt" for fold in self._folds)
        return [model for model in models if model.is_file()]

    @property
    def first_cases(self) -> list[str]:
        """One held-out case per fold, for checks of its model."""
        return [min(names) for names in self.held_out if names]

    @property
    def _folds(self) -> range:
        return range(len(self.held_out))


def read_runs(paths: Sequence[Path]) -> list[RunResults]:
    """Read runs that can be compared.

    Args:
        paths: run folders, the ``--output_dir`` of ``dynunet-bundle train``.

    Raises:
        ConfigError: if a run is not finished, if two runs differ in data set, labels or split, or have the same name.
    """
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    double = next((name for name in names if names.count(name) > 1), None)
    if double:
        raise ConfigError(f'two runs are called "{double}". Give their folders different names.')
    for run in runs[1:]:
        _require_same_data(runs[0], run)
    return runs


def read_run(path: Path) -> RunResults:
    """Read one run.

    Raises:
        ConfigError: if folds or masks are missing, or the folds have different plans or splits.
    """
    folder = ResultFolder(path / "cross_validation")
    records = folder.records() if folder.path.is_dir() else {}
    if not records:
        raise ConfigError(
            f"{path} holds no cross-validation. Pass --runs with the --output_dir of dynunet-bundle train."
        )
    first = next(iter(records.values()))
    require_same(records, first["plan"], first["held_out"], folder.path)
    summary = summarize_folds(records)
    if summary["missing_folds"]:
        missing = ", ".join(map(str, summary["missing_folds"]))
        raise ConfigError(f"{path} lacks folds: {missing}. Train all its folds first.")
    scores = {case: list(entry["dice"].values()) for case, entry in summary["cases"].items()}
    masks = _masks(folder.predictions)
    lacking = sorted(set(scores) - set(masks))
    if lacking:
        raise ConfigError(
            f"{folder.predictions} has no mask of {some_of(lacking)}. Run dynunet-bundle train --collect again."
        )
    probabilities, reason = _probabilities(folder.path / PROBABILITIES_DIR, first["plan"], scores)
    return RunResults(
        name=absolute(path).name,
        path=absolute(path),
        plan=first["plan"],
        held_out=first["held_out"],
        scores=scores,
        masks={case: masks[case] for case in scores},
        probabilities=probabilities,
        lacking=reason,
    )


def _masks(folder: Path) -> dict[str, Path]:
    return {case_name(file): file for file in list_images(folder)} if folder.is_dir() else {}


def _probabilities(
    folder: Path, plan: Mapping[str, Any], cases: Mapping[str, Any]
) -> tuple[dict[str, ProbabilityFile] | None, str | None]:
    """The probabilities of all cases, or None and the reason."""
    if not folder.is_dir():
        return None, f"{folder} does not exist"
    try:
        found = read_probabilities(folder)
    except BundleError as error:
        return None, str(error)
    lacking = sorted(set(cases) - set(found))
    if lacking:
        return None, f"{folder} has no probabilities of {some_of(lacking)}"
    ours = LabelScheme.from_plan(plan)
    differences = [text for case in cases for text in label_differences(found[case].labels, ours)]
    if differences:
        return None, f"{folder} is of another plan ({differences[0]})"
    return {case: found[case] for case in cases}, None


def _require_same_data(one: RunResults, other: RunResults) -> None:
    pair = f"{one.path} and {other.path}"
    for name in SAME_IDS:
        values = [run.plan.get(name) for run in (one, other)]
        # the order of regions is the order of channels
        ordered = [list(v.items()) if isinstance(v, Mapping) else v for v in values]
        if ordered[0] != ordered[1]:
            raise ConfigError(
                f"{pair} are not of the same data: {name} is {values[0]} against {values[1]}. "
                "Compare runs on the same data set."
            )
    fault = split_difference(one.held_out, other.held_out)
    if fault:
        raise ConfigError(
            f"{pair} have different splits: {fault}. Train them with the same splits_file and num_folds."
        )

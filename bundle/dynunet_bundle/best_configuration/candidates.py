"""Candidates, single runs and pairs of runs: their out-of-fold masks, and the cached Dice of these."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynunet_bundle.best_configuration.run_results import RunResults
from dynunet_bundle.dataset.case_errors import unreadable
from dynunet_bundle.errors import BundleError, CaseError, ConfigError
from dynunet_bundle.evaluation.dice import dice_by_target
from dynunet_bundle.files import ensure_writable, json_sha256, read_json, write_json
from dynunet_bundle.images.grid import grid_difference
from dynunet_bundle.images.read import mask_values, read_volume
from dynunet_bundle.inference.ensemble import average_classes, require_alike
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.shapes import MAYBE_NUMBER, TEXT, by_name, list_of, object_with
from dynunet_bundle.terminal import progress

CACHE_SCHEMA = by_name(
    object_with({"key": TEXT, "dice": list_of(MAYBE_NUMBER)}, ("key", "dice")), description=""
)
"""Schema of the cached scores of a candidate."""

TOLERANCE = 1e-6
"""Largest accepted difference of a recorded Dice; JSON keeps floats exactly, so this only allows for rounded files."""

MAX_DIFFERENT = 0.01
"""Largest fraction of the foreground in which a mask may differ from its probabilities, which float16 rounds."""

SAME_DATA = "Pass the --dataset_dir that the runs were trained on."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceLabels:
    """The references of all cases.

    Attributes:
        files: path of the label of each case.
        scheme: classes of their values.
    """

    files: Mapping[str, Path]
    scheme: LabelScheme

    def read(self, case: str) -> tuple[np.ndarray, np.ndarray]:
        """Class numbers ``[X, Y, Z]`` uint8 of a label, and its affine ``[4, 4]``."""
        return read_classes(self.files[case], case, self.scheme)


@dataclass(frozen=True)
class Candidate:
    """One run, or several whose probabilities are averaged.

    Attributes:
        members: the runs.
    """

    members: tuple[RunResults, ...]

    @property
    def name(self) -> str:
        """Names of the runs, joined by ``+``."""
        return " + ".join(run.name for run in self.members)

    def files(self, case: str) -> list[Path]:
        """Files from which the mask of a case is made."""
        if len(self.members) == 1:
            return [self.members[0].masks[case]]
        return [(run.probabilities or {})[case].path for run in self.members]

    def compare(self, case: str, labels: ReferenceLabels) -> tuple[np.ndarray, np.ndarray]:
        """The candidate's mask of a case and the label: class numbers ``[X, Y, Z]`` uint8 on the same grid.

        Raises:
            CaseError: if they are on different grids, or a file cannot be read.
        """
        reference, affine = labels.read(case)
        if len(self.members) == 1:
            found, own_affine = read_classes(self.members[0].masks[case], case, labels.scheme)
        else:
            files = [(run.probabilities or {})[case] for run in self.members]
            found, own_affine = average_classes(files), files[0].affine
        difference = grid_difference(reference.shape, affine, found.shape, own_affine)
        if difference:
            raise CaseError(
                case,
                f"the prediction of {self.name} is not on the grid of its label: label and prediction {difference}",
                SAME_DATA,
            )
        return found, reference


def candidates_of(
    runs: Sequence[RunResults], labels: ReferenceLabels, pairs: bool = True
) -> tuple[list[Candidate], dict[str, str]]:
    """All single runs in the given order, then all pairs that can be averaged: the simpler candidates first.

    Args:
        runs: runs on the same data.
        labels: the references.
        pairs: whether to include pairs.

    Returns:
        The candidates, and the runs that cannot be in a pair: the reason by name.
    """
    singles = [Candidate((run,)) for run in runs]
    if not pairs or len(runs) == 1:
        return singles, {}
    left_out = {}
    for run in runs:
        reason = run.lacking or _find_strange(run, labels)
        if reason:
            left_out[run.name] = reason
    usable = [run for run in runs if run.name not in left_out]
    for one, other in combinations(usable, 2):
        require_alike(
            [one.probabilities or {}, other.probabilities or {}], [str(one.path), str(other.path)]
        )
    return singles + [Candidate(pair) for pair in combinations(usable, 2)], left_out


def _find_strange(run: RunResults, labels: ReferenceLabels) -> str | None:
    """Why a run's probabilities do not match its masks, e.g. after a longer training that saved only masks; or None."""
    for case in run.first_cases:
        mask, _ = read_classes(run.masks[case], case, labels.scheme)
        own = average_classes([(run.probabilities or {})[case]])
        if own.shape != mask.shape:
            return f"its probabilities of {case} do not have the shape of the mask"
        foreground = int(((own > 0) | (mask > 0)).sum())
        different = int((own != mask).sum())
        if different > MAX_DIFFERENT * foreground + 1:
            return (
                f"its probabilities of {case} belong to another mask: {different} of {foreground} voxels differ "
                "(other weights, or masks with keep_largest); save both again"
            )
    return None


def score_candidate(
    candidate: Candidate, labels: ReferenceLabels, cache_dir: Path
) -> dict[str, list[float | None]]:
    """Dice of a candidate's masks; cached scores are used if the files have not changed.

    Args:
        candidate: the candidate to score.
        labels: the references.
        cache_dir: folder of the cache, one file per candidate; written after each case.

    Returns:
        Dice by class or region, by case.

    Raises:
        ConfigError: if the Dice of a run's masks differs from the recorded one.
    """
    path = ensure_writable(cache_dir) / f"{candidate.name}.json"
    kept = _read_cache(path)
    cases = list(candidate.members[0].scores)
    keys = {case: _key(candidate, labels, case) for case in cases}
    targets = labels.scheme.target_classes
    known = {
        case: kept[case]
        for case in cases
        if kept.get(case, {}).get("key") == keys[case] and len(kept[case]["dice"]) == len(targets)
    }
    todo = [case for case in cases if case not in known]
    for case in progress(todo, f"score {candidate.name}", total=len(todo)):
        dice = dice_by_target(*candidate.compare(case, labels), targets)
        known[case] = {"key": keys[case], "dice": dice}
        write_json(path, known)
    scores = {case: known[case]["dice"] for case in cases}
    if len(candidate.members) == 1:
        _require_recorded(candidate.members[0], scores)
    return scores


def _require_recorded(run: RunResults, scores: Mapping[str, Sequence[float | None]]) -> None:
    for case, row in scores.items():
        for now, then in zip(row, run.scores[case], strict=True):
            same = now == then if now is None or then is None else abs(now - then) <= TOLERANCE
            if not same:
                raise ConfigError(
                    f"{run.path} recorded a Dice of {then} for {case}, but its mask now has {now}: the label or the "
                    "mask has changed. Delete its cross_validation/fold_*.json and run dynunet-bundle train "
                    "--collect again."
                )


def _read_cache(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = read_json(path, ConfigError, CACHE_SCHEMA)
    except ConfigError as error:
        logger.warning("%s The cached scores are ignored.", error)
        return {}
    return content


def _key(candidate: Candidate, labels: ReferenceLabels, case: str) -> str:
    """A hash of all inputs of a case's score."""
    files = [labels.files[case], *candidate.files(case)]
    status = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    _, *decides = labels.scheme.ids().values()  # without the names, which do not affect scores
    return json_sha256([status, decides], ordered=True)  # the order of regions affects scores


def read_classes(path: Path, case: str, scheme: LabelScheme) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers of a mask or a label.

    Args:
        path: the file.
        case: name of the case, for messages.
        scheme: classes of its values.

    Returns:
        ``[X, Y, Z]`` uint8 with ``IGNORE_CLASS`` at ignored voxels, and the affine ``[4, 4]``.

    Raises:
        CaseError: if the file cannot be read, or has an unlisted value.
    """
    try:
        volume = read_volume(path)
    except BundleError:
        raise
    except Exception as error:  # nibabel raises several types
        raise unreadable({"image": str(path), "name": case}, error) from error
    values = mask_values(case, volume.array[0])
    is_listed = np.isin(values, scheme.file_values)
    if not is_listed.all():
        raise CaseError(
            case,
            f"{path.name} has the value {values[~is_listed][0]}, but the classes have {list(scheme.values)}",
            SAME_DATA,
        )
    return scheme.to_classes(torch.from_numpy(values)).numpy(), volume.affine

"""What a training left beside its weights for the model card: scores of its held-out cases, and its curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynunet_bundle.dataset.case_marks import name_mark
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.evaluation.statistics import SCORES_NAME, SCORES_SCHEMA
from dynunet_bundle.files import read_json, sha256_of
from dynunet_bundle.networks.model_json import model_facts

CURVES_NAME = "progress.png"


class TrainingScores(NamedTuple):
    """The file of scores, or None; ``told`` says why scores that exist were left out."""

    path: Path | None
    told: str = ""


def training_scores(weights: Sequence[Path]) -> TrainingScores:
    """Find the scores of the held-out cases of a training: in ``RUN/run``, in ``RUN``, or those of all folds.

    Args:
        weights: ``model.pt`` of a training, or of each fold of a run.

    Raises:
        ConfigError: if a file of scores is malformed.
    """
    first = weights[0].absolute()
    found = _find(first, SCORES_NAME) if len(weights) == 1 else None
    if found is None:
        return _summary_of(_training_of(first).parent / "cross_validation/summary.json", weights)
    fault = _fault_of(found, first)
    return TrainingScores(None if fault else found, fault)


def training_curves(weights: Sequence[Path]) -> Path | None:
    """Find the curves of a training, ``progress.png``; None if they are missing or there are several folds."""
    return _find(weights[0].absolute(), CURVES_NAME) if len(weights) == 1 else None


def _training_of(weights: Path) -> Path:
    return weights.parents[1] if weights.parent.name == "models" else weights.parent


def _find(weights: Path, name: str) -> Path | None:
    """A file of the training: ``train`` writes to its folder ``run``, a config where the weights are."""
    training = _training_of(weights)
    files = (training / "run" / name, training / name)
    return next((file for file in files if file.is_file()), None)


def _fault_of(scores: Path, weights: Path) -> str:
    """Why scores are not those of the weights; empty if they are."""
    if scores.stat().st_mtime < weights.stat().st_mtime:
        return f"{scores} is older than {weights.name} and was left out; --scores takes it."
    held_out = model_facts(weights).get("learnt_from", {}).get("held_out")
    cases = read_json(scores, ConfigError, SCORES_SCHEMA)["cases"]
    if held_out is not None and not {name_mark(name) for name in cases} <= set(held_out):
        return f"{scores} has cases that the training did not hold out, and was left out; --scores takes it."
    return ""


def _summary_of(path: Path, weights: Sequence[Path]) -> TrainingScores:
    """The summary of a cross-validation, if its folds were scored with exactly these weights."""
    if not path.is_file():
        return TrainingScores(None)
    folds: Mapping[str, Any] = read_json(path, ConfigError, SCORES_SCHEMA).get("by_fold", {})
    scored = sorted(str(fold.get("weights_sha256")) for fold in folds.values())
    if scored == sorted(map(sha256_of, weights)):
        return TrainingScores(path)
    return TrainingScores(None, f"{path} has scores of other weights or folds and was left out.")

"""Masks and scores of a fold's held-out cases, by its best model; computed again if their inputs have changed."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynunet_bundle.cross_validation.results import FOLD_SCHEMA, ResultFolder, fold_record
from dynunet_bundle.dataset.cases import Case, file_identity, name_of
from dynunet_bundle.errors import ConfigError, WeightsError, counted
from dynunet_bundle.evaluation.statistics import SCORES_NAME, SCORES_SCHEMA
from dynunet_bundle.files import (
    case_name,
    ensure_writable,
    json_sha256,
    read_json,
    sha256_of,
    write_json,
)
from dynunet_bundle.networks.model_json import model_facts
from dynunet_bundle.planning.plan import plan_differences


def score_basis(weights: Path, cases: Sequence[Case]) -> dict[str, Any]:
    """Inputs of a fold's scores, besides plan and split: stored as ``basis`` in ``fold_K.json``.

    Args:
        weights: the fold's ``model.pt``, with ``model.json`` beside it.
        cases: the held-out cases.

    Raises:
        WeightsError: if there is no model.
    """
    if not weights.is_file():
        raise WeightsError(
            f"the training has finished but {weights} is missing. Train with --checkpoint last_and_best."
        )
    files = [[name_of(case), file_identity(case)] for case in cases]
    return {
        "weights_sha256": sha256_of(weights),
        "epoch": model_facts(weights).get("epoch"),
        "files_sha256": json_sha256(files, ordered=True),
    }


def is_scored(
    folder: ResultFolder,
    fold: int,
    basis: Mapping[str, Any],
    plan: Mapping[str, Any],
    held_out: Sequence[Sequence[str]],
) -> bool:
    """Whether the fold's scores and masks exist and are up to date."""
    file = folder.fold_file(fold)
    if not file.is_file():
        return False
    try:
        record = read_json(file, ConfigError, FOLD_SCHEMA)
    except ConfigError:
        return False
    return (
        record["basis"] == basis
        and record["held_out"] == [list(names) for names in held_out]
        and not plan_differences(record["plan"], plan)
        and set(held_out[fold]) <= _mask_names(folder.predictions)
    )


def score_fold(
    folder: ResultFolder,
    fold: int,
    basis: Mapping[str, Any],
    plan: Mapping[str, Any],
    held_out: Sequence[Sequence[str]],
    evaluate: Callable[[Path], int],
    run_dir: Path,
) -> int:
    """Evaluate the held-out cases and store their scores.

    Args:
        folder: folder of masks and scores.
        fold: number of the fold.
        basis: result of ``score_basis``.
        plan: the plan of the weights.
        held_out: names of the held-out cases of every fold.
        evaluate: runs evaluate.json, which writes masks to the given folder and scores to ``run_dir``; returns the
            exit code.
        run_dir: the fold's output folder.

    Returns:
        The exit code; the scores are stored only if it is 0.

    Raises:
        ConfigError: if other cases were scored.
    """
    folder.fold_file(fold).unlink(missing_ok=True)
    code = evaluate(ensure_writable(folder.predictions))
    if code:
        return code
    scores = read_json(run_dir / SCORES_NAME, ConfigError, SCORES_SCHEMA)
    if set(scores["cases"]) != set(held_out[fold]):
        raise ConfigError(
            f"fold {fold} holds out {counted(len(held_out[fold]), 'case')}, but {run_dir / SCORES_NAME} has scores of "
            f"other cases ({len(scores['cases'])}). Do not override validate#dataset."
        )
    write_json(folder.fold_file(fold), fold_record(fold, scores, plan, held_out, basis))
    return 0


def _mask_names(folder: Path) -> set[str]:
    return {case_name(file) for file in folder.iterdir()} if folder.is_dir() else set()

"""A package takes the scores and the curves that the training of its weights wrote."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.package_cases import make_model

from dynunet_bundle.commands.main import run_program
from dynunet_bundle.dataset.case_marks import name_mark
from dynunet_bundle.delivery.package.training_results import training_curves, training_scores
from dynunet_bundle.files import sha256_of, write_json

HELD_OUT = {"learnt_from": {"fold": 0, "trained": {}, "preprocessing": []}}


def scores_of(*cases: str, **more: Any) -> dict[str, Any]:
    rows = {case: {"head": 0.5, "tail": 0.25} for case in cases}
    numbers = {"head": len(cases), "tail": len(cases)}
    means = {"mean": {"head": 0.5, "tail": 0.25}, "mean_dice": 0.375}
    return {"cases": rows, **means, "num_cases": numbers, **more}


def make_fold(run: Path, fold: int, *held_out: str) -> Path:
    """Weights of one fold, with the marks of its cases."""
    learnt = {**HELD_OUT["learnt_from"], "held_out": {name_mark(name): None for name in held_out}}
    return make_model(run / f"fold_{fold}" / "models", learnt_from=learnt)[0]


def write_scores(path: Path, *cases: str, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, scores_of(*cases, **more))
    return path


@pytest.mark.parametrize("place", ["fold_0/run", "fold_0"])
def test_the_files_of_one_training_are_found(tmp_path: Path, place: str) -> None:
    weights = make_fold(tmp_path, 0, "a", "b")
    scores = write_scores(tmp_path / place / "scores.json", "a", "b")
    curves = tmp_path / place / "progress.png"
    curves.write_bytes(b"PNG")
    assert training_scores([weights]) == (scores, "")
    assert training_curves([weights]) == curves


def test_scores_of_older_weights_or_of_other_cases_are_left_out_and_told(tmp_path: Path) -> None:
    weights = make_fold(tmp_path, 0, "a", "b")
    scores = write_scores(tmp_path / "fold_0/run/scores.json", "a", "c")
    path, told = training_scores([weights])
    assert path is None and "did not hold out" in told
    write_scores(scores, "a", "b")
    os.utime(scores, (1, 1))
    path, told = training_scores([weights])
    assert path is None and "older than model.pt" in told
    assert training_scores([make_model(tmp_path / "alone")[0]]) == (None, "")


def test_all_folds_take_the_summary_of_exactly_their_weights(tmp_path: Path) -> None:
    folds = [make_fold(tmp_path, fold, f"case_{fold}") for fold in range(2)]
    for fold, weights in enumerate(folds):
        weights.write_bytes(weights.read_bytes() + bytes(fold))
    by_fold = {str(fold): {"weights_sha256": sha256_of(file)} for fold, file in enumerate(folds)}
    summary = tmp_path / "cross_validation" / "summary.json"
    write_scores(summary, "case_0", "case_1", by_fold=by_fold)
    assert training_scores(folds) == (summary, "")
    # one fold without scores of its own is another set of weights
    path, told = training_scores(folds[:1])
    assert path is None and "other weights or folds" in told


def test_package_finds_the_scores_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_fold(tmp_path / "RUN", 0, "a", "b")
    scores = write_scores(tmp_path / "RUN/fold_0/run/scores.json", "a", "b")
    out = tmp_path / "dist"
    options = ["--model", str(tmp_path / "RUN"), "--name", "phantom_mr_segmentation"]
    run_program(["package", *options, "-o", str(out)])
    assert f"scores: {scores}\n" in capsys.readouterr().out
    card = (out / "phantom_mr_segmentation" / "docs" / "README.md").read_text()
    assert "Mean Dice over the labels: 0.3750." in card
    metadata = out / "phantom_mr_segmentation" / "configs" / "metadata.json"
    assert json.loads(metadata.read_text())["eval_metrics"]["mean_dice"] == 0.375

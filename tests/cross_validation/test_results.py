"""The summary over folds: each case once, spread over folds, and no mixing of plans or splits."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynunet_bundle.cross_validation.out_of_fold import is_scored, score_basis, score_fold
from dynunet_bundle.cross_validation.results import (
    ResultFolder,
    collect,
    fold_record,
    require_disjoint,
    require_same,
)
from dynunet_bundle.cross_validation.summary import format_folds, summarize_folds
from dynunet_bundle.errors import ConfigError, WeightsError
from dynunet_bundle.evaluation.scores import summarize
from dynunet_bundle.files import sha256_of, write_json
from dynunet_bundle.planning.plan import plan_from

NAMES = ["background", "liver", "tumour"]
PLAN = plan_from(json.loads((Path(__file__).parents[2] / "bundle/configs/train.json").read_text()))
HELD_OUT = [["a", "b", "c"], ["d", "e"], ["f"]]
SCORES: list[dict[str, list[float | None]]] = [
    {"a": [0.9, 0.5], "b": [0.8, None], "c": [1.0, 0.1]},
    {"d": [0.6, 0.7], "e": [0.4, None]},
    {"f": [0.95, None]},
]


def record(fold: int, **changes: Any) -> dict[str, Any]:
    content = fold_record(
        fold,
        summarize(SCORES[fold], NAMES),
        PLAN.overlay(),
        HELD_OUT,
        {"weights_sha256": f"hash {fold}", "epoch": 10 + fold, "files_sha256": "files"},
    )
    return {**content, **changes}


@pytest.fixture
def folder(tmp_path: Path) -> ResultFolder:
    results = ResultFolder(tmp_path / "cross_validation")
    results.path.mkdir()
    return results


def save(folder: ResultFolder, *folds: int, **changes: Any) -> None:
    for fold in folds:
        write_json(folder.fold_file(fold), record(fold, **changes))


def test_all_cases_count_once_whatever_their_fold(folder: ResultFolder) -> None:
    save(folder, 2, 0, 1)
    summary = collect(folder)
    assert summary == json.loads((folder.path / "summary.json").read_text())
    livers = [0.9, 0.8, 1.0, 0.6, 0.4, 0.95]
    assert summary["mean"] == pytest.approx({"liver": np.mean(livers), "tumour": 1.3 / 3})
    assert summary["num_cases"] == {"liver": 6, "tumour": 3}
    assert summary["mean_dice"] == pytest.approx((np.mean(livers) + 1.3 / 3) / 2)
    assert summary["missing_folds"] == []
    assert (summary["num_folds"], summary["task_name"]) == (3, "Task04_Hippocampus")
    assert list(summary["by_fold"]) == ["0", "1", "2"]
    assert summary["by_fold"]["1"] == {
        "num_cases": 2,
        "mean_dice": pytest.approx(0.6),
        "mean": {"liver": pytest.approx(0.5), "tumour": 0.7},
        "weights_sha256": "hash 1",
        "epoch": 11,
    }
    assert summary["cases"]["e"] == {"fold": 1, "dice": {"liver": 0.4, "tumour": None}}


def test_the_spread_is_that_of_the_folds_means() -> None:
    summary = summarize_folds({fold: record(fold) for fold in range(3)})
    assert summary["std_over_folds"] == pytest.approx(
        {
            "liver": np.std([0.9, 0.5, 0.95], ddof=1),
            # no case of fold 2 has a tumour
            "tumour": np.std([0.3, 0.7], ddof=1),
            "mean_dice": np.std([0.6, 0.6, 0.95], ddof=1),
        }
    )
    alone = summarize_folds({0: record(0)})
    assert set(alone["std_over_folds"].values()) == {None}


def test_the_worst_cases_come_first() -> None:
    worst = summarize_folds({fold: record(fold) for fold in range(3)})["worst"]
    assert [(case["case"], case["fold"]) for case in worst] == [
        *(("e", 1), ("c", 0), ("d", 1), ("a", 0), ("b", 0))
    ]
    assert worst[1]["mean_dice"] == pytest.approx(0.55)
    assert worst[0]["dice"] == {"liver": 0.4, "tumour": None}


def test_a_part_says_what_is_missing(folder: ResultFolder) -> None:
    save(folder, 1)
    summary = collect(folder)
    assert summary["missing_folds"] == [0, 2]
    assert summary["mean"]["liver"] == pytest.approx(0.5)
    text = format_folds(summary)
    assert text.endswith("incomplete: of 3 folds these are missing: 0, 2")
    save(folder, 0, 2)
    assert "missing" not in format_folds(collect(folder))


def test_the_table() -> None:
    lines = format_folds(summarize_folds({fold: record(fold) for fold in range(3)})).splitlines()
    assert lines == [
        "                cases   liver  tumour    mean",
        "fold 0              3  0.9000  0.3000  0.6000",
        "fold 1              2  0.5000  0.7000  0.6000",
        "fold 2              1  0.9500       -  0.9500",
        "all cases           6  0.7750  0.4333  0.6042",
        "std over folds         0.2466  0.2828  0.2021",
        "the lowest:",
        "e (fold 1)             0.4000       -  0.4000",
        "c (fold 0)             1.0000  0.1000  0.5500",
        "d (fold 1)             0.6000  0.7000  0.6500",
        "a (fold 0)             0.9000  0.5000  0.7000",
        "b (fold 0)             0.8000       -  0.8000",
    ]


def test_a_class_that_is_nowhere_has_no_mean() -> None:
    scores = summarize({"f": [None, None]}, NAMES)
    summary = summarize_folds({2: record(2, **scores)})
    assert summary["mean_dice"] is None and summary["worst"] == []
    assert "lowest" not in format_folds(summary)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"plan": {**PLAN.overlay(), "patch_size": [8, 8, 8]}},
            r"fold_1\.json is of another plan \(patch_size: \[8, 8, 8\] against \[40, 56, 40\]\)",
        ),
        ({"held_out": HELD_OUT[:2]}, r"fold_1\.json is of another split: 2 folds against 3"),
        (
            {"held_out": [["a", "b", "c"], ["d", "f"], ["e"]]},
            r"another split: fold 1 holds out e, f in one of them only",
        ),
    ],
)
def test_folds_of_different_trainings_are_not_mixed(
    folder: ResultFolder, changes: Mapping[str, Any], message: str
) -> None:
    save(folder, 0)
    save(folder, 1, **changes)
    with pytest.raises(ConfigError, match=message):
        collect(folder)
    assert not (folder.path / "summary.json").exists()
    with pytest.raises(ConfigError, match=message):
        require_same(folder.records(), PLAN.overlay(), HELD_OUT, folder.path)


def test_another_order_in_a_fold_is_the_same_split(folder: ResultFolder) -> None:
    save(folder, 0)
    save(folder, 1, held_out=[["c", "b", "a"], ["d", "e"], ["f"]])
    assert collect(folder)["missing_folds"] == [2]


def test_nothing_to_collect_and_a_damaged_file(folder: ResultFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        collect(ResultFolder(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no scores of any fold"):
        collect(folder)
    folder.fold_file(0).write_text("[]")
    with pytest.raises(ConfigError, match=r"fold_0\.json: .*not of type 'object'\. Delete the"):
        collect(folder)


def test_a_case_is_held_out_once() -> None:
    require_disjoint(HELD_OUT)
    with pytest.raises(ConfigError, match="case b is held out in fold 0 and in fold 1"):
        require_disjoint([["a", "b"], ["b"]])


COLLECTOR = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from dynunet_bundle.cross_validation.results import ResultFolder, collect
print(collect(ResultFolder(Path(sys.argv[1])))["missing_folds"])
"""


def test_two_jobs_that_end_at_once_leave_the_whole_summary(folder: ResultFolder) -> None:
    """A process that waits for the lock must then read what the other one has written."""
    from dynunet_bundle.machine.locks import exclusive

    save(folder, 0, 1)
    with exclusive(folder.path / ".lock", "collects"):
        other = subprocess.Popen(
            [sys.executable, "-c", COLLECTOR, str(folder.path)], stdout=subprocess.PIPE, text=True
        )
        assert other.stdout is not None
        assert other.stdout.readline().endswith("waiting for it\n")
        save(folder, 2)
    assert other.communicate(timeout=60)[0].strip() == "[]"


class Fold:
    """Fold 1 with the files of a finished training."""

    def __init__(self, folder: ResultFolder, tmp_path: Path) -> None:
        self.folder = folder
        self.weights = tmp_path / "models" / "model.pt"
        self.weights.parent.mkdir()
        self.weights.write_bytes(b"weights")
        write_json(self.weights.with_suffix(".json"), {"epoch": 3, "sha256": "0" * 64})
        self.cases = []
        for name in HELD_OUT[1]:
            path = tmp_path / f"{name}.nii.gz"
            path.write_bytes(b"image")
            self.cases.append({"image": str(path), "label": str(path)})
        self.run_dir = tmp_path / "run"
        self.run_dir.mkdir()
        self.calls = 0

    def evaluate(self, masks: Path) -> int:
        self.calls += 1
        for name in HELD_OUT[1]:
            (masks / f"{name}.nii.gz").touch()
        write_json(self.run_dir / "scores.json", summarize(SCORES[1], NAMES))
        return 0

    def basis(self) -> dict[str, Any]:
        return score_basis(self.weights, self.cases)

    def score(self, evaluate: Any = None) -> int:
        return score_fold(
            self.folder,
            1,
            self.basis(),
            PLAN.overlay(),
            HELD_OUT,
            evaluate or self.evaluate,
            self.run_dir,
        )

    def is_scored(self) -> bool:
        return is_scored(self.folder, 1, self.basis(), PLAN.overlay(), HELD_OUT)


@pytest.fixture
def fold(folder: ResultFolder, tmp_path: Path) -> Fold:
    return Fold(folder, tmp_path)


def test_a_scored_fold_stays_scored_until_something_changes(fold: Fold) -> None:
    assert not fold.is_scored()
    assert fold.score() == 0
    assert fold.is_scored()
    written = json.loads(fold.folder.fold_file(1).read_text())
    assert written["basis"]["weights_sha256"] == sha256_of(fold.weights)
    assert written["basis"]["epoch"] == 3
    assert written["cases"]["d"] == {"liver": 0.6, "tumour": 0.7}
    assert collect(fold.folder)["missing_folds"] == [0, 2]

    fold.weights.write_bytes(b"better weights")
    assert not fold.is_scored()
    fold.score()
    Path(fold.cases[0]["label"]).write_bytes(b"a corrected label")
    assert not fold.is_scored()
    fold.score()
    assert fold.is_scored()
    (fold.folder.predictions / "d.nii.gz").unlink()
    assert not fold.is_scored()


def test_a_failed_evaluation_leaves_no_scores(fold: Fold) -> None:
    fold.score()
    assert fold.score(lambda masks: 75) == 75
    assert not fold.folder.fold_file(1).exists()


def test_scores_of_other_cases_are_refused(fold: Fold) -> None:
    def evaluate(masks: Path) -> int:
        write_json(fold.run_dir / "scores.json", summarize(SCORES[0], NAMES))
        return 0

    with pytest.raises(ConfigError, match="2 case"):
        fold.score(evaluate)
    assert not fold.folder.fold_file(1).exists()


def test_a_training_without_a_model_is_named(fold: Fold) -> None:
    fold.weights.unlink()
    with pytest.raises(WeightsError, match=r"finished but .*model\.pt is missing"):
        fold.basis()

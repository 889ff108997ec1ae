"""The learning benchmark trains ours for each budget, skips what is missing, and resumes."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import learn
from dynunet_bundle.errors import ConfigError


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that were run, instead of trainings; scores as an evaluation writes them."""
    commands: list[list[str]] = []

    def cpu_seconds(command: list[str]) -> float:
        commands.append(command)
        folder = Path(command[command.index("--output_dir") + 1])
        content = {"mean_dice": 0.5, "mean": {"head": 0.6, "tail": 0.4}, "cases": {"case_1": {}}}
        (folder / "scores.json").write_text(json.dumps(content))
        return 30.0

    monkeypatch.setattr(learn, "cpu_seconds", cpu_seconds)
    monkeypatch.setattr(learn, "step_seconds", lambda *_: 0.5)
    return commands


def job(folder: Path, **changes: Any) -> learn.Learning:
    values: dict[str, Any] = {
        "dataset_dir": folder / "Task04_Hippocampus",
        "out": folder / "out",
        "peers": folder / "no peers",
        "minutes": (2, 1),
        "seed": 3,
    }
    return learn.Learning(**{**values, **changes})


def test_each_budget_gets_a_training_of_its_length(
    tmp_path: Path, trained: list[list[str]]
) -> None:
    (rows,) = learn.run(job(tmp_path)).values()

    ours = [row for row in rows if row.cpu_s]
    assert [row.details["steps"] for row in ours] == [120, 240] * 2
    assert all(row.details["Dice"] == 0.5 and row.details["Dice head"] == 0.6 for row in ours)
    skipped = [row.contender for row in rows if row.remark.startswith("skipped")]
    assert skipped == list(learn.SCHEDULES)
    assert (tmp_path / "out" / "learn.png").stat().st_size > 1000
    training = next(command for command in trained if command[4] == "training")
    assert training[training.index("--seed") + 1] == "3"


def test_finished_points_are_not_trained_again(tmp_path: Path, trained: list[list[str]]) -> None:
    learn.run(job(tmp_path))
    number = len(trained)

    learn.run(job(tmp_path, minutes=(1, 2, 4)))

    assert len(trained) == number + 2 * 2


def test_a_budget_of_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="positive"):
        learn.run(job(tmp_path, minutes=(0, 1)))

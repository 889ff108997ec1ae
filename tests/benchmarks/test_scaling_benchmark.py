"""Weak scaling: rates from the logs of trainings, and refused requests."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import BUNDLE

from benchmarks import scaling
from dynunet_bundle.errors import ConfigError


def test_rates_are_those_of_the_fastest_later_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process takes 10 s for an epoch of 20 batches of 2; two take 11 s for twice the samples."""
    seconds = {1: [30.0, 10.0, 12.0], 2: [5.0, 13.0, 11.0]}
    allowed = os.sched_getaffinity(0)
    commands: list[list[str]] = []

    def train(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        number = int(next(part for part in command if "nproc" in part).split("=")[1])
        assert len(os.sched_getaffinity(0)) == number
        folder = Path(command[command.index("--output_dir") + 1])
        folder.mkdir(parents=True)
        lines = [json.dumps({"epoch": i + 1, "seconds": s}) for i, s in enumerate(seconds[number])]
        (folder / "train_log.jsonl").write_text("\n".join(lines))
        return SimpleNamespace(returncode=0)

    if len(allowed) < 2:
        pytest.skip("two processes need two cores")
    monkeypatch.setattr(scaling.subprocess, "run", train)
    sections = scaling.run(BUNDLE, tmp_path, tmp_path, [1, 2], 20, 2)
    one, two = next(iter(sections.values()))
    assert one.wall_s == pytest.approx(1000 / 4)
    assert two.wall_s == pytest.approx(1000 * 11 / 80)
    assert "1.82 times" in two.remark
    assert os.sched_getaffinity(0) == allowed
    assert all("configs/multi_gpu_train.json" in " ".join(command) for command in commands)


def test_each_process_has_a_core_of_its_own(tmp_path: Path) -> None:
    """Program and arguments reach monai.bundle; a config prints its core."""
    cores = sorted(os.sched_getaffinity(0))
    (tmp_path / "config.json").write_text(
        json.dumps({"imports": ["$import os"], "run": ["$print(*os.sched_getaffinity(0))"]})
    )
    for rank, core in enumerate(cores[:2]):
        done = subprocess.run(
            [sys.executable, scaling.ONE_CORE, "run", "--config_file", tmp_path / "config.json"],
            env={**os.environ, "LOCAL_RANK": str(rank)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == str(core)


def test_more_processes_than_cores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="need as many cores"):
        scaling.run(BUNDLE, tmp_path, tmp_path, [1, 10_000], 20, 2)


def test_a_training_that_fails_says_why(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    with pytest.raises(ConfigError, match="1 processes failed"):
        scaling.run(BUNDLE, tmp_path, tmp_path / "nothing here", [1], 1, 1)
    assert os.sched_getaffinity(0) == allowed

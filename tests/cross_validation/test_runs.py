"""Folds as separate jobs: what they share, and what they skip."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE, TINY

from dynunet_bundle.cross_validation import runs as fold_runs
from dynunet_bundle.cross_validation.commands import ProcessRunner
from dynunet_bundle.cross_validation.request import FoldsRequest
from dynunet_bundle.cross_validation.runs import FoldRuns, train_folds
from dynunet_bundle.errors import ConfigError, DatasetError
from dynunet_bundle.files import write_json

PLAN = ("filters", "kernel_sizes", "strides", "patch_size", "spacing", "label_names")


class NotedRunner(ProcessRunner):
    """Runs the action of a test instead of each command."""

    def __init__(self, act: Callable[[dict[str, str]], int]) -> None:
        super().__init__()
        self.act = act
        self.commands: list[list[str]] = []

    def run(self, command: Any, status: Path | None = None) -> int:
        self.commands.append(list(command))
        return self.act(dict(zip(command, command[1:], strict=False)))


@pytest.fixture
def request_for(phantom: Path, tmp_path: Path) -> Callable[..., FoldsRequest]:
    overlay = tmp_path / "tiny.json"
    overlay.write_text(json.dumps({name: TINY[name] for name in PLAN}))

    def make(**changes: Any) -> FoldsRequest:
        settings = {
            "overlays": (overlay,),
            "settings": {"num_folds": 3},
            "overrides": ("--epochs", "2"),
            **changes,
        }
        return FoldsRequest(BUNDLE, phantom, tmp_path / "out", **settings)

    return make


@pytest.fixture
def trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., NotedRunner]:
    """Replace the runner by one that writes the files of a training, or ends with an exit code."""

    def make(code: int = 0) -> NotedRunner:
        def act(values: dict[str, str]) -> int:
            if code == 0:
                write_finished(Path(values["--output_dir"]).parent)
            return code

        runner = NotedRunner(act)
        monkeypatch.setattr(fold_runs, "ProcessRunner", lambda: runner)
        monkeypatch.setattr(FoldRuns, "prepare", lambda self, fold: None)
        monkeypatch.setattr(FoldRuns, "score", lambda self, fold: 0)
        monkeypatch.setattr(fold_runs, "collect", lambda folder: {})
        monkeypatch.setattr(fold_runs, "format_folds", lambda summary: "table")
        return runner

    return make


def write_finished(folder: Path, epochs: int = 2, **plan: Any) -> None:
    for name in ("models", "run"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    whole = json.loads((BUNDLE / "configs" / "train.json").read_text())
    ids = {name: whole[name] for name in whole["plan"]}
    own = {name: TINY[name] for name in PLAN}
    write_json(
        folder / "models" / "model.json", {"plan": {**ids, **own, **plan}, "sha256": "0" * 64}
    )
    write_json(folder / "run" / "status.json", {"state": "finished", "epochs": epochs})


def test_all_folds_are_trained_in_turn_each_in_its_folder(
    request_for: Any, trains: Any, tmp_path: Path
) -> None:
    runner = trains()
    assert train_folds(request_for()) == 0
    folders = [command[command.index("--ckpt_dir") + 1] for command in runner.commands]
    assert folders == [str(tmp_path / "out" / f"fold_{fold}" / "models") for fold in range(3)]
    assert [command[command.index("--fold") + 1] for command in runner.commands] == ["0", "1", "2"]
    stores = {command[command.index("--prepared_dir") + 1] for command in runner.commands}
    assert stores == {str(tmp_path / "out" / "prepared")}
    assert all("--epochs=2" in command for command in runner.commands)


@pytest.mark.parametrize("code", [1, 2, 75])
def test_the_first_fold_that_fails_ends_it(request_for: Any, trains: Any, code: int) -> None:
    runner = trains(code)
    assert train_folds(request_for()) == code
    assert len(runner.commands) == 1


def test_a_signal_that_came_too_late_for_a_fold_stops_before_the_next(
    request_for: Any, trains: Any
) -> None:
    runner = trains()
    finish = runner.act

    def act(values: dict[str, str]) -> int:
        runner.signal = "SIGTERM"
        return int(finish(values))

    runner.act = act
    assert train_folds(request_for()) == 75
    assert len(runner.commands) == 1


@pytest.mark.parametrize(
    ("overrides", "num_trained"),
    [(("--epochs", "2"), 2), (("--epochs", "3"), 3), (("--epochs", "2", "--restart", "True"), 3)],
    ids=["same", "longer", "start over"],
)
def test_a_finished_fold_is_left_out_unless_it_shall_go_on(
    request_for: Any, trains: Any, tmp_path: Path, overrides: tuple[str, ...], num_trained: int
) -> None:
    write_finished(tmp_path / "out" / "fold_1")
    runner = trains()
    assert train_folds(request_for(overrides=overrides)) == 0
    assert len(runner.commands) == num_trained


def test_a_finished_fold_of_another_plan_is_refused(
    request_for: Any, trains: Any, tmp_path: Path
) -> None:
    write_finished(tmp_path / "out" / "fold_0", patch_size=[8, 8, 8])
    trains()
    with pytest.raises(ConfigError, match=r"fold_0/models holds a training of another plan"):
        train_folds(request_for())


def test_collecting_trains_nothing(request_for: Any, trains: Any, tmp_path: Path) -> None:
    write_finished(tmp_path / "out" / "fold_1")
    runner = trains()
    assert train_folds(request_for(collect_only=True)) == 0
    assert runner.commands == []


def test_one_model_of_all_cases(
    request_for: Any, trains: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = trains()
    assert train_folds(request_for(fold="all")) == 0
    (command,) = runner.commands
    values = dict(zip(command, command[1:], strict=False))
    assert values["--fold"] == "all"
    assert values["--ckpt_dir"] == str(tmp_path / "out" / "fold_all" / "models")
    assert "table" not in capsys.readouterr().out


def test_several_processes_train_with_torchrun(request_for: Any, trains: Any) -> None:
    runner = trains()
    assert train_folds(request_for(num_processes=4, folds=("1",))) == 0
    (command,) = runner.commands
    assert "--nproc_per_node=4" in command and "--standalone" in command


@pytest.mark.parametrize("num_processes", [1, 4])
def test_processes_are_bound_by_torchrun(
    num_processes: int, request_for: Any, trains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    runner = trains()
    request = request_for(num_processes=num_processes, folds=("1",), numa_binding="exclusive")
    assert train_folds(request) == 0
    (command,) = runner.commands
    assert "torch.distributed.run" in command and "--numa-binding=exclusive" in command


def test_without_numactl_nothing_starts(
    request_for: Any, trains: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    runner = trains()
    with pytest.raises(ConfigError, match="needs the program numactl"):
        train_folds(request_for(num_processes=2, folds=("1",), numa_binding="node"))
    assert not runner.commands


def test_a_split_of_the_user_decides(request_for: Any, trains: Any, tmp_path: Path) -> None:
    names = [f"phantom_00{number}" for number in range(6)]
    splits = tmp_path / "splits.json"
    write_json(
        splits, [{"train": names[2:], "val": names[:2]}, {"train": names[:3], "val": names[4:]}]
    )
    runner = trains()
    flags = ("--epochs", "2", "--splits_file", str(splits))
    with pytest.raises(DatasetError, match="has 2 folds, but num_folds is 3"):
        train_folds(request_for(overrides=flags))
    assert train_folds(request_for(overrides=flags, settings={})) == 0
    assert len(runner.commands) == 2
    write_json(
        splits, [{"train": names[2:], "val": names[:2]}, {"train": names[3:], "val": names[:1]}]
    )
    with pytest.raises(ConfigError, match="phantom_000 is held out in fold 0 and in fold 1"):
        train_folds(request_for(overrides=flags, settings={}))


JOB = """
import json, sys
from pathlib import Path
from dynunet_bundle.cross_validation.request import FoldsRequest
from dynunet_bundle.cross_validation.runs import FoldRuns
from dynunet_bundle.cross_validation.commands import ProcessRunner
bundle, data, out, overlay, fold = sys.argv[1:]
request = FoldsRequest(Path(bundle), Path(data), Path(out), (Path(overlay),), overrides=("--num_workers", "1"))
runs = FoldRuns(request, ProcessRunner())
print("ready", flush=True)
sys.stdin.readline()
runs.prepare(int(fold))
"""


def test_two_jobs_at_once_prepare_each_case_once(request_for: Any, phantom: Path) -> None:
    request = request_for()
    jobs = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", JOB, str(BUNDLE), str(phantom), str(request.out)),
                *(str(request.overlays[0]), str(fold)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
        )
        for fold in (0, 1)
    ]
    for job in jobs:
        assert job.stdout is not None
        while job.stdout.readline() not in ("ready\n", ""):
            pass
    texts = []
    for job in jobs:
        assert job.stdin is not None
        job.stdin.write("\n")
        job.stdin.flush()
    for job in jobs:
        texts.append(job.communicate(timeout=120)[0])
        assert job.returncode == 0
    assert sum(text.count("preparing 6 of 6 cases") for text in texts) == 1
    assert sum(text.count("preparing") for text in texts) == 1
    assert len(list((request.out / "prepared").glob("*.json"))) == 6

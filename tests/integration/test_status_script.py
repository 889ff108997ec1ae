"""scripts/status.py shows the state of trainings from their files alone."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_script

from dynunet_bundle.training.watching import status_file
from dynunet_bundle.training.watching.status import LOG_NAME, STATUS_NAME, read_log, read_status
from dynunet_bundle.training.watching.status_text import ago, clock


def records(count: int, seconds: float = 30.0) -> list[dict[str, Any]]:
    """Log in which every second epoch is validated and epoch 2 is the best."""
    made = []
    for epoch in range(1, count + 1):
        record: dict[str, Any] = {"epoch": epoch, "loss": 1 / epoch, "learning_rate": 0.01}
        if epoch % 2 == 0:
            dice = {"head": 0.9 - 0.1 * epoch, "tail": 0.8 - 0.1 * epoch}
            record |= {"dice": 0.85 - 0.1 * epoch, "dice_by_class": dice}
            record |= {"best_dice": 0.65, "best_epoch": 2}
        made.append({**record, "seconds": seconds, "patches_per_second": 17.5})
    return made


def make_run(
    folder: Path, epochs: int = 4, minutes_ago: float = 0.2, log: bool = True, **changes: Any
) -> Path:
    """A run of ten epochs of 50 iterations, after ``epochs`` epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    updated = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    content = {
        "state": "running",
        "task_name": "Task99_Phantom",
        "epoch": epochs,
        "epochs": 10,
        "iteration": 50 * epochs,
        "iterations_per_epoch": 50,
        "world_size": 1,
        "pid": 1,
        "host": None,
        "updated": updated.isoformat(timespec="seconds"),
        "message": None,
    }
    (folder / STATUS_NAME).write_text(json.dumps(content | changes))
    if log:
        lines = "".join(json.dumps(record) + "\n" for record in records(epochs))
        (folder / LOG_NAME).write_text(lines)
        # the log may have been copied, so the status counts
        os.utime(folder / LOG_NAME, (1e9, 1e9))
    return folder


def seconds(text: str) -> int:
    hours, minutes, rest = map(int, text.split(":"))
    return 3600 * hours + 60 * minutes + rest


def test_a_training_that_runs(tmp_path):
    done = run_script("status", make_run(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head == f"Task99_Phantom in {tmp_path / 'run'}: running, epoch 4 of 10"
    found = {line[2:13].strip(): line[13:] for line in lines}
    assert found["loss"] == "0.2500, learning rate 1.00e-02"
    assert found["Dice"] == "0.4500 at epoch 4 (head 0.500, tail 0.400)"
    assert found["best Dice"] == "0.6500 at epoch 2"
    assert found["time"] == "30.0 s per epoch, 17.5 patches/s, 0:03:00 left"
    assert found["last sign"].split(" (")[0].endswith("s ago")
    assert "checkpoint" not in found and "model.pt" not in found


@pytest.mark.parametrize(
    ("state", "minutes_ago", "silent"),
    [
        ("running", 1.4, False),
        ("running", 4, True),
        ("stopped", 4, False),
        ("finished", 4, False),
        ("failed", 4, False),
    ],
)
def test_silence_of_three_epochs_is_told_of_a_training_that_should_run(
    tmp_path, state, minutes_ago, silent
):
    folder = make_run(tmp_path / "run", minutes_ago=minutes_ago, state=state)
    out = run_script("status", folder).stdout
    assert ("no sign of life for 4 min" in out) == silent
    assert json.loads(run_script("status", folder, "--json").stdout)[0]["is_silent"] == silent
    assert state in out


def test_what_stopped_it_is_said(tmp_path):
    message = "stopped by SIGTERM; run the same command again to resume"
    folder = make_run(tmp_path / "run", state="stopped", iteration=225, message=message)
    out = run_script("status", folder).stdout
    assert "stopped, epoch 4 of 10" in out and message in out
    assert "0:02:45 left" in out  # half of the fifth epoch is done
    failed = make_run(tmp_path / "bad", state="failed", message="the loss is nan")
    out = run_script("status", failed).stdout
    assert "failed" in out and "the loss is nan" in out and "left" not in out


def test_before_the_first_epoch_is_done(tmp_path):
    out = run_script("status", make_run(tmp_path / "run", epochs=0, log=False)).stdout
    assert "running, epoch 0 of 10" in out
    assert "no epoch is done yet" in out and "no validation yet" in out


def test_the_log_alone_is_enough(tmp_path):
    folder = make_run(tmp_path / "run", epochs=3)
    (folder / STATUS_NAME).unlink()
    with (folder / LOG_NAME).open("a") as file:
        file.write('{"epoch": 4, "lo')  # torn
    os.utime(folder / LOG_NAME, (time.time() - 50,) * 2)
    (found,) = json.loads(run_script("status", folder, "--json").stdout)
    assert (found["state"], found["epoch"], found["epochs"]) == ("unknown", 3, None)
    assert (found["dice_epoch"], found["best_epoch"], found["eta_s"]) == (2, 2, None)
    assert 50 <= found["idle_s"] < 3000 and found["is_silent"] == (found["idle_s"] > 90)
    assert (
        f"a training in {folder}: in the log, epoch 3 of ?" in run_script("status", folder).stdout
    )
    os.utime(folder / LOG_NAME, (time.time() - 600,) * 2)
    assert ": no sign of life for 10 min, epoch 3 of ?" in run_script("status", folder).stdout


def test_the_checkpoint_is_looked_at_where_its_folder_is_given(tmp_path):
    folder, models = make_run(tmp_path / "run"), tmp_path / "models"
    models.mkdir()
    state = {"epoch": 3, "iteration": 170, "network": {"weight": torch.zeros(10)}}
    torch.save(state, models / "checkpoint_last.pt")
    (models / "model.json").write_text(json.dumps({"epoch": 2, "sha256": "0" * 64}))
    out = run_script("status", folder, "--ckpt_dir", models).stdout
    assert "checkpoint after epoch 3, iteration 170" in out
    assert "model.pt   of epoch 2" in out
    (models / "checkpoint_last.pt").write_bytes(b"damaged")
    done = run_script("status", folder, "--ckpt_dir", models)
    assert done.returncode == 0
    assert "checkpoint_last.pt cannot be read" in done.stderr
    assert "after epoch" not in done.stdout


def test_five_folds_are_a_table(tmp_path):
    folders = [make_run(tmp_path / f"fold_{fold}", epochs=2 + fold) for fold in range(5)]
    make_run(folders[1], epochs=10, state="finished")
    make_run(folders[3], epochs=3, minutes_ago=20)
    done = run_script("status", *folders)
    assert done.returncode == 0, done.stderr
    head, *rows, mean = done.stdout.splitlines()
    assert head.split()[:3] == ["folder", "state", "epoch"]
    cells = [row.split() for row in rows]
    assert [row[0] for row in cells] == list(map(str, folders))
    assert [row[1] for row in cells] == ["running", "finished", "running", "silent", "running"]
    assert [row[2] for row in cells] == ["2/10", "10/10", "4/10", "3/10", "6/10"]
    assert [row[8] for row in cells] == ["0:04:00", "-", "0:03:00", "0:03:30", "0:02:00"]
    assert len({len(row.split("ago")[0]) for row in rows}) == 1, "columns are aligned"
    assert mean == "mean of the best Dice: 0.6500 (5 of them)"


def test_the_trainings_of_a_run_folder_are_found(tmp_path):
    """Folders as created by scripts/train.py: OUT/fold_N/run."""
    folders = [make_run(tmp_path / f"fold_{fold}" / "run") for fold in (1, 0)]
    (tmp_path / "fold_2" / "models").mkdir(parents=True)
    make_run(tmp_path / "cross_validation")

    def found(*given):
        done = run_script("status", *given, "--json")
        assert done.returncode == 0, done.stderr
        return [status["folder"] for status in json.loads(done.stdout)]

    assert found(tmp_path) == sorted(map(str, folders))
    assert found(tmp_path / "fold_1") == found(folders[0]) == [str(folders[0])]
    # a training's own folder takes precedence
    make_run(tmp_path)
    assert found(tmp_path) == [str(tmp_path)]


@pytest.mark.parametrize("json_wanted", [False, True])
def test_a_folder_without_a_training_is_bad_input_but_hides_no_other(tmp_path, json_wanted):
    (tmp_path / "empty").mkdir()
    extra = ["--json"] if json_wanted else []
    alone = run_script("status", tmp_path / "empty", *extra)
    assert alone.returncode == 2
    assert alone.stderr.startswith(f"error: {tmp_path / 'empty'} has neither status.json nor")
    folder = make_run(tmp_path / "run")
    both = run_script("status", tmp_path / "nowhere", folder, *extra)
    assert both.returncode == 2
    assert "nowhere has neither status.json nor" in both.stderr
    if json_wanted:
        assert [found["epoch"] for found in json.loads(both.stdout)] == [4]
    else:
        assert "running, epoch 4 of 10" in both.stdout


def test_folders_and_checkpoints_must_be_as_many(tmp_path):
    folders = [make_run(tmp_path / name) for name in "ab"]
    done = run_script("status", *folders, "--ckpt_dir", tmp_path)
    assert done.returncode == 2 and "1 --ckpt_dir for 2 folders" in done.stderr


def test_a_status_that_is_no_json_is_named(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / STATUS_NAME).write_text("{")
    done = run_script("status", folder)
    assert done.returncode == 2 and STATUS_NAME in done.stderr


def test_a_real_training_is_understood(train_workflow, tmp_path):
    train_workflow(epochs=3, val_interval=2).run()
    found = read_status(tmp_path / "run", time.time(), tmp_path / "models")
    assert (found.state, found.epoch, found.epochs) == ("finished", 3, 3)
    assert (found.iteration, found.iterations_per_epoch) == (6, 2)
    assert (found.checkpoint_epoch, found.checkpoint_iteration) == (3, 6)
    assert found.model_epoch == found.best_epoch
    last = read_log(tmp_path / "run" / LOG_NAME)[-1]
    assert (found.loss, found.dice, found.dice_epoch) == (last["loss"], last["dice"], 3)
    assert found.idle_s < 3600 and not found.is_silent


def test_reader_and_writer_mean_the_same_file():
    assert status_file.STATUS_NAME == STATUS_NAME


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (0.4, "0 s ago"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (7199, "120 min ago"),
        (7200, "2 h ago"),
        (3e5, "3 d ago"),
    ],
)
def test_how_long_ago(given, text):
    assert ago(given) == text


@pytest.mark.parametrize(
    ("given", "text"), [(None, "unknown"), (0, "0:00:00"), (3661.2, "1:01:01"), (4e5, "111:06:40")]
)
def test_how_long(given, text):
    assert clock(given) == text
    assert given is None or seconds(text) == round(given)

"""The state of a training in words, before and after its first validation."""

import json
from pathlib import Path
from typing import Any

from dynunet_bundle.training.watching.status import read_status
from dynunet_bundle.training.watching.status_text import describe_run


def described(folder: Path, *records: dict[str, Any]) -> list[str]:
    folder.mkdir()
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "train_log.jsonl").write_text(lines)
    return [line.strip() for line in describe_run(read_status(folder, 0.0)).splitlines()]


def test_a_training_without_a_validation_says_so(tmp_path: Path) -> None:
    record = {"epoch": 1, "loss": 1.5, "learning_rate": 0.01, "seconds": 2.0}
    lines = described(tmp_path / "run", record)
    assert "best Dice  no validation yet" in lines and "Dice       no validation yet" in lines
    assert "loss       1.5000, learning rate 1.00e-02" in lines
    validated = {**record, "dice": 0.5, "dice_by_class": {}, "best_dice": 0.5, "best_epoch": 1}
    assert "best Dice  0.5000 at epoch 1" in described(tmp_path / "other", validated)
    undefined = {**validated, "dice": None, "best_dice": None, "best_epoch": -1}
    assert "best Dice  undefined so far" in described(tmp_path / "third", undefined)


def test_a_training_without_an_epoch_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "status.json").write_text(json.dumps({"state": "running", "epoch": 0, "epochs": 3}))
    text = describe_run(read_status(folder, 0.0))
    assert "loss       no epoch is done yet" in text

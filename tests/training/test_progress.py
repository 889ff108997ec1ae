"""The line an epoch that a person watches, and the same as JSON lines."""

import io
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from dynunet_bundle.training.progress import LOG_NAME, ProgressHandler


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(
    folder: Path, *, epochs: int, start_epoch: int = 0, validated: tuple[int, ...] = (2,)
) -> ProgressHandler:
    """Drive the handler with an engine whose loss is the number of the iteration."""
    evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    trainer = Engine(lambda engine, _: {"loss": torch.tensor(float(engine.state.iteration))})
    handler = ProgressHandler(str(folder), evaluator, optimizer, ["background", "head", "tail"])

    def validate(engine: Engine) -> None:
        if engine.state.epoch in validated:
            scores = {"val_mean_dice": 0.5, "val_dice_by_class": torch.tensor([0.25, 0.75])}
            evaluator.state = SimpleNamespace(
                epoch=engine.state.epoch, metrics=scores, best_metric=0.5, best_metric_epoch=2
            )

    def resume(engine: Engine) -> None:
        engine.state.epoch = start_epoch
        engine.state.iteration = start_epoch * 2

    trainer.add_event_handler(Events.STARTED, resume)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    handler.attach(trainer)
    trainer.run([0, 1], max_epochs=epochs)
    return handler


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG_NAME).read_text().splitlines()]


def test_a_record_an_epoch_with_scores_where_it_was_validated(tmp_path):
    run(tmp_path, epochs=3)
    first, second, third = records(tmp_path)
    assert first["loss"] == 1.5 and second["loss"] == 3.5  # means over the epoch's own iterations
    assert first["learning_rate"] == 0.5
    assert second["dice"] == 0.5
    assert second["dice_by_class"] == {"head": 0.25, "tail": 0.75}
    assert (second["best_dice"], second["best_epoch"]) == (0.5, 2)
    assert "dice" not in first and "dice" not in third


def test_a_resumed_run_goes_on_with_the_log_and_repeats_no_epoch(tmp_path):
    run(tmp_path, epochs=3)
    before = (tmp_path / LOG_NAME).read_text().splitlines()
    run(tmp_path, epochs=4, start_epoch=1)  # epochs 2 and 3 were logged but not saved
    assert [record["epoch"] for record in records(tmp_path)] == [1, 2, 3, 4]
    assert (tmp_path / LOG_NAME).read_text().splitlines()[0] == before[0]


def test_the_line_names_scores_classes_and_the_time_that_is_left(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "dynunet_bundle"):
        run(tmp_path, epochs=2)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("epoch 1/2  loss 1.5000  lr 5.00e-01")
    assert "Dice 0.5000 (head 0.250, tail 0.750; best 0.5000 at 2)" in second
    assert second.endswith("ETA 0:00:00")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_is_drawn_on_a_terminal_only(terminal, tmp_path, monkeypatch):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    run(tmp_path, epochs=1)
    assert ("epoch 1/1" in stream.getvalue()) == terminal

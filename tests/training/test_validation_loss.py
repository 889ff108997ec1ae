"""The validation loss is the training's loss of whole validation cases, and a resumed training logs the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.watching import watched
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.engines import IterationEvents

from dynunet_bundle.training.validation_loss import ValidationLoss
from dynunet_bundle.training.watching.progress import next_ema
from dynunet_bundle.training.watching.status import LOG_NAME, read_log

Start = Callable[..., ConfigWorkflow]
VALUES = ("loss", "val_loss", "dice", "ema_dice", "best_dice")


def test_it_is_the_mean_over_the_cases_on_their_own_grid(train_workflow: Start) -> None:
    workflow = train_workflow(epochs=1)
    get = workflow.parser.get_parsed_content
    evaluator, loss, seen = get("validate#evaluator"), get("loss"), []

    def note(engine: Engine) -> None:
        output = engine.state.output
        seen.append((output["pred"].clone(), output["label"].clone()))

    evaluator.add_event_handler(IterationEvents.FORWARD_COMPLETED, note)
    workflow.run()
    shapes = [tuple(pred.shape[2:]) for pred, _ in seen]
    assert len(seen) > 1
    assert shapes == [tuple(label.shape[2:]) for _, label in seen]
    expected = sum(float(loss(*pair)) for pair in seen) / len(seen)
    assert evaluator.state.metrics["val_loss"] == pytest.approx(expected, rel=1e-5)
    # the training's own loss keeps the mode in which it shares sums with other processes
    assert loss.training


def test_a_loss_that_is_a_function_works_too() -> None:
    evaluator = Engine(lambda *_: None)
    evaluator.register_events(*IterationEvents)
    ValidationLoss(lambda pred, label: (pred - label).abs().mean()).attach(evaluator, "val_loss")

    def forward(engine: Engine) -> None:
        engine.state.output = {"pred": torch.ones(1, 2), "label": torch.zeros(1, 2)}
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.state.output = None

    evaluator.add_event_handler(Events.ITERATION_STARTED, forward)
    assert evaluator.run([0, 1]).metrics["val_loss"] == 1


def records(folder: Path) -> list[dict[str, Any]]:
    return [{name: record.get(name) for name in VALUES} for record in read_log(folder / LOG_NAME)]


def test_a_resumed_training_logs_what_an_uninterrupted_one_does(
    train_workflow: Start, tmp_path: Path
) -> None:
    def start(name: str) -> ConfigWorkflow:
        places = {"ckpt_dir": str(tmp_path / name), "output_dir": str(tmp_path / f"{name}_run")}
        return train_workflow(epochs=3, val_interval=1, **places, **watched())

    start("whole").run()
    cut = start("cut")

    def fail(engine: Engine) -> None:
        raise KeyboardInterrupt

    trainer = cut.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.EPOCH_STARTED(once=3), fail)
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    start("cut").run()
    whole = records(tmp_path / "whole_run")
    assert records(tmp_path / "cut_run") == whole
    assert None not in whole[-1].values()


def test_a_log_without_validation_loss_is_continued(train_workflow: Start, tmp_path: Path) -> None:
    train_workflow(epochs=2, val_interval=1, **watched()).run()
    log = tmp_path / "run" / LOG_NAME
    early = read_log(log)
    lines = [
        {key: value for key, value in record.items() if key not in ("val_loss", "ema_dice")}
        for record in early
    ]
    log.write_text("".join(f"{json_line}\n" for json_line in map(json.dumps, lines)))
    train_workflow(epochs=3, val_interval=1, **watched()).run()
    *before, last = read_log(log)
    assert before == lines
    average = None
    for record in (*before, last):
        average = next_ema(average, record["dice"])
    assert last["ema_dice"] == pytest.approx(average, abs=1e-6)
    assert last["val_loss"] > 0

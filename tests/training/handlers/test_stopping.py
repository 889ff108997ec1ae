"""A signal stops a training within an iteration; resumed, it ends like a training that was never stopped."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers.training_runs import EPOCHS, ITERATIONS, Start, assert_same, load, part
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from dynunet_bundle.training.handlers.generations import LAST
from dynunet_bundle.training.watching.status_file import StatusFile


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def stop_at(workflow: ConfigWorkflow, iteration: int, number: int = signal.SIGTERM) -> None:
    """Run with a signal that arrives during an iteration."""

    def deliver(engine: Engine) -> None:
        if engine.state.iteration == iteration:
            send(number)

    part(workflow, "train#trainer").add_event_handler(Events.ITERATION_STARTED, deliver)
    with pytest.raises(SystemExit) as caught:
        workflow.run()
    assert caught.value.code == 75


def assert_same_end(folder: Path) -> None:
    """``cut`` and ``whole`` end with equal files; earlier generations may differ."""
    for name in (LAST, "model.pt"):
        assert_same(load(folder / "cut" / name), load(folder / "whole" / name), name)


def status(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "status.json").read_text())


def records(folder: Path) -> list[dict[str, Any]]:
    """The log without values that depend on the clock."""
    lines = (folder / "train_log.jsonl").read_text().splitlines()
    names = ("epoch", "loss", "learning_rate", "dice", "dice_by_class", "best_dice", "best_epoch")
    return [{name: json.loads(line).get(name) for name in names} for line in lines]


@pytest.mark.parametrize("overrides", [{}, {"ema_decay": 0.9, "lr_epoch_level": False}])
@pytest.mark.parametrize("iteration", [1, 2, 3, 5])
def test_a_stopped_training_ends_like_one_that_was_not(
    start: Start,
    tmp_path: Path,
    iteration: int,
    overrides: dict[str, Any],
) -> None:
    start("whole", **overrides).run()
    stop_at(start("cut", **overrides), iteration)
    state = load(tmp_path / "cut" / LAST)
    # after the last iteration of an epoch, the validation sees the signal
    assert state["is_unfinished"] == (iteration % ITERATIONS == 0)
    assert state["iteration"] == iteration
    found = status(tmp_path / "cut_run")
    assert (found["state"], found["iteration"]) == ("stopped", iteration)
    assert "SIGTERM" in found["message"]
    start("cut", **overrides).run()
    assert_same_end(tmp_path)
    assert records(tmp_path / "cut_run") == records(tmp_path / "whole_run")
    assert status(tmp_path / "cut_run")["state"] == "finished"


def test_a_training_may_be_stopped_again_and_again(
    start: Start,
    tmp_path: Path,
) -> None:
    start("whole").run()
    for iteration in range(1, EPOCHS * ITERATIONS + 1):
        stop_at(start("cut"), iteration)
    start("cut").run()
    assert_same_end(tmp_path)
    assert records(tmp_path / "cut_run") == records(tmp_path / "whole_run")


def test_accumulated_gradients_are_not_lost(start: Start, tmp_path: Path) -> None:
    """The stop waits for the step that applies them."""
    overrides = {"gradient_accumulation": 2, "iterations_per_epoch": 4}
    start("whole", **overrides).run()
    stop_at(start("cut", **overrides), 5)
    assert load(tmp_path / "cut" / LAST)["iteration"] == 6
    start("cut", **overrides).run()
    assert_same_end(tmp_path)


def test_signals_are_as_before_when_the_training_is_over(start: Start) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    start(epochs=1).run()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    stop_at(start("other", epochs=1), 1)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_ctrl_c_twice_stops_at_once(start: Start, tmp_path: Path) -> None:
    workflow = start()

    def press(engine: Engine) -> None:
        send(signal.SIGINT)
        send(signal.SIGINT)

    part(workflow, "train#trainer").add_event_handler(Events.ITERATION_STARTED, press)
    with pytest.raises(KeyboardInterrupt):
        workflow.run()
    assert not (tmp_path / "models" / LAST).exists()
    assert status(tmp_path / "models_run")["state"] == "failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_ctrl_c_and_the_signal_of_a_scheduler_stop_too(
    start: Start,
    tmp_path: Path,
    number: int,
) -> None:
    stop_at(start(), 3, number)
    assert load(tmp_path / "models" / LAST)["iteration"] == 3


def test_a_signal_while_cases_are_prepared_stops_at_once(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = start()
    dataset = part(workflow, "train#dataset")
    monkeypatch.setattr(dataset, "cases", lambda: send(signal.SIGTERM))
    with pytest.raises(SystemExit) as caught:
        workflow.run()
    assert caught.value.code == 75
    assert status(tmp_path / "models_run")["state"] == "stopped"
    assert not (tmp_path / "models" / LAST).exists()


def test_without_checkpoints_a_stop_is_a_failure(start: Start, tmp_path: Path) -> None:
    workflow = start(checkpoint="none")

    def deliver(engine: Engine) -> None:
        send(signal.SIGTERM)

    part(workflow, "train#trainer").add_event_handler(Events.ITERATION_STARTED, deliver)
    with pytest.raises(SystemExit) as caught:
        workflow.run()
    assert caught.value.code == 1
    found = status(tmp_path / "models_run")
    assert found["state"] == "failed"
    assert "nothing was saved" in found["message"]


def test_a_stop_that_another_process_caused_is_its_failure(start: Start, tmp_path: Path) -> None:
    """torchrun sends SIGTERM to the others when one process fails."""
    workflow = start()

    def fail_elsewhere(engine: Engine) -> None:
        if engine.state.iteration == 3:
            other = StatusFile(str(tmp_path / "models_run"), "task", rank=1, world_size=2)
            other.fail(engine, ValueError("its case is broken"))
            send(signal.SIGTERM)

    part(workflow, "train#trainer").add_event_handler(Events.ITERATION_STARTED, fail_elsewhere)
    with pytest.raises(SystemExit) as caught:
        workflow.run()
    assert caught.value.code == 1
    found = status(tmp_path / "models_run")
    assert (found["state"], found["message"]) == ("failed", "process 1: its case is broken")
    # the completed part is still saved, and the next start is independent of the failure
    assert load(tmp_path / "models" / LAST)["iteration"] == 3
    start().run()
    assert status(tmp_path / "models_run")["state"] == "finished"

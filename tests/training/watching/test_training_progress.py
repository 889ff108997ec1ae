"""The progress line per epoch, and the same values as JSON lines."""

import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.watching import watched
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from dynunet_bundle.training.watching.progress import LOG_NAME, ProgressHandler, as_floats


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(
    folder: Path, *, epochs: int, start_epoch: int = 0, validated: tuple[int, ...] = (2,)
) -> ProgressHandler:
    """Run the handler with an engine whose loss is the number of the iteration."""
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
    assert first["loss"] == 1.5 and second["loss"] == 3.5  # means over the iterations of the epoch
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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock controlled by the test; the handler does not read any other."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("dynunet_bundle.training.watching.progress.time", clock)
    return clock


@pytest.mark.parametrize(
    ("start_epoch", "expected"),
    [(0, ["2:46:39", "1:51:06", "0:55:33", "0:00:00"]), (2, ["0:55:33", "0:00:00"])],
)
def test_the_time_left_follows_from_the_epochs_of_this_run(
    tmp_path, caplog, clock, start_epoch, expected
):
    evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)

    def step(engine: Engine, batch: int) -> dict[str, torch.Tensor]:
        clock.now += 3333.0
        return {"loss": torch.tensor(1.0)}

    def resume(engine: Engine) -> None:
        engine.state.epoch = engine.state.iteration = start_epoch

    def prepare(engine: Engine) -> None:
        # only the first batch waits for this
        clock.now += 100_000.0 if engine.state.epoch == start_epoch + 1 else 0.0

    trainer = Engine(step)
    trainer.add_event_handler(Events.STARTED, resume)
    ProgressHandler(str(tmp_path), evaluator, optimizer, ["background", "head"]).attach(trainer)
    trainer.add_event_handler(Events.GET_BATCH_STARTED, prepare)
    with caplog.at_level(logging.INFO, "dynunet_bundle"):
        trainer.run([0], max_epochs=4)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition("ETA ")[2] for line in lines] == expected
    assert all(record["seconds"] == 3333.0 for record in records(tmp_path))


def drive(
    folder: Path,
    clock: SimpleNamespace,
    *,
    losses: list[float],
    restored: dict[str, object] | None = None,
    device: str = "cpu",
    **settings: int,
) -> Engine:
    """One epoch with one iteration per loss, 2 s each, 10 s more for the first; optionally from a state."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}))

    def step(engine: Engine, _: int) -> dict[str, torch.Tensor]:
        clock.now += 12.0 if engine.state.iteration == 1 else 2.0
        return {"loss": torch.tensor(losses[engine.state.iteration - 1])}

    def resume(engine: Engine) -> None:
        engine.state.device = torch.device(device)
        for name, value in (restored or {}).items():
            setattr(engine.state, name, value)

    trainer = Engine(step)
    trainer.add_event_handler(Events.STARTED, resume)
    handler = ProgressHandler(str(folder), evaluator, optimizer, ["background", "head"], **settings)
    handler.attach(trainer)
    trainer.run(range(len(losses)), max_epochs=1)
    return trainer


def test_an_epoch_that_goes_on_in_the_middle_counts_its_first_losses(tmp_path, clock):
    state = {"iteration": 2, "epoch_losses": [1.0, 2.0]}
    trainer = drive(tmp_path, clock, losses=[-1.0, -1.0, 3.0, 4.0], restored=state)
    (record,) = records(tmp_path)
    assert record["loss"] == 2.5
    assert trainer.state.epoch_losses == [1.0, 2.0, 3.0, 4.0]
    assert record["seconds"] == 4.0  # in this process


def test_losses_of_an_earlier_epoch_do_not_count(tmp_path, clock):
    trainer = drive(tmp_path, clock, losses=[3.0, 5.0], restored={"epoch_losses": [100.0]})
    assert records(tmp_path)[0]["loss"] == 4.0
    assert trainer.state.epoch_losses == [3.0, 5.0]


def test_throughput_is_that_of_all_processes_without_the_start(tmp_path, clock):
    drive(tmp_path, clock, losses=[1.0] * 5, batch_size=3, world_size=4)
    (record,) = records(tmp_path)
    assert record["patches_per_second"] == 6.0  # 12 patches every 2 s
    assert record["seconds"] == 20.0


def test_memory_is_told_on_a_gpu_only(tmp_path, clock, monkeypatch, caplog):
    asked = []

    def peak(device: torch.device) -> int:
        asked.append(str(device))
        return 3 * 2**30

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", peak)
    drive(tmp_path / "cpu", clock, losses=[1.0])
    with caplog.at_level(logging.INFO, "dynunet_bundle"):
        drive(tmp_path / "gpu", clock, losses=[1.0], device="cuda:1")
    assert "gpu_memory_mib" not in records(tmp_path / "cpu")[0]
    assert records(tmp_path / "gpu")[0]["gpu_memory_mib"] == 3072
    assert asked == ["cuda:1"]
    assert "  3072 MiB  " in caplog.records[-1].getMessage()


def test_a_loss_that_is_no_number_leaves_the_log_readable(tmp_path, clock, caplog):
    with caplog.at_level(logging.INFO, "dynunet_bundle"):
        drive(tmp_path, clock, losses=[1.0, float("nan")])
    text = (tmp_path / LOG_NAME).read_text()
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record["loss"] is None
    assert "loss nan" in caplog.records[-1].getMessage()


def test_a_validation_that_is_made_up_for_is_reported_without_an_iteration(tmp_path, caplog):
    """The checkpoint does this for a training that was stopped between the last iteration and the validation."""
    evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)

    def complete(engine: Engine) -> None:
        engine.state.epoch += 1
        evaluator.state = SimpleNamespace(
            epoch=1,
            metrics={"val_mean_dice": 0.5, "val_dice_by_class": {"val_dice_head": 0.5}},
            best_metric=0.5,
            best_metric_epoch=1,
            times={"COMPLETED": 7.5},
        )
        engine.fire_event(Events.EPOCH_COMPLETED)

    def resume(engine: Engine) -> None:
        engine.state.iteration, engine.state.epoch_losses = 2, [1.0, 2.0]
        engine.add_event_handler(Events.STARTED, complete)

    trainer = Engine(lambda engine, _: {"loss": torch.tensor(4.0)})
    trainer.add_event_handler(Events.STARTED, resume)
    ProgressHandler(str(tmp_path), evaluator, optimizer, ["background", "head"]).attach(trainer)
    with caplog.at_level(logging.INFO, "dynunet_bundle"):
        trainer.run([0, 1], max_epochs=2)
    first, second = records(tmp_path)
    assert (first["epoch"], first["loss"], first["learning_rate"]) == (1, 1.5, 0.5)
    assert (first["dice"], first["dice_by_class"]) == (0.5, {"head": 0.5})
    assert first["validation_seconds"] == 7.5
    assert "patches_per_second" not in first
    assert caplog.records[0].getMessage().endswith("ETA unknown")
    assert (second["epoch"], second["loss"]) == (2, 4.0)


def test_losses_become_numbers_in_their_order():
    mixed = [1.5, torch.tensor(2.5), torch.tensor(3.5), 4.5]
    assert as_floats(mixed) == [1.5, 2.5, 3.5, 4.5]
    assert as_floats([]) == []


@pytest.mark.parametrize("torn", ['{"epoch": 2, "lo', "\x00\x00\x00"])
def test_a_line_that_a_power_cut_tore_does_not_stop_the_next_run(tmp_path, torn):
    run(tmp_path, epochs=1)
    with (tmp_path / LOG_NAME).open("a") as file:
        file.write(torn)
    run(tmp_path, epochs=3, start_epoch=1)
    assert [record["epoch"] for record in records(tmp_path)] == [1, 2, 3]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """caplog that survives the bundle's logging.conf, which replaces the root logger's handlers."""
    logger = logging.getLogger("dynunet_bundle.training.watching.progress")
    caplog.set_level(logging.INFO, logger.name)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_train_json_reports_each_epoch_once(
    train_workflow: Callable[..., ConfigWorkflow], tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    workflow = train_workflow(epochs=3, val_interval=2, **watched())
    trainer = workflow.parser.get_parsed_content("train#trainer")
    optimizer = workflow.parser.get_parsed_content("optimizer")
    rates, losses = [], []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: losses.append(float(engine.state.output["loss"].detach())),
    )
    trainer.add_event_handler(
        Events.EPOCH_STARTED, lambda engine: rates.append(optimizer.param_groups[0]["lr"])
    )
    workflow.run()
    found = records(tmp_path / "run")
    assert [record["epoch"] for record in found] == [1, 2, 3]
    assert [("dice" in record, "dice_by_class" in record) for record in found] == [
        (False, False),
        (True, True),
        (True, True),  # the last epoch is always validated
    ]
    means = [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)]
    assert [record["loss"] for record in found] == pytest.approx(means, abs=1e-6)
    # an epoch is reported with its own rate
    assert [record["learning_rate"] for record in found] == pytest.approx(rates)
    state = workflow.parser.get_parsed_content("validate#evaluator").state
    scores = found[2]["dice_by_class"]
    assert list(scores) == ["head", "tail"]
    assert found[2]["dice"] == pytest.approx(state.metrics["val_mean_dice"], abs=1e-6)
    assert found[2]["val_loss"] == pytest.approx(state.metrics["val_loss"], abs=1e-6)
    average = 0.9 * found[1]["dice"] + 0.1 * found[2]["dice"]
    assert found[2]["ema_dice"] == pytest.approx(average, abs=1e-6)
    named = state.metrics["val_dice_by_class"]
    assert list(named) == ["val_dice_head", "val_dice_tail"]
    assert list(scores.values()) == pytest.approx(list(named.values()), abs=1e-6)
    assert all(record["patches_per_second"] > 0 for record in found)
    assert found[2]["validation_seconds"] < found[2]["seconds"]
    lines = {record.getMessage() for record in log.records if record.name.endswith(".progress")}
    line = next(line for line in lines if line.startswith("epoch 2/3"))
    assert re.search(r"\(head \d\.\d{3}, tail \d\.\d{3}; best \d\.\d{4} at 2\)", line)
    assert re.search(r"ETA \d+:\d\d:\d\d$", line)


def test_a_run_that_falls_back_a_generation_reports_each_epoch_once(
    train_workflow: Callable[..., ConfigWorkflow], tmp_path: Path
) -> None:
    train_workflow(epochs=3).run()
    before = records(tmp_path / "run")
    (tmp_path / "models" / "checkpoint_last.pt").write_bytes(b"damaged")
    train_workflow(epochs=3).run()
    after = records(tmp_path / "run")
    assert [record["epoch"] for record in after] == [1, 2, 3]
    # epoch 3 was trained again, with the same result
    assert after[2]["seconds"] != before[2]["seconds"]
    timeless = [
        {
            name: value
            for name, value in record.items()
            if not name.endswith("seconds") and name != "patches_per_second"
        }
        for record in (before[2], after[2])
    ]
    assert timeless[0] == timeless[1]
    assert after[:2] == before[:2]

"""progress.png shows the values of the log, is redrawn at intervals, and never stops a training."""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.watching import watched
from ignite.engine import Engine, Events
from PIL import Image

from dynunet_bundle.drawing.charts import INK, save_figure
from dynunet_bundle.drawing.colours import COLOURS
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.training.watching import curves
from dynunet_bundle.training.watching.curves import (
    PICTURE_NAME,
    CurvesHandler,
    draw_curves,
)
from dynunet_bundle.training.watching.status import LOG_NAME, STATUS_NAME

NAMES = ["background", "head", "tail"]
LABELS = LabelScheme(NAMES)


def made(count: int, names: list[str] = NAMES, validated: int = 2) -> list[dict[str, Any]]:
    """A log of ``count`` epochs, validated at an interval."""
    records = []
    for epoch in range(1, count + 1):
        record: dict[str, Any] = {
            "epoch": epoch,
            "loss": 2 / epoch,
            "learning_rate": 0.01 * (1 - epoch / (count + 1)),
            "seconds": 12.0,
            "patches_per_second": 40.0,
        }
        if epoch % validated == 0:
            dice = {name: epoch / (count + 1 + place) for place, name in enumerate(names[1:])}
            record |= {"dice": sum(dice.values()) / len(dice), "dice_by_class": dice}
            record |= {"validation_seconds": 5.0}
        records.append(record)
    return records


def lines_of(records: list[dict[str, Any]], names: list[str] = NAMES) -> dict[str, list[Any]]:
    """Lines, by the title of their chart."""
    axes = draw_curves(records, names).get_axes()
    return {one.get_title(loc="left"): one.get_lines() for one in axes}


@pytest.mark.parametrize("epochs", [0, 1, 2, 30, 1000])
def test_any_length_of_log_gives_a_picture(epochs, tmp_path):
    save_figure(draw_curves(made(epochs), NAMES), tmp_path / PICTURE_NAME)
    assert Image.open(tmp_path / PICTURE_NAME).size == (1200, 700)
    lines = lines_of(made(epochs))
    assert len(lines) == 5
    assert [len(line.get_xdata()) for line in lines["loss"]][:1] == [epochs] * (epochs > 0)
    # each class, the mean and its moving average, starting at the first validation
    assert len(lines["Dice of the validation cases"]) == 4 * (epochs > 1)


@pytest.mark.parametrize("epochs", [1, 2, 5, 300])
def test_epochs_are_whole_numbers(epochs):
    for axes in draw_curves(made(epochs), NAMES).get_axes():
        ticks = [float(tick) for tick in axes.get_xticks()]
        assert ticks and all(tick.is_integer() for tick in ticks)


def test_the_heading_names_the_task(tmp_path, monkeypatch):
    write_log(tmp_path, made(3))
    (tmp_path / STATUS_NAME).write_text(json.dumps({"task_name": "Task04_Hippocampus"}))
    drawn = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, _: drawn.append(figure))
    CurvesHandler(str(tmp_path), LABELS).draw()
    heading = drawn[0].get_suptitle()
    assert heading.startswith("Task04_Hippocampus ")
    assert "/".join(tmp_path.parts[-3:])[-40:] in heading


def test_the_learning_rate_is_drawn_to_its_end():
    records = [*made(3), {"epoch": 4, "learning_rate": 0.0}]
    (line,) = lines_of(records)["learning rate"]
    assert line.get_xydata()[-1].tolist() == [4, 0]


def test_what_a_record_lacks_is_left_out():
    sparse = [{"epoch": 1}, {"epoch": 2, "loss": None, "dice": None}, {"epoch": 3, "loss": 1.0}]
    (line,) = lines_of(sparse)["loss"]
    assert line.get_xydata().tolist() == [[3, 1.0]]


def test_few_classes_have_colours_and_of_many_the_worst_has():
    few = lines_of(made(10))["Dice of the validation cases"]
    assert {line.get_color() for line in few} == {*COLOURS[:2], INK}
    names = ["background", *(f"organ {number}" for number in range(20))]
    many = lines_of(made(10, names), names)["Dice of the validation cases"]
    assert [line.get_color() for line in many].count(COLOURS[19]) == 1
    # in the colour that it has in every picture
    assert {line.get_color() for line in many} == {COLOURS[19], "#cccccc", INK}
    assert "worst: organ 19" in [line.get_label() for line in many]


def test_validation_loss_is_beside_training_loss_and_logs_without_it_are_drawn():
    records = made(10)
    assert [line.get_label() for line in lines_of(records)["loss"]] == ["training"]
    for record in records[1::2]:
        record["val_loss"] = 1.0
    training, validation = lines_of(records)["loss"]
    assert validation.get_label() == "validation"
    assert validation.get_xdata().tolist() == [2, 4, 6, 8, 10]
    assert training.get_color() != validation.get_color()


def test_the_moving_average_is_nnunets():
    records = made(6)
    for record, dice in zip(records[1::2], (0.5, 1.0, 0.0), strict=True):
        record["dice"] = dice
    lines = lines_of(records)["Dice of the validation cases"]
    (average,) = [line for line in lines if line.get_label() == "moving average"]
    assert average.get_ydata().tolist() == pytest.approx([0.5, 0.55, 0.495])


def test_a_region_has_the_colour_of_its_class_in_masks():
    axes = draw_curves(made(10), NAMES, "", [2, 1]).get_axes()[1]
    colours = {line.get_label(): line.get_color() for line in axes.get_lines()}
    assert (colours["head"], colours["tail"]) == (COLOURS[1], COLOURS[0])


def test_the_best_is_the_first_of_the_highest():
    records = made(8)
    for record, dice in zip(records[1::2], (0.5, 0.9, 0.7, 0.9), strict=True):
        record["dice"] = dice
    assert curves._best(records) == (4.0, 0.9)
    heading = curves._heading(records, "Task04")
    assert heading.startswith("Task04 ") and "best mean Dice 0.9000 at epoch 4" in heading
    assert "0:01:36 of training" in heading


def test_the_loss_is_smoothed_without_a_lag():
    line = [(float(x), 3.0 * x + 1) for x in range(200)]
    assert np.allclose(curves._smoothed(line), line)
    noise = [(float(x), float(x % 2)) for x in range(200)]
    middle = [y for _, y in curves._smoothed(noise)][20:-20]
    assert max(middle) - min(middle) < 0.2


def test_time_is_split_into_iterations_and_validation():
    iterations, validation = curves._time_chart(made(2)).lines
    assert list(iterations.points) == [(1.0, 12.0), (2.0, 7.0)]
    assert list(validation.points) == [(2.0, 5.0)]


def write_log(folder: Path, records: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / LOG_NAME).write_text(text)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(curves, "time", clock)
    return clock


def test_the_picture_is_drawn_now_and_then_and_at_the_end(tmp_path, clock, monkeypatch):
    write_log(tmp_path, made(3))
    drawn = []
    handler = CurvesHandler(str(tmp_path), LABELS)
    monkeypatch.setattr(curves, "save_figure", lambda *_: drawn.append(trainer.state.epoch))
    trainer = Engine(lambda *_: None)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: setattr(clock, "now", clock.now + 25))
    handler.attach(trainer)
    trainer.run([0], max_epochs=8)
    assert drawn == [1, 4, 7, 8]


@pytest.mark.parametrize("fault", ["full disk", "torn log", "strange record"])
def test_a_picture_that_fails_costs_one_warning_and_no_training(
    fault, tmp_path, monkeypatch, caplog
):
    write_log(tmp_path, made(3))
    if fault == "full disk":
        monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space")))
    elif fault == "torn log":
        with (tmp_path / LOG_NAME).open("a") as file:
            file.write('{"epoch": 4, "lo')
    else:
        write_log(tmp_path, [{"epoch": 1, "loss": "low"}])
    monkeypatch.setattr(curves, "INTERVAL_S", 0)
    trainer = Engine(lambda *_: None)
    CurvesHandler(str(tmp_path), LABELS).attach(trainer)
    with caplog.at_level(logging.WARNING, "dynunet_bundle"):
        trainer.run([0], max_epochs=3)
    assert trainer.state.epoch == 3
    warnings = [record.getMessage() for record in caplog.records]
    # lines that are not records are left out
    assert len(warnings) == (fault == "full disk")
    assert (tmp_path / PICTURE_NAME).exists() == (fault != "full disk")
    assert all(PICTURE_NAME in warning for warning in warnings)
    assert not list(tmp_path.glob(".*")), "nothing half-written stays"


def test_a_training_leaves_its_picture(train_workflow, tmp_path):
    train_workflow(**watched()).run()
    picture = Image.open(tmp_path / "run" / PICTURE_NAME)
    picture.load()
    assert picture.format == "PNG" and picture.size == (1200, 700)


def test_a_training_without_matplotlib_says_so_once_and_goes_on(tmp_path, monkeypatch, caplog):
    write_log(tmp_path, made(3))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(curves, "INTERVAL_S", 0)
    trainer = Engine(lambda *_: None)
    CurvesHandler(str(tmp_path), LABELS).attach(trainer)
    with caplog.at_level(logging.WARNING, "dynunet_bundle"):
        trainer.run([0], max_epochs=3)
    (message,) = (record.getMessage() for record in caplog.records)
    assert "progress.png was not drawn" in message and "pip install matplotlib" in message
    assert trainer.state.epoch == 3 and not (tmp_path / PICTURE_NAME).exists()

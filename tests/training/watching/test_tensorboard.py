"""One event file has named curves, and slices of validation cases with outlines."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.watching import watched
from ignite.engine import Engine
from PIL import Image, ImageColor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from dynunet_bundle.drawing.colours import COLOURS
from dynunet_bundle.labels.scheme import IGNORE_CLASS
from dynunet_bundle.training.watching.status import LOG_NAME, read_log
from dynunet_bundle.training.watching.tensorboard import (
    TILE_PIXELS,
    ExampleSlices,
    tag_of,
    write_epoch,
)


def load(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def scalars(events: EventAccumulator, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in events.Scalars(tag)}


def images(events: EventAccumulator, tag: str) -> dict[int, np.ndarray]:
    return {
        event.step: np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        for event in events.Images(tag)
    }


def has_colour(picture: np.ndarray, colour: str) -> bool:
    return bool((picture == ImageColor.getrgb(colour)).all(axis=-1).any())


def third(picture: np.ndarray, place: int) -> np.ndarray:
    """One of the three tiles (image, label, prediction), without the gaps around it and the legend."""
    width = (picture.shape[1] - 6) // 3
    return picture[26 : 26 + TILE_PIXELS, place * width + 6 : (place + 1) * width]


@pytest.fixture
def trained(train_workflow: Any, tmp_path: Path) -> Path:
    """The folder of a training of 3 epochs, of which the last two are validated."""
    train_workflow(epochs=3, val_interval=2, **watched()).run()
    return tmp_path / "run"


def test_curves_are_those_of_the_log(trained):
    (file,) = (trained / "tensorboard").iterdir()
    assert file.name.startswith("events.out.tfevents")
    events, records = load(trained / "tensorboard"), read_log(trained / LOG_NAME)
    losses = scalars(events, "train/loss")
    assert list(losses) == [1, 2, 3, 4, 5, 6]  # per iteration
    for record in records:
        steps = (2 * record["epoch"] - 1, 2 * record["epoch"])
        assert np.mean([losses[step] for step in steps]) == pytest.approx(record["loss"], abs=1e-5)
    for tag, name in (
        ("train/learning_rate", "learning_rate"),
        ("train/seconds", "seconds"),
        ("train/patches_per_second", "patches_per_second"),
        ("val/loss", "val_loss"),
        ("val/mean_dice", "dice"),
        ("val/ema_dice", "ema_dice"),
        ("val/seconds", "validation_seconds"),
    ):
        expected = {record["epoch"]: record[name] for record in records if name in record}
        assert scalars(events, tag) == pytest.approx(expected)
    for name in ("head", "tail"):
        expected = {
            record["epoch"]: record["dice_by_class"][name]
            for record in records
            if "dice_by_class" in record
        }
        assert list(expected) == [2, 3]
        assert scalars(events, f"val/dice/{name}") == pytest.approx(expected, abs=1e-6)


def test_slices_of_each_validation_case_at_each_validation(trained):
    events = load(trained / "tensorboard")
    assert events.Tags()["images"] == ["val/case_1", "val/case_2"]
    for tag in events.Tags()["images"]:
        shown = images(events, tag)
        assert list(shown) == [2, 3]
        before, after = shown.values()
        # image and label show the same slice
        assert np.array_equal(third(before, 0), third(after, 0))
        assert np.array_equal(third(before, 1), third(after, 1))
        assert has_colour(third(before, 1), COLOURS[0])
        assert not has_colour(third(before, 0), COLOURS[0])
        legend = before[26 + TILE_PIXELS + 6 :]
        assert has_colour(legend, COLOURS[0]) and has_colour(legend, COLOURS[1])


def test_a_training_that_goes_on_goes_on_in_the_curves(train_workflow, tmp_path):
    train_workflow(epochs=1, **watched()).run()
    train_workflow(epochs=2, **watched()).run()
    events = load(tmp_path / "run" / "tensorboard")
    assert list(scalars(events, "train/loss")) == [1, 2, 3, 4]
    assert list(scalars(events, "val/mean_dice")) == [1, 2]


def test_other_processes_write_nothing(train_workflow, tmp_path):
    train_workflow(epochs=1, rank=1, checkpoint="none", **watched()).run()
    run = tmp_path / "run"
    assert not (run / "tensorboard").exists()
    assert not (run / LOG_NAME).exists()
    assert not (run / "progress.png").exists()


def test_numbers_that_are_missing_are_left_out(tmp_path):
    record = {"dice": None, "dice_by_class": {"a b/c": 0.5, "d": None}, "gpu_memory_mib": 12.0}
    state = SimpleNamespace(epoch=7, iteration=40, epoch_losses=[1.0, 2.0], epoch_record=record)
    with SummaryWriter(str(tmp_path)) as writer:
        write_epoch(SimpleNamespace(state=state), writer)
    events = load(tmp_path)
    assert sorted(events.Tags()["scalars"]) == [
        "train/gpu_memory_mib",
        "train/loss",
        "val/dice/a_b_c",
    ]
    # the end of an epoch that another process began
    assert scalars(events, "train/loss") == {39: 1.0, 40: 2.0}
    assert scalars(events, "train/gpu_memory_mib") == {7: 12.0}


@pytest.mark.parametrize(
    ("name", "tag"), [("liver", "liver"), ("Leber (links)", "Leber__links_"), ("Ödem", "Ödem")]
)
def test_names_become_tags(name, tag):
    assert tag_of(name) == tag


def show(folder: Path, cases: list[dict[str, torch.Tensor]], **settings: Any) -> EventAccumulator:
    """Validate cases one by one, twice."""
    with SummaryWriter(str(folder)) as writer:
        evaluator = Engine(lambda _, case: [case])
        ExampleSlices(writer, **settings).attach(evaluator)
        evaluator.run(cases, max_epochs=2)
    return load(folder)


def case(label: torch.Tensor, prediction: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """A case with one grey value per slice."""
    image = torch.zeros(2, *label.shape[1:])
    image += torch.arange(label.shape[1]).view(-1, *(1,) * (label.ndim - 2))
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    return {
        "image": image + noise,
        "label": label.byte(),
        "pred": torch.zeros_like(label) if prediction is None else prediction,
    }


def test_the_slice_with_the_most_foreground_is_shown_and_both_outlines_are_their_own(tmp_path):
    label, prediction = torch.zeros(1, 9, 20, 20), torch.zeros(1, 9, 20, 20)
    label[0, 2, 5:8, 5:8] = 1
    label[0, 6, 4:16, 4:16] = 1
    label[0, 4] = IGNORE_CLASS  # has no effect
    prediction[0, 6, 4:12, 4:12] = 2
    found = images(show(tmp_path, [case(label, prediction)]), "val/case_1")
    assert list(found) == [1, 2]
    picture = found[1]
    assert has_colour(third(picture, 1), COLOURS[0])
    assert not has_colour(third(picture, 1), COLOURS[1])
    assert has_colour(third(picture, 2), COLOURS[1])
    assert not has_colour(third(picture, 2), COLOURS[0])


def test_voxels_that_nobody_labelled_have_no_outline(tmp_path):
    label = torch.full((1, 5, 16, 16), IGNORE_CLASS)
    label[0, 2, :8] = 0
    picture = images(show(tmp_path, [case(label)]), "val/case_1")[1]
    assert np.array_equal(third(picture, 0), third(picture, 1))


def test_only_so_many_cases_are_written(tmp_path):
    label = torch.ones(1, 4, 8, 8)
    events = show(tmp_path, [case(label)] * 5)
    assert events.Tags()["images"] == [f"val/case_{number}" for number in (1, 2, 3)]
    assert all(len(events.Images(tag)) == 2 for tag in events.Tags()["images"])


@pytest.mark.parametrize(
    ("shape", "spacing", "ratio"),
    [
        ((1, 4, 20, 10), (5.0, 1.0, 1.0), 2.0),
        ((1, 4, 20, 10), (1.0, 1.0, 4.0), 0.5),
        ((1, 30, 30), (1, 1, 1), 1.0),
    ],
)
def test_pixels_are_as_long_as_in_the_body(tmp_path, shape, spacing, ratio):
    picture = images(show(tmp_path, [case(torch.ones(shape))], spacing=spacing), "val/case_1")[1]
    height, width = picture.shape[0] - 26 - 6, (picture.shape[1] - 4 * 6) / 3
    assert height / width == pytest.approx(ratio, rel=0.02)
    assert max(height, width) == 256

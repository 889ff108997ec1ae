"""Which epochs are validated, and when a training ends before its last epoch."""

from collections.abc import Callable
from typing import Any

import pytest
from helpers.training_runs import Start, load, part
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

LAST = "checkpoint_last.pt"


def validated_epochs(workflow: ConfigWorkflow) -> list[int]:
    found: list[int] = []
    evaluator = part(workflow, "validate#evaluator")
    evaluator.add_event_handler(
        Events.STARTED, lambda engine: found.append(part(workflow, "train#trainer").state.epoch)
    )
    workflow.run()
    return found


@pytest.mark.parametrize(
    ("epochs", "interval", "skip", "expected"),
    [
        (4, 1, 0, [1, 2, 3, 4]),
        (4, 2, 0, [2, 4]),
        (5, 2, 2, [4, 5]),
        (4, 1, 2, [3, 4]),
        (3, 10, 0, [3]),
        (3, 1, 3, []),
    ],
)
def test_the_epochs_that_are_validated(
    start: Start,
    epochs: int,
    interval: int,
    skip: int,
    expected: list[int],
) -> None:
    workflow = start(
        epochs=epochs, val_interval=interval, skip_validation=skip, iterations_per_epoch=1
    )
    assert validated_epochs(workflow) == expected


def never_better_after(workflow: ConfigWorkflow, best: int) -> None:
    trainer = part(workflow, "train#trainer")
    part(workflow, "validate#evaluator").metric_cmp_fn = lambda *_: trainer.state.epoch <= best


@pytest.mark.parametrize(("patience", "last"), [(2, 4), (3, 5), (None, 8)])
def test_it_stops_when_the_best_epoch_lies_too_far_back(
    start: Start,
    tmp_path: Any,
    patience: int | None,
    last: int,
) -> None:
    settings = {"epochs": 8, "iterations_per_epoch": 1, "early_stopping": patience}
    workflow = start(**settings)
    never_better_after(workflow, 2)
    workflow.run()
    assert part(workflow, "train#trainer").state.epoch == last
    assert load(tmp_path / "models" / LAST)["epoch"] == last
    # the same command does nothing
    again = start(**settings)
    part(again, "train#trainer").add_event_handler(
        Events.ITERATION_STARTED, lambda engine: pytest.fail("it trained")
    )
    again.run()


def test_patience_survives_a_resume(start: Start, tmp_path: Any) -> None:
    settings = {"iterations_per_epoch": 1, "early_stopping": 3}
    first = start(epochs=3, **settings)
    never_better_after(first, 1)
    first.run()
    second = start(epochs=8, **settings)
    never_better_after(second, 1)
    second.run()
    assert load(tmp_path / "models" / LAST)["epoch"] == 4


@pytest.fixture
def weights_of_epochs() -> Callable[[ConfigWorkflow], list[Any]]:
    def collect(workflow: ConfigWorkflow) -> list[Any]:
        found: list[Any] = []
        network = part(workflow, "network")

        def note(engine: Engine) -> None:
            found.append({key: value.clone() for key, value in network.state_dict().items()})

        part(workflow, "train#trainer").add_event_handler(Events.EPOCH_COMPLETED, note)
        workflow.run()
        return found

    return collect


def test_the_strategies_of_the_checkpoint(
    start: Start,
    tmp_path: Any,
    weights_of_epochs: Callable[[ConfigWorkflow], list[Any]],
) -> None:
    last_only = start("last", checkpoint="last_only")
    never_better_after(last_only, 1)
    weights = weights_of_epochs(last_only)
    model = load(tmp_path / "last" / "model.pt")
    assert all(value.equal(weights[-1][key]) for key, value in model.items())
    best = start("best")
    never_better_after(best, 1)
    weights = weights_of_epochs(best)
    model = load(tmp_path / "best" / "model.pt")
    assert all(value.equal(weights[0][key]) for key, value in model.items())
    none = start("none", checkpoint="none")
    none.run()
    assert list((tmp_path / "none").iterdir()) == []


def test_an_unknown_strategy_is_refused(start: Start) -> None:
    with pytest.raises(
        ValueError, match="checkpoint to .best.; it must be last_and_best, last_only or none"
    ):
        start(checkpoint="best").run()

"""A NaN loss stops a training before it spoils the weights; out of GPU memory, the error says what to lower."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training_runs import ITERATIONS, Start, assert_same, load, part
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.engines.utils import IterationEvents

from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.errors import CaseError, TrainingError, find_user_error
from dynunet_bundle.training.handlers.generations import LAST


def run_and_fail(workflow: ConfigWorkflow) -> TrainingError:
    with pytest.raises(TrainingError) as caught:
        workflow.run()
    assert find_user_error(caught.value) is caught.value
    assert caught.value.exit_code == 1
    return caught.value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_before_the_step(
    start: Start,
    tmp_path: Path,
    value: float,
) -> None:
    workflow = start()
    weights: list[dict[str, torch.Tensor]] = []
    network = part(workflow, "network")

    def spoil(engine: Engine) -> None:
        if engine.state.iteration == ITERATIONS + 2:
            weights.append({key: item.clone() for key, item in network.state_dict().items()})
            engine.state.output["loss"] = engine.state.output["loss"] * value

    part(workflow, "train#trainer").add_event_handler(IterationEvents.LOSS_COMPLETED, spoil)
    error = run_and_fail(workflow)
    assert_same(dict(network.state_dict()), weights[0])
    assert load(tmp_path / "models" / LAST)["epoch"] == 1
    found = json.loads((tmp_path / "models_run" / "bad_batch.json").read_text())
    assert (found["epoch"], found["iteration"]) == (2, ITERATIONS + 2)
    names = {name_of(case) for case in part(workflow, "train#dataset").data}
    cases = [sample["case"] for sample in found["samples"]]
    assert len(cases) == 2
    assert set(cases) <= names
    assert all(case in str(error) for case in cases)
    assert "--learning_rate" in str(error)
    status = json.loads((tmp_path / "models_run" / "status.json").read_text())
    assert status["state"] == "failed"
    assert "loss is" in status["message"]


def test_a_gpu_without_memory_says_what_to_lower(start: Start, tmp_path: Path) -> None:
    workflow = start()

    def fill(engine: Engine) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    part(workflow, "train#trainer").add_event_handler(Events.ITERATION_STARTED, fill)
    message = str(run_and_fail(workflow))
    for needed in (
        "--batch_size",
        "--patch_size",
        "batch_size 2",
        "[16, 16, 16]",
        "dynunet-bundle plan",
    ):
        assert needed in message


def test_other_failures_keep_their_name(start: Start, tmp_path: Path) -> None:
    workflow = start()

    def fail(engine: Engine) -> None:
        raise KeyError("something else")

    part(workflow, "train#trainer").add_event_handler(Events.ITERATION_STARTED, fail)
    with pytest.raises(RuntimeError) as caught:
        workflow.run()
    assert isinstance(caught.value.__cause__, KeyError)
    status = json.loads((tmp_path / "models_run" / "status.json").read_text())
    assert status["state"] == "failed"


def test_a_gradient_that_is_no_number_stops_too(start: Start, tmp_path: Path) -> None:
    """The loss may still be finite; without mixed precision nothing else would detect it."""
    workflow = start()
    network = part(workflow, "network")
    before: dict[str, Any] = {}

    def spoil(engine: Engine) -> None:
        before.update({key: value.clone() for key, value in network.state_dict().items()})
        next(network.parameters()).grad[:] = float("nan")

    trainer = part(workflow, "train#trainer")
    # before the handlers of the config
    trainer._event_handlers[IterationEvents.BACKWARD_COMPLETED].insert(0, (spoil, (trainer,), {}))
    assert "gradient" in str(run_and_fail(workflow))
    assert_same(dict(network.state_dict()), before)


def test_without_clipping_a_gradient_is_looked_at_too(start: Start) -> None:
    workflow = start(gradient_clip=None)
    network = part(workflow, "network")
    trainer = part(workflow, "train#trainer")

    def spoil(engine: Engine) -> None:
        next(network.parameters()).grad[:] = float("inf")

    trainer._event_handlers[IterationEvents.BACKWARD_COMPLETED].insert(0, (spoil, (trainer,), {}))
    assert "gradient" in str(run_and_fail(workflow))


def test_a_validation_without_memory_says_what_helps_there(start: Start) -> None:
    workflow = start()

    def fill(engine: Engine) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    part(workflow, "validate#evaluator").add_event_handler(Events.ITERATION_STARTED, fill)
    message = str(run_and_fail(workflow))
    assert "--validate#inferer#device cpu" in message and "\n" not in message
    assert f"case {validated(workflow)}" in message


def validated(workflow: ConfigWorkflow) -> str:
    """Name of the first case of the validation."""
    return name_of(part(workflow, "validate#dataset").data[0])


NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


@pytest.mark.parametrize(
    ("event", "failure"),
    [
        (Events.ITERATION_STARTED, MemoryError()),
        # MONAI has taken the batch apart by then
        (Events.ITERATION_COMPLETED, RuntimeError(NO_MEMORY)),
    ],
)
def test_a_validation_without_main_memory_is_one_line_and_the_training_continues(
    start: Start, tmp_path: Path, event: Any, failure: Exception
) -> None:
    workflow = start()
    trainer = part(workflow, "train#trainer")

    def fill(engine: Engine) -> None:
        if trainer.state.epoch == 2:
            raise failure

    part(workflow, "validate#evaluator").add_event_handler(event, fill)
    message = str(run_and_fail(workflow))
    assert f"this machine has too little memory to validate case {validated(workflow)}" in message
    assert "\n" not in message and "checkpoint is good" in message
    status = json.loads((tmp_path / "models_run" / "status.json").read_text())
    assert status["state"] == "failed" and status["message"] == message
    assert load(tmp_path / "models" / LAST)["epoch"] == 1
    again = start()
    again.run()
    assert load(tmp_path / "models" / LAST)["epoch"] == part(again, "epochs")


def test_a_case_that_cannot_be_loaded_for_the_validation(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = start()
    dataset = part(workflow, "validate#dataset")

    def fill(case: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(dataset, "_load", fill)
    with pytest.raises(CaseError, match="there is not enough memory") as caught:
        workflow.run()
    assert caught.value.case == validated(workflow)

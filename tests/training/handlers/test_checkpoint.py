"""A training that is interrupted and resumed ends with the same files as an uninterrupted one."""

import errno
import hashlib
import json
import logging
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.training_runs import EPOCHS, ITERATIONS, Start, assert_same, load, part
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.data import Dataset
from torch import nn

from dynunet_bundle.errors import ConfigError, OutputError, WeightsError, find_user_error
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.networks.dynunet import inference_state_dict
from dynunet_bundle.training.handlers.checkpoint import CheckpointHandler
from dynunet_bundle.training.handlers.generations import LAST, PREVIOUS_NAME
from dynunet_bundle.training.handlers.identity import training_ranges

OVERLAYS = ("train", "quick")


def assert_same_files(ours: Path, theirs: Path) -> None:
    names = {path.name for path in theirs.iterdir() if path.is_file()}
    assert (
        {path.name for path in ours.iterdir() if path.is_file()}
        == names
        == {LAST, PREVIOUS_NAME, "model.pt", "model.json"}
    )
    for name in (LAST, PREVIOUS_NAME, "model.pt"):
        assert_same(load(ours / name), load(theirs / name), name)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.iterdir() if path.is_file()]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def interrupt(workflow: ConfigWorkflow, iteration: int) -> None:
    """Run until an iteration starts, and fail at that point."""

    def fail(engine: Engine) -> None:
        if engine.state.iteration == iteration:
            raise RuntimeError("power cut")

    part(workflow, "train#trainer").add_event_handler(Events.ITERATION_STARTED, fail)
    with pytest.raises(RuntimeError) as caught:
        workflow.run()
    assert "power cut" in str(caught.value.__cause__)


class NamesOnly(Dataset):
    """A data set with case names only."""

    def cases(self) -> list[Any]:
        return []


@pytest.mark.parametrize("overlays", OVERLAYS)
@pytest.mark.parametrize("iteration", [1, 3, 4, 6])
def test_an_interrupted_training_ends_like_an_uninterrupted_one(
    start: Start, tmp_path: Path, overlays: str, iteration: int
) -> None:
    start("whole", overlays).run()
    interrupt(start("cut", overlays), iteration)
    done = (iteration - 1) // ITERATIONS
    if done:
        assert load(tmp_path / "cut" / LAST)["epoch"] == done
    else:
        assert list((tmp_path / "cut").iterdir()) == []
    resumed = start("cut", overlays)
    trained: list[int] = []
    part(resumed, "train#trainer").add_event_handler(
        Events.EPOCH_STARTED, lambda engine: trained.append(engine.state.epoch)
    )
    resumed.run()
    assert trained == list(range(done + 1, EPOCHS + 1))
    assert_same_files(tmp_path / "cut", tmp_path / "whole")


def test_training_changes_the_weights_and_seeds_differ(start: Start, tmp_path: Path) -> None:
    """Otherwise equal files would not prove anything."""
    start("ours").run()
    start("theirs", seed=1).run()
    last, previous = load(tmp_path / "ours" / LAST), load(tmp_path / "ours" / PREVIOUS_NAME)
    other = load(tmp_path / "theirs" / LAST)
    for key, value in last["model"].items():
        assert not torch.equal(value, previous["model"][key]), key
        if value.std() > 0:
            assert not torch.equal(value, other["model"][key]), key


def test_the_state_is_complete_and_safe_to_load(start: Start, tmp_path: Path) -> None:
    workflow = start()
    workflow.run()
    last, previous = load(tmp_path / "models" / LAST), load(tmp_path / "models" / PREVIOUS_NAME)
    assert (previous["epoch"], last["epoch"]) == (EPOCHS - 1, EPOCHS)
    assert last["loader"] == part(workflow, "train#dataloader").state_dict()
    assert last["loader"]["iteration"] == EPOCHS * ITERATIONS
    assert last["lr_scheduler"]["last_epoch"] == EPOCHS
    assert len(last["optimizer"]["state"]) == len(list(part(workflow, "network").parameters()))
    assert last["plan"] == part(workflow, "plan")
    evaluator = part(workflow, "validate#evaluator")
    assert last["best_metric"] == evaluator.state.best_metric
    assert last["best_metric_epoch"] == evaluator.state.best_metric_epoch


def test_the_sidecar_describes_the_model(start: Start, tmp_path: Path) -> None:
    workflow = start()
    workflow.run()
    folder = tmp_path / "models"
    facts = json.loads((folder / "model.json").read_text())
    state = part(workflow, "validate#evaluator").state
    assert facts["plan"] == part(workflow, "plan")
    assert facts["sha256"] == hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest()
    assert (facts["epoch"], facts["val_mean_dice"]) == (state.best_metric_epoch, state.best_metric)
    assert (facts["epochs"], facts["iterations_per_epoch"]) == (3, 2)


@pytest.mark.parametrize("best", [1, 2, 3])
def test_the_model_holds_the_weights_of_the_best_epoch(
    start: Start, tmp_path: Path, best: int
) -> None:
    workflow = start()
    evaluator, trainer = part(workflow, "validate#evaluator"), part(workflow, "train#trainer")
    # whatever the Dice is, this epoch is better than all others
    evaluator.metric_cmp_fn = lambda current, previous: evaluator.state.epoch <= best
    weights = {}

    def remember(engine: Engine) -> None:
        state = inference_state_dict(part(workflow, "network"))
        weights[engine.state.epoch] = {key: value.clone() for key, value in state.items()}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, remember)
    workflow.run()
    assert_same(load(tmp_path / "models" / "model.pt"), weights[best])
    assert json.loads((tmp_path / "models" / "model.json").read_text())["epoch"] == best


def test_a_resumed_training_still_knows_the_best_epoch(start: Start, tmp_path: Path) -> None:
    interrupt(start(), 3)
    model = content(tmp_path / "models")["model.pt"]
    best = json.loads((tmp_path / "models" / "model.json").read_text())["val_mean_dice"]
    resumed = start()
    compared: list[float] = []
    # None: no later epoch is better than the one before the interruption
    part(resumed, "validate#evaluator").metric_cmp_fn = lambda _, previous: compared.append(
        previous
    )
    resumed.run()
    assert compared == [best] * (EPOCHS - 1)
    assert content(tmp_path / "models")["model.pt"] == model
    assert load(tmp_path / "models" / LAST)["best_metric_epoch"] == 1


def test_the_model_of_an_early_epoch_knows_the_length_of_the_resumed_training(
    start: Start, tmp_path: Path
) -> None:
    start(epochs=1).run()
    resumed = start(epochs=2)
    part(resumed, "validate#evaluator").metric_cmp_fn = lambda _, previous: False
    resumed.run()
    facts = json.loads((tmp_path / "models" / "model.json").read_text())
    assert (facts["epoch"], facts["epochs"]) == (1, 2)


@pytest.mark.parametrize("val_interval", [1, 5])
def test_a_finished_training_does_nothing_more(
    start: Start, tmp_path: Path, log: pytest.LogCaptureFixture, val_interval: int
) -> None:
    start(val_interval=val_interval).run()
    before = content(tmp_path / "models")
    lines = (tmp_path / "models_run" / "train_log.jsonl").read_bytes()
    log.clear()
    again = start(val_interval=val_interval)
    part(again, "train#trainer").add_event_handler(
        Events.ITERATION_STARTED, lambda engine: pytest.fail("it trained")
    )
    again.run()
    assert content(tmp_path / "models") == before
    assert (tmp_path / "models_run" / "train_log.jsonl").read_bytes() == lines
    assert "has finished (3 epochs)" in log.text


@pytest.mark.parametrize("overlays", OVERLAYS)
def test_raising_epochs_goes_on_with_the_longer_schedule(
    start: Start, tmp_path: Path, overlays: str
) -> None:
    """The message of a finished training suggests this."""
    start("models", overlays, epochs=2).run()
    rates: dict[str, list[float]] = {"models": [], "whole": []}
    for folder, found in rates.items():
        workflow = start(folder, overlays, epochs=4)
        optimizer = part(workflow, "optimizer")
        part(workflow, "train#trainer").add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda engine, found=found, optimizer=optimizer: found.append(
                optimizer.param_groups[0]["lr"]
            ),
        )
        workflow.run()
    # the added epochs have the rates that epochs 3 and 4 of 4 have
    assert len(rates["models"]) == 2 * ITERATIONS
    assert rates["models"] == pytest.approx(rates["whole"][2 * ITERATIONS :])
    assert rates["models"][0] > 0


def test_restart_starts_over(start: Start, tmp_path: Path) -> None:
    start("ours").run()
    log = tmp_path / "ours_run" / "train_log.jsonl"
    names = ("train_log.jsonl", "progress.png", "status.json")
    run_files = {name: kept for name, kept in content(log.parent).items() if name in names}
    old = {**content(tmp_path / "ours"), **run_files}
    start("ours", restart=True, learning_rate=0.05).run()
    start("theirs", learning_rate=0.05).run()
    assert_same_files(tmp_path / "ours", tmp_path / "theirs")
    aside = tmp_path / "ours" / "earlier_run_1"
    assert content(aside) == old
    lines = (tmp_path / "ours_run" / "train_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_weights_that_came_with_the_bundle_are_kept(start: Start, tmp_path: Path) -> None:
    start("ours").run()
    folder = tmp_path / "ours"
    for name in (LAST, PREVIOUS_NAME):
        (folder / name).unlink()
    shipped = content(folder)
    start("ours", learning_rate=0.05).run()
    assert content(folder / "earlier_run_1") == shipped
    assert (folder / "model.pt").read_bytes() != shipped["model.pt"]
    start("ours", learning_rate=0.05, epochs=EPOCHS + 1).run()
    # a resumed training has nothing to keep
    assert not (folder / "earlier_run_2").exists()


@pytest.mark.parametrize("iteration", [3, None])
def test_another_plan_in_the_folder_is_refused(
    start: Start, tmp_path: Path, iteration: int | None
) -> None:
    if iteration:
        interrupt(start(), iteration)
    else:
        start().run()
    before = content(tmp_path / "models")
    with pytest.raises(ConfigError) as caught:
        start(filters=[4, 8, 12]).run()
    message = str(caught.value)
    for needed in ("filters", "[4, 8, 16]", "[4, 8, 12]", "--restart", "--ckpt_dir", "models"):
        assert needed in message
    assert "\n" not in message
    assert content(tmp_path / "models") == before
    # the remedy works
    start(filters=[4, 8, 12], restart=True).run()
    assert load(tmp_path / "models" / LAST)["plan"]["filters"] == [4, 8, 12]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "missing"])
def test_a_damaged_state_falls_back_to_the_generation_before(
    start: Start, tmp_path: Path, log: pytest.LogCaptureFixture, damage: str
) -> None:
    start("whole").run()
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    last = tmp_path / "cut" / LAST
    whole = last.read_bytes()
    if damage == "missing":  # the process was killed between the two renames
        last.unlink()
    else:
        kinds = {"truncated": whole[: len(whole) // 2], "garbage": b"x" * 1000, "empty": b""}
        last.write_bytes(kinds[damage])
    log.clear()
    start("cut").run()
    assert_same(load(last), load(tmp_path / "whole" / LAST))
    assert_same(load(tmp_path / "cut" / "model.pt"), load(tmp_path / "whole" / "model.pt"))
    assert "resuming after epoch 2" in log.text
    warnings = [record for record in log.records if record.levelno == logging.WARNING]
    if damage == "missing":
        assert warnings == []
    else:
        assert any(LAST in record.getMessage() for record in warnings)


def test_a_good_generation_survives_the_first_save_after_a_fallback(
    start: Start, tmp_path: Path
) -> None:
    start(epochs=2).run()
    (tmp_path / "models" / LAST).write_bytes(b"")
    start(epochs=2).run()
    # both generations exist again, and neither is the damaged file
    assert load(tmp_path / "models" / LAST)["epoch"] == 2
    assert load(tmp_path / "models" / PREVIOUS_NAME)["epoch"] == 1


def test_two_damaged_generations_are_refused_until_told_to_restart(
    start: Start, tmp_path: Path
) -> None:
    start().run()
    folder = tmp_path / "models"
    for name in (LAST, PREVIOUS_NAME):
        (folder / name).write_bytes(b"x")
    before = content(folder)
    for _ in range(2):
        with pytest.raises(WeightsError, match=f"{LAST}.*{PREVIOUS_NAME}.*--restart True"):
            start().run()
        assert content(folder) == before
    start(restart=True).run()
    assert load(folder / LAST)["epoch"] == EPOCHS
    assert (folder / "earlier_run_1" / LAST).read_bytes() == b"x"


@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_a_command_that_is_repeated_for_a_training_does_not_restart_it(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    interrupt(start(restart=True), 5)
    monkeypatch.setenv(name, "1")
    resumed = start(restart=True)
    trained: list[int] = []
    part(resumed, "train#trainer").add_event_handler(
        Events.EPOCH_STARTED, lambda engine: trained.append(engine.state.epoch)
    )
    resumed.run()
    assert trained == [3]


def test_settings_of_the_optimizer_are_those_of_now(start: Start) -> None:
    interrupt(start(), 3)
    resumed = start(**{"optimizer#weight_decay": 0.5, "optimizer#momentum": 0.25})
    resumed.run()
    (group,) = part(resumed, "optimizer").param_groups
    assert (group["weight_decay"], group["momentum"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"optimizer#name": "adam"}, "SGD.*Adam"), ({"optimizer#no_decay": ["norm"]}, "parameters")],
)
def test_another_optimizer_is_refused(start: Start, change: dict[str, Any], said: str) -> None:
    interrupt(start(), 3)
    with pytest.raises(ConfigError, match=f"another optimizer.*{said}.*--restart"):
        start(**change).run()


@pytest.mark.parametrize("stopped_at", [3, 4])
def test_another_length_of_the_epoch_starts_the_epoch_again(
    start: Start, tmp_path: Path, stopped_at: int
) -> None:
    """At 4 of 4, only the validation of the epoch was left."""
    settings = {"epochs": 1, "iterations_per_epoch": 4}
    workflow = start(**settings)

    def stop(engine: Engine) -> None:
        if engine.state.iteration == stopped_at:
            signal.raise_signal(signal.SIGTERM)

    part(workflow, "train#trainer").add_event_handler(Events.ITERATION_STARTED, stop)
    with pytest.raises(SystemExit):
        workflow.run()
    resumed = start(**{**settings, "iterations_per_epoch": 5})
    iterations: list[int] = []
    part(resumed, "train#trainer").add_event_handler(
        Events.ITERATION_STARTED, lambda engine: iterations.append(engine.state.iteration)
    )
    resumed.run()
    assert iterations == ([1, 2, 3, 4, 5] if stopped_at == 3 else [])
    assert load(tmp_path / "models" / LAST)["epoch"] == 1
    assert (tmp_path / "models" / "model.pt").is_file()


def test_processes_with_different_states_are_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(start(), 3)
    asked: list[int] = []

    def differ(number: int) -> bool:
        asked.append(number)
        return number == 0

    monkeypatch.setattr("dynunet_bundle.training.handlers.checkpoint.equal_in_all_ranks", differ)
    with pytest.raises(ConfigError, match="different states.*shared disk"):
        start().run()
    assert len(asked) == 2


def test_without_validation_the_final_weights_are_the_model(
    start: Start, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    workflow = start(skip_validation=EPOCHS)
    workflow.run()
    folder = tmp_path / "models"
    final = inference_state_dict(part(workflow, "network"))
    assert_same(load(folder / "model.pt"), final)
    network = load(folder / LAST)["model"]
    assert all(torch.equal(network[key], value) for key, value in final.items())
    facts = json.loads((folder / "model.json").read_text())
    assert (facts["epoch"], facts["val_mean_dice"]) == (EPOCHS, None)
    assert "no epoch was validated" in log.text


def fill_disk(monkeypatch: pytest.MonkeyPatch, is_victim: Callable[[Any], bool]) -> None:
    """Let torch.save write some bytes and then report a full disk."""
    real = torch.save

    def save(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if not is_victim(content):
            return real(content, file, *args, **kwargs)
        file.write(b"some bytes")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.save", save)


def test_a_full_disk_leaves_the_generation_before(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start("whole").run()
    with monkeypatch.context() as patch:
        fill_disk(patch, lambda content: content.get("epoch") == 2)
        with pytest.raises(OutputError, match=f"{LAST}.*No space left") as caught:
            start("cut").run()
    assert find_user_error(caught.value) is caught.value
    folder = tmp_path / "cut"
    assert load(folder / LAST)["epoch"] == 1
    assert {path.name for path in folder.iterdir()} == {LAST, "model.pt", "model.json"}
    # with free space it resumes
    start("cut").run()
    assert_same_files(folder, tmp_path / "whole")


def test_a_disk_that_is_full_for_the_model_leaves_no_half_file(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the first validated epoch is the best so far: its weights are saved before the state
    fill_disk(monkeypatch, lambda content: "optimizer" not in content)
    with pytest.raises(OutputError, match="model.pt.*No space left"):
        start().run()
    assert list((tmp_path / "models").iterdir()) == []


def test_the_scale_of_mixed_precision_is_kept(tmp_path: Path) -> None:
    def make(init_scale: float) -> tuple[Engine, CheckpointHandler]:
        network = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        evaluator, trainer = Engine(lambda *_: None), Engine(lambda *_: None)
        evaluator.state.best_metric = evaluator.state.best_metric_epoch = -1
        trainer.state.epoch_length, trainer.state.max_epochs = 5, 9
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
        cases = NamesOnly([{"image": "a.nii.gz"}])
        loader = DaliLoader(cases, (2, 2), 1, 5)  # type: ignore[arg-type]
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, 9)
        handler = CheckpointHandler(
            str(tmp_path), network, network, optimizer, schedule, loader, evaluator, {}
        )
        return trainer, handler

    trainer, handler = make(512.0)
    trainer.scaler.scale(torch.ones(1))  # created at first use
    trainer.state.epoch, trainer.state.iteration = 4, 20
    handler.loader.iteration = 20
    handler.save(trainer)
    other, other_handler = make(2.0)
    other_handler.resume(other)
    assert other.scaler.state_dict() == trainer.scaler.state_dict()
    assert other.scaler.state_dict()["scale"] == 512.0
    assert (other.state.epoch, other.state.iteration) == (4, 20)
    assert other_handler.loader.state_dict() == handler.loader.state_dict()
    assert other_handler.loader.iteration == 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("removed", "gone: phantom_"),
        ("added", "new: phantom_"),
        ("relabelled", "changed: phantom_"),
    ],
)
def test_other_cases_are_refused_by_name(
    start: Start, own_phantom: Path, tmp_path: Path, change: str, said: str
) -> None:
    """Even if the number of cases, and so everything in the plan, is unchanged."""
    settings = {"dataset_dir": own_phantom, "fold": "all"}
    content_file = own_phantom / "dataset.json"
    facts = json.loads(content_file.read_text())
    fewer = {**facts, "training": facts["training"][:-1]}
    if change == "added":
        content_file.write_text(json.dumps(fewer))
    interrupt(start(**settings, skip_validation=EPOCHS), 3)
    before = content(tmp_path / "models")
    if change == "removed":
        content_file.write_text(json.dumps(fewer))
    elif change == "added":
        content_file.write_text(json.dumps(facts))
    else:
        path = own_phantom / facts["training"][0]["label"]
        label = nib.load(path)
        voxels = np.asarray(label.dataobj).copy()
        voxels[np.argwhere(voxels == 1)[0][0]] = 0
        nib.save(nib.Nifti1Image(voxels, label.affine, label.header), path)
    with pytest.raises(ConfigError, match=f"other cases.*{said}.*--restart"):
        start(**settings, skip_validation=EPOCHS).run()
    assert content(tmp_path / "models") == before


@pytest.mark.parametrize(
    ("files", "slices", "types"),
    [
        (["a.png", "b.PNG"], 1, [".png"]),
        (["a.tif", "b.bmp"], 1, [".bmp", ".tif"]),
        (["a.tif", "b.tif"], 4, None),
        (["a.png", "b.nii.gz"], 1, None),
    ],
)
def test_a_model_knows_the_formats_of_its_pictures(
    files: list[str], slices: int, types: list[str] | None
) -> None:
    case = SimpleNamespace(shape=(slices, 8, 8), volumes_ml=(0.5,), components=(1,))
    data = [{"image": file} for file in files]
    dataset = SimpleNamespace(data=data, cases=lambda: [case, case])
    facts = training_ranges(SimpleNamespace(dataset=dataset), ["background", "organ"])
    assert facts.get("picture_types") == types
    assert facts["num_cases"] == 2

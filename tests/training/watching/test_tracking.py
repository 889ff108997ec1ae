"""``--tracking mlflow``: MONAI's handlers are attached to the right engines and send valid numbers."""

import math
import numbers
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.watching import watched
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.handlers import mlflow_handler

from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.training.watching.status import LOG_NAME, read_log
from dynunet_bundle.training.watching.tracking import NamedScores

NAMES_THAT_MLFLOW_TAKES = re.compile(r"^[/\w.\- :]*$")
EPOCHS = 3


class Client:
    """Stores what is sent and rejects what ``MlflowClient.log_batch`` rejects; runs persist, as on a server."""

    runs: list[SimpleNamespace] = []

    def __init__(self, tracking_uri: str | None = None) -> None:
        self.tracking_uri = tracking_uri

    def get_experiment_by_name(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(experiment_id=name, lifecycle_stage="active")

    def search_runs(self, experiment_id: str) -> list[SimpleNamespace]:
        return [run for run in self.runs if run.experiment_id == experiment_id]

    def create_run(self, experiment_id: str, run_name: str) -> SimpleNamespace:
        info = SimpleNamespace(run_id=len(self.runs), run_name=run_name, status="RUNNING")
        data = SimpleNamespace(params={})
        run = SimpleNamespace(info=info, data=data, experiment_id=experiment_id, metrics={})
        self.runs.append(run)
        return run

    def get_run(self, run_id: int) -> SimpleNamespace:
        return self.runs[run_id]

    def log_batch(self, run_id: int, metrics: list[Any], params: list[Any], tags: list) -> None:
        run = self.get_run(run_id)
        assert run.info.status == "RUNNING"
        run.data.params |= {param.key: param.value for param in params}
        for metric in metrics:
            assert isinstance(metric.value, numbers.Number), f"{metric.key} is {metric.value}"
            assert NAMES_THAT_MLFLOW_TAKES.match(metric.key)
            run.metrics.setdefault(metric.key, {})[metric.step] = metric.value

    def log_artifact(self, run_id: int, path: str) -> None:
        self.get_run(run_id).artifact = path

    def set_terminated(self, run_id: int, status: str) -> None:
        self.get_run(run_id).info.status = status


def entity(*names: str) -> Callable[..., SimpleNamespace]:
    return lambda *values: SimpleNamespace(**dict(zip(names, values, strict=True)))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SimpleNamespace]]:
    """The runs recorded by a fake MLflow client."""
    entities = SimpleNamespace(
        Metric=entity("key", "value", "timestamp", "step"),
        Param=entity("key", "value"),
        RunStatus=SimpleNamespace(FINISHED=3, to_string={3: "FINISHED"}.get),
        LifecycleStage=SimpleNamespace(ACTIVE="active"),
    )
    stand_in = SimpleNamespace(MlflowClient=Client, entities=entities)
    monkeypatch.setattr(mlflow_handler, "mlflow", stand_in)
    monkeypatch.setattr(mlflow_handler, "MlflowException", RuntimeError)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(Client, "runs", [])
    yield Client.runs


def test_the_handlers_are_appended_to_the_lists_that_run(train_workflow):
    parser = train_workflow(tracking="mlflow", **watched()).parser
    for part, engine, name in (
        ("train", "trainer", "train_handlers"),
        ("validate", "evaluator", "val_handlers"),
    ):
        *ours, last = parser.config[part]["handlers"]
        assert last["_target_"] == "MLFlowHandler"
        assert not any(handler["_target_"] == "MLFlowHandler" for handler in ours)
        assert parser.config[part][engine][name] == f"@{part}::handlers"


def expected_metrics(records: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    names = {
        "loss": "train_loss",
        "learning_rate": "learning_rate",
        "seconds": "seconds",
        "patches_per_second": "patches_per_second",
        "val_loss": "val_loss",
        "dice": "val_mean_dice",
        "ema_dice": "val_ema_dice",
    }
    found: dict[str, dict[int, float]] = {}
    for record in records:
        values = {metric: record.get(name) for name, metric in names.items()}
        values |= {
            f"val_dice_{name}": dice for name, dice in record.get("dice_by_class", {}).items()
        }
        for metric, value in values.items():
            if value is not None:
                found.setdefault(metric, {})[record["epoch"]] = value
    return found


def test_mlflow_gets_what_the_log_says_in_one_run(
    train_workflow: Callable[..., ConfigWorkflow], runs: list[SimpleNamespace], tmp_path: Path
):
    train_workflow(tracking="mlflow", epochs=EPOCHS, val_interval=2, **watched()).run()
    (run,) = runs
    assert run.info.status == "FINISHED"
    assert run.data.params == {"max_epochs": str(EPOCHS), "epoch_length": "2"}
    expected = expected_metrics(read_log(tmp_path / "run" / LOG_NAME))
    assert sorted(run.metrics) == sorted(expected)
    assert list(expected["val_dice_head"]) == [2, 3]
    for name, values in expected.items():
        assert run.metrics[name] == pytest.approx(values, abs=1e-6), name


def test_a_training_that_was_cut_goes_on_in_its_run(train_workflow, runs):
    settings = {"tracking": "mlflow", "run_name": "fold_0", "epochs": EPOCHS, **watched()}
    workflow = train_workflow(**settings)
    trainer = workflow.parser.get_parsed_content("train#trainer")

    def die(engine: Engine) -> None:
        raise KeyboardInterrupt

    trainer.add_event_handler(Events.EPOCH_STARTED(once=3), die)
    with pytest.raises(KeyboardInterrupt):
        workflow.run()
    train_workflow(**settings).run()
    (run,) = runs
    assert (run.info.run_name, run.info.status) == ("fold_0", "FINISHED")
    assert list(run.metrics["train_loss"]) == [1, 2, 3]


def test_scores_get_the_names_of_classes_in_their_order():
    evaluator = Engine(lambda *_: None)
    scores = torch.tensor([0.25, 0.75])
    evaluator.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(val_dice_by_class=scores)
    )
    NamedScores(LabelScheme(["background", "edema (old)", "tumour"])).attach(evaluator)
    metrics = evaluator.run([0], max_epochs=1).metrics
    assert metrics["val_dice_by_class"] == {"val_dice_edema__old_": 0.25, "val_dice_tumour": 0.75}


def test_the_real_mlflow_takes_it(train_workflow, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train_workflow(tracking="mlflow", epochs=EPOCHS, val_interval=2, **watched()).run()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/run/mlruns.db")
    experiment = client.get_experiment_by_name("monai_experiment")
    (run,) = client.search_runs(experiment.experiment_id)
    assert run.info.status == "FINISHED"
    for name, values in expected_metrics(read_log(tmp_path / "run" / LOG_NAME)).items():
        history = client.get_metric_history(run.info.run_id, name)
        assert {item.step: item.value for item in history} == pytest.approx(values, abs=1e-6)
        assert all(math.isfinite(item.value) for item in history)

"""MONAI's client for federated learning: a round trains and scores the weights of the server, and no others."""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BUNDLE, TINY
from ignite.engine import Events
from monai.fl.client import MonaiAlgo
from monai.fl.utils.exchange_object import ExchangeObject

Weights = Mapping[str, torch.Tensor]


@pytest.fixture
def client(phantom: Path, tmp_path: Path) -> Callable[..., MonaiAlgo]:
    """A client of a package without weights; a second one is that client after a restart."""
    package = tmp_path / "package"
    shutil.copytree(BUNDLE / "configs", package / "configs")

    def start(**settings: Any) -> MonaiAlgo:
        given = {
            **TINY,
            "bundle_root": str(package),
            "dataset_dir": str(phantom),
            "prepared_dir": str(tmp_path / "prepared"),
            "device": "cpu",
            **settings,
        }
        algo = MonaiAlgo(
            str(package), send_weight_diff=False, train_kwargs=dict(given), eval_kwargs=dict(given)
        )
        algo.initialize()
        return algo

    return start


def filled(algo: MonaiAlgo, value: float) -> dict[str, torch.Tensor]:
    return {
        name: torch.full_like(tensor, value) for name, tensor in algo.get_weights().weights.items()
    }


def trained_from(algo: MonaiAlgo, weights: Weights) -> tuple[dict[str, torch.Tensor], float]:
    """Train one round; the weights and the learning rate of its first iteration."""
    seen: list[tuple[dict[str, torch.Tensor], float]] = []

    def look() -> None:
        state = {name: value.clone() for name, value in algo.trainer.network.state_dict().items()}
        seen.append((state, algo.trainer.optimizer.param_groups[0]["lr"]))

    event = Events.GET_BATCH_COMPLETED
    with algo.trainer.add_event_handler(event, look):
        algo.train(ExchangeObject(weights=dict(weights)))
    assert len(seen) == TINY["iterations_per_epoch"]
    return seen[0]


def is_equal(ours: Weights, theirs: Weights) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_every_round_trains_from_the_weights_of_the_server(client: Callable[..., MonaiAlgo]):
    algo = client()
    for number in range(3):
        given = filled(algo, 0.01 * (number + 1))
        first, rate = trained_from(algo, given)
        assert is_equal(first, given)
        assert rate == 0.01
        assert algo.trainer.state.epoch == number + 1
        assert not is_equal(algo.get_weights().weights, given)
    # the client is started again, beside the checkpoints of its first life
    algo = client()
    given = filled(algo, 0.05)
    first, rate = trained_from(algo, given)
    assert is_equal(first, given) and rate == 0.01
    assert algo.trainer.state.epoch == 1


def test_given_weights_may_equal_those_of_a_new_network(client: Callable[..., MonaiAlgo]):
    algo = client()
    start = {name: value.clone() for name, value in algo.get_weights().weights.items()}
    trained_from(algo, start)
    again = client()
    assert is_equal(again.get_weights().weights, start)
    assert is_equal(trained_from(again, start)[0], start)


def test_a_longer_schedule_spans_the_rounds(client: Callable[..., MonaiAlgo]):
    algo = client(**{"lr_scheduler#num_steps": 3})
    rates = [trained_from(algo, filled(algo, 0.01))[1] for _ in range(3)]
    assert rates == pytest.approx([0.01 * (1 - done / 3) ** 0.9 for done in range(3)])


def test_pretrained_weights_do_not_replace_given_ones(
    client: Callable[..., MonaiAlgo], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    trained_from(first := client(), filled(first, 0.01))
    model = tmp_path / "model.pt"
    shutil.copy(tmp_path / "package" / "models" / "model.pt", model)
    algo = client(pretrained=str(model), ckpt_dir=str(tmp_path / "new"))
    given = filled(algo, 0.02)
    with caplog.at_level(logging.INFO):
        assert is_equal(trained_from(algo, given)[0], given)
    assert "is not used: the weights were given" in caplog.text


@pytest.mark.parametrize("has_model", [False, True])
def test_the_weights_that_were_sent_are_scored(
    client: Callable[..., MonaiAlgo], tmp_path: Path, has_model: bool
):
    algo = client()
    start = {name: value.clone() for name, value in algo.get_weights().weights.items()}
    if has_model:
        trained_from(algo, filled(algo, 0.01))
    assert (tmp_path / "package" / "models" / "model.pt").is_file() == has_model
    seen: list[dict[str, torch.Tensor]] = []

    def look() -> None:
        seen.append(
            {name: value.clone() for name, value in algo.evaluator.network.state_dict().items()}
        )

    algo.evaluator.add_event_handler(Events.ITERATION_COMPLETED, look)
    for weights in (filled(algo, 0.0), start):
        seen.clear()
        metrics = algo.evaluate(ExchangeObject(weights=dict(weights))).metrics
        assert seen and all(is_equal(weights, state) for state in seen)
        assert "val_mean_dice" in metrics
        if weights is not start:
            # all logits are equal: everything is background
            assert metrics["val_mean_dice"] == 0

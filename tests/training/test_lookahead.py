"""Lookahead against a NumPy loop; it resumes bitwise, and works with schedules and gradient scaling."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.training.lookahead import Lookahead
from dynunet_bundle.training.optimizers import make_optimizer
from dynunet_bundle.training.schedules import make_schedule

STEPS, RATE = 3, 0.25


def make(name: str = "adam", seed: int = 0, **settings: Any) -> tuple[nn.Module, Lookahead]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    lookahead = {"steps": STEPS, "rate": RATE}
    options = {"no_decay": ["norm"], "lookahead": lookahead, **settings}
    optimizer = make_optimizer(network, name, 0.05, **options)
    assert isinstance(optimizer, Lookahead)
    return network, optimizer


def train(network: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        batch = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(batch).square().mean().backward()
        optimizer.step()


def weights(network: nn.Module) -> np.ndarray:
    return nn.utils.parameters_to_vector(network.parameters()).detach().numpy().copy()


def copied(state: dict[str, Any]) -> dict[str, Any]:
    """The state as written and read by the checkpoint."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_it_is_the_algorithm_of_the_paper() -> None:
    """Gradient descent, whose fast steps are easy to repeat in NumPy."""
    network = nn.Linear(3, 1, bias=False).double()
    start = network.weight.detach().numpy().copy()
    optimizer = Lookahead(torch.optim.SGD(network.parameters(), lr=0.1), steps=3, rate=0.25)
    curvature = np.array([[1.0, 2.0, 4.0]])
    slow, fast = start.copy(), start.copy()
    for step in range(1, 11):
        network.weight.grad = torch.tensor(curvature) * network.weight.detach()
        optimizer.step()
        fast = fast - 0.1 * curvature * fast
        if step % 3 == 0:
            slow = slow + 0.25 * (fast - slow)
            fast = slow.copy()
        np.testing.assert_allclose(network.weight.detach().numpy(), fast, rtol=1e-12)


def test_the_default_is_that_of_tensorflow_addons() -> None:
    _, optimizer = make(lookahead={})
    assert (optimizer.steps, optimizer.rate) == (6, 0.5)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "radam"])
def test_a_rate_of_one_changes_nothing(name: str) -> None:
    ours, optimizer = make(name, lookahead={"steps": 2, "rate": 1.0})
    theirs, _ = make(name)
    plain = make_optimizer(theirs, name, 0.05, no_decay=["norm"])
    train(ours, optimizer, range(7))
    train(theirs, plain, range(7))
    np.testing.assert_allclose(weights(ours), weights(theirs), rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("done", range(8))
def test_it_goes_on_to_the_bit(name: str, done: int) -> None:
    network, optimizer = make(name)
    train(network, optimizer, range(done))
    saved = copied({"network": network.state_dict(), "optimizer": optimizer.state_dict()})
    train(network, optimizer, range(done, 11))
    resumed, other = make(name, seed=1)
    resumed.load_state_dict(saved["network"])
    other.load_state_dict(saved["optimizer"])
    train(resumed, other, range(done, 11))
    assert np.array_equal(weights(resumed), weights(network))
    assert copied(other.state_dict())["lookahead"]["num_steps"] == 11


def test_loading_does_not_share_tensors_with_the_state() -> None:
    network, optimizer = make()
    train(network, optimizer, range(4))
    state = copied(optimizer.state_dict())
    before = [slow.clone() for slow in state["lookahead"]["slow_weights"]]
    optimizer.load_state_dict(state)
    train(network, optimizer, range(4, 8))
    after = state["lookahead"]["slow_weights"]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_weights_that_are_loaded_before_the_first_step_are_the_slow_ones() -> None:
    network, optimizer = make("sgd", lookahead={"steps": 1, "rate": 1e-6})
    nn.utils.vector_to_parameters(torch.full((34,), 5.0), network.parameters())
    train(network, optimizer, range(1))
    np.testing.assert_allclose(weights(network), 5.0, atol=1e-3)


def test_states_with_and_without_lookahead_load_into_each_other() -> None:
    network, optimizer = make()
    train(network, optimizer, range(4))
    plain = make_optimizer(network, "adam", 0.05, no_decay=["norm"])
    plain.load_state_dict(copied(optimizer.state_dict()))
    state = plain.state_dict()["state"]
    assert float(state[0]["step"]) == 4
    optimizer.load_state_dict(copied(plain.state_dict()))
    # it starts here: after three more steps the weights are pulled towards these
    here = weights(network)
    train(network, optimizer, range(4, 6))
    train(network, optimizer, range(6, 7))
    other, theirs = make()
    nn.utils.vector_to_parameters(torch.tensor(here), other.parameters())
    theirs.optimizer.load_state_dict(copied({"state": state, **_groups(plain)}))
    train(other, theirs.optimizer, range(4, 7))
    expected = here + RATE * (weights(other) - here)
    np.testing.assert_allclose(weights(network), expected, rtol=1e-5, atol=1e-7)


def _groups(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"param_groups": optimizer.state_dict()["param_groups"]}


@pytest.mark.parametrize("resumed", [False, True])
def test_a_schedule_acts_on_the_wrapped_optimizer(resumed: bool) -> None:
    network, optimizer = make("sgd", weight_decay=0.0)
    schedule = make_schedule(optimizer, num_steps=2)
    if resumed:
        optimizer.load_state_dict(copied(optimizer.state_dict()))
    train(network, optimizer, range(1))
    schedule.step()
    train(network, optimizer, range(1, 2))
    schedule.step()
    assert [group["lr"] for group in optimizer.optimizer.param_groups] == [0.0, 0.0]
    before = weights(network)
    optimizer.zero_grad()
    network(torch.ones(1, 3)).sum().backward()
    optimizer.optimizer.step()
    assert np.array_equal(weights(network), before)


def test_scaled_gradients_give_the_same_steps() -> None:
    ours, optimizer = make("sgd")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(7):
        batch = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        scaler.scale(ours(batch).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    theirs, plain = make("sgd")
    train(theirs, plain, range(7))
    np.testing.assert_allclose(weights(ours), weights(theirs), rtol=1e-6)


def test_a_step_that_overflowed_is_not_counted() -> None:
    network, optimizer = make("sgd")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = weights(network)
    for _ in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(network(torch.full((1, 3), float("inf"))).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert np.array_equal(weights(network), before)
    assert optimizer.state_dict()["lookahead"]["num_steps"] == 0


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"steps": 2.5}, {"rate": 0.0}, {"rate": 1.5}, {"rate": "half"}],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    value = next(iter(settings.values()))
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} is {value!r}"):
        make(lookahead=settings)

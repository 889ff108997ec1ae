"""Each schedule against a separate loop, and against MONAI's, torch's and Keras's formulas."""

import io
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLE
from monai.bundle import ConfigWorkflow
from monai.optimizers import WarmupCosineSchedule
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.training.schedules import make_schedule

NAMES = ("none", "poly", "cosine", "cosine_annealing")


@pytest.fixture(autouse=True)
def without_optimizer_steps() -> Iterator[None]:
    """Torch warns if a schedule steps before the optimizer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of .lr_scheduler.step")
        yield


def sgd(rate: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=rate)


def rates(schedule: LRScheduler, steps: int) -> np.ndarray:
    """The learning rate of each step, read from the optimizer."""
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.step()
    return np.array(found)


def curve(steps: int, **settings: Any) -> np.ndarray:
    return rates(make_schedule(sgd(), **settings), steps)


def test_the_default_is_nnunets() -> None:
    """0.01 (1 - epoch / 1000)^0.9, one step per epoch."""
    found = rates(make_schedule(sgd(0.01), num_steps=1000), 1000)
    expected = [0.01 * (1 - epoch / 1000) ** 0.9 for epoch in range(1000)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_poly_ends_at_the_end_factor() -> None:
    found = curve(60, name="poly", num_steps=50, power=2.0, end_factor=0.2)
    expected = [0.2 + 0.8 * (1 - step / 50) ** 2 for step in range(50)] + [0.2] * 10
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_cosine_ends_at_the_end_factor() -> None:
    found = curve(60, name="cosine", num_steps=50, end_factor=0.2)
    halves = [0.2 + 0.8 * math.cos(math.pi * step / 100) ** 2 for step in range(50)]
    np.testing.assert_allclose(found, halves + [0.2] * 10, rtol=1e-12)


def test_none_stays() -> None:
    assert np.array_equal(curve(12, name="none", num_steps=10), np.ones(12))


@pytest.mark.parametrize(("growth", "decay"), [(1.0, 0.9), (2.0, 0.5), (1.5, 1.0), (3.0, 0.95)])
def test_annealing_restarts_from_lower_peaks(growth: float, decay: float) -> None:
    found = curve(
        400,
        name="cosine_annealing",
        num_steps=400,
        end_factor=0.1,
        first_cycle_steps=10,
        cycle_growth=growth,
        peak_decay=decay,
    )
    expected: list[float] = []
    start, length, peak = 0.0, 10.0, 1.0
    while len(expected) < 400:
        while len(expected) < start + length:
            share = (len(expected) - start) / length
            expected.append(peak * (0.55 + 0.45 * math.cos(math.pi * share)))
        start, length, peak = start + length, length * growth, peak * decay
    np.testing.assert_allclose(found, expected[:400], rtol=1e-12)


def test_annealing_is_torchs_where_peaks_do_not_decay() -> None:
    optimizer = sgd(0.3)
    theirs = CosineAnnealingWarmRestarts(optimizer, T_0=16, T_mult=2, eta_min=0.03)
    expected = rates(theirs, 300)
    ours = make_schedule(
        sgd(0.3),
        "cosine_annealing",
        num_steps=300,
        end_factor=0.1,
        first_cycle_steps=16,
        peak_decay=1.0,
    )
    np.testing.assert_allclose(rates(ours, 300), expected, rtol=1e-9)


def keras_restarts(step: int, first: int, growth: float, decay: float, floor: float) -> float:
    """The closed form of Keras's CosineDecayRestarts (t_mul, m_mul, alpha), which NVIDIA's nnU-Net uses."""
    done = step / first
    restarts = math.floor(math.log(1 - done * (1 - growth)) / math.log(growth))
    share = (done - (1 - growth**restarts) / (1 - growth)) / growth**restarts
    return (1 - floor) * 0.5 * decay**restarts * (1 + math.cos(math.pi * share)) + floor


def test_the_seeds_annealing() -> None:
    steps = 4096 * 7
    found = curve(
        steps,
        name="cosine_annealing",
        num_steps=steps,
        end_factor=0.1,
        peak_decay=1.0,
    )
    expected = [keras_restarts(step, 4096, 2.0, 1.0, 0.1) for step in range(steps)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_annealing_does_not_restart_at_the_end() -> None:
    found = curve(
        50,
        name="cosine_annealing",
        num_steps=30,
        first_cycle_steps=10,
        end_factor=0.1,
        peak_decay=0.5,
    )
    # cycles of 10 and 20
    assert found[10] == 0.5
    assert np.all(found[30:] == found[29])
    assert 0.05 < found[29] < 0.06


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warmup", [1, 7])
def test_warm_up_rises_from_zero_and_the_rest_is_the_schedule_of_the_rest(
    name: str, warmup: int
) -> None:
    settings = {"name": name, "end_factor": 0.1, "first_cycle_steps": 5}
    found = curve(40, num_steps=30 + warmup, warmup_steps=warmup, **settings)
    np.testing.assert_allclose(found[:warmup], np.arange(warmup) / warmup, rtol=1e-12)
    expected = curve(40 - warmup, num_steps=30, **settings)
    np.testing.assert_allclose(found[warmup:], expected, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 19, 20, 1000])
def test_cosine_with_warm_up_is_monais(steps: int) -> None:
    optimizer = sgd(0.003)
    theirs = WarmupCosineSchedule(optimizer, warmup_steps=steps // 20, t_total=steps)
    ours = make_schedule(sgd(0.003), "cosine", num_steps=steps, warmup_steps=steps // 20)
    expected = rates(theirs, steps + 1)
    # cos(pi) + 1 is not exactly zero
    np.testing.assert_allclose(rates(ours, steps + 1), expected, rtol=1e-12, atol=1e-18)


def test_quick_json_has_monais_curve(train_workflow: Callable[..., ConfigWorkflow]) -> None:
    """The real config, with its own length."""
    settings = {"epochs": 20, "iterations_per_epoch": 50}
    workflow = train_workflow(str(BUNDLE / "configs" / "quick.json"), **settings)
    ours = workflow.parser.get_parsed_content("lr_scheduler")
    theirs = WarmupCosineSchedule(sgd(0.003), warmup_steps=50, t_total=1000)
    np.testing.assert_allclose(rates(ours, 1001), rates(theirs, 1001), rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_depends_on_the_step_alone(name: str) -> None:
    """A checkpoint creates the schedule again and replays its steps; torch's own state gives the same rates."""
    settings = {"name": name, "num_steps": 40, "warmup_steps": 4, "first_cycle_steps": 7}
    whole = curve(60, **settings)
    for done in (0, 3, 17, 45):
        schedule = make_schedule(sgd(), **settings)
        rates(schedule, done)
        file = io.BytesIO()
        torch.save(schedule.state_dict(), file)
        file.seek(0)
        np.testing.assert_array_equal(rates(schedule, 60 - done), whole[done:])
        again = make_schedule(sgd(), **settings)
        again.load_state_dict(torch.load(file, weights_only=True))
        again.step()
        np.testing.assert_array_equal(rates(again, 59 - done), whole[done + 1 :])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("power", [0.5, 0.9, 3.0])
def test_rates_are_real_and_not_negative_forever(name: str, power: float) -> None:
    found = curve(200, name=name, num_steps=7, power=power, warmup_steps=2, first_cycle_steps=3)
    assert found.dtype == float
    assert np.all((found >= 0) & (found <= 1))
    assert np.all(found[8:] == found[8])


def test_each_group_keeps_its_own_peak() -> None:
    layers = [nn.Linear(1, 1), nn.Linear(1, 1)]
    groups = [
        {"params": layer.parameters(), "lr": rate}
        for layer, rate in zip(layers, (1.0, 0.1), strict=True)
    ]
    schedule = make_schedule(torch.optim.SGD(groups), num_steps=10, power=1.0)
    schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.9, 0.09])


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"name": "linear"}, ["linear", "none, poly, cosine, cosine_annealing"]),
        ({"num_steps": 0}, ["num_steps", "0"]),
        ({"num_steps": -5}, ["num_steps", "-5"]),
        ({"warmup_steps": -1}, ["warmup_steps", "-1"]),
        ({"warmup_steps": 10}, ["warmup_steps", "10"]),
        ({"first_cycle_steps": 0}, ["first_cycle_steps", "0"]),
        ({"cycle_growth": 0.5}, ["cycle_growth", "0.5"]),
        ({"peak_decay": 0.0}, ["peak_decay", "0.0"]),
        ({"peak_decay": 1.5}, ["peak_decay", "1.5"]),
        ({"end_factor": -0.5}, ["end_factor", "-0.5"]),
        ({"end_factor": 1.5}, ["end_factor", "1.5"]),
        ({"power": 0}, ["power", "0"]),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], needed: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_schedule(sgd(), **{"num_steps": 10, **settings})
    assert all(text in str(caught.value) for text in needed), caught.value

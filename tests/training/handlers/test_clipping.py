"""Gradients are clipped by their global norm, between the backward pass and the optimizer step."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.engines import SupervisedTrainer
from torch import nn

from dynunet_bundle.training.handlers.clipping import GradientClipping


def gradient_norm(network: nn.Module) -> float:
    return float(torch.cat([p.grad.flatten() for p in network.parameters()]).norm())


def network_with_gradients(scale: float) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for parameter in network.parameters():
        parameter.grad = scale * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("max_norm", [0.5, 12.0])
def test_large_gradients_are_scaled_together(max_norm: float) -> None:
    network = network_with_gradients(100.0)
    before = [p.grad.clone() for p in network.parameters()]
    factor = max_norm / gradient_norm(network)
    GradientClipping(network, max_norm)(SimpleNamespace())
    assert gradient_norm(network) == pytest.approx(max_norm, rel=1e-4)
    for parameter, gradient in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * factor)


def test_small_gradients_are_not_touched() -> None:
    network = network_with_gradients(0.01)
    before = [p.grad.clone() for p in network.parameters()]
    GradientClipping(network, 12.0)(SimpleNamespace())
    for parameter, gradient in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_scaled_gradients_are_brought_back_first() -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    batch = torch.randn(5, 3)
    network(batch).sum().backward()
    small = [p.grad.clone() for p in network.parameters()]
    optimizer.zero_grad()
    scaler.scale(network(batch).sum()).backward()
    norm = gradient_norm(network) / 1024
    # true norm below the limit, scaled norm far above it
    engine = SimpleNamespace(scaler=scaler, optimizer=optimizer)
    GradientClipping(network, norm * 2)(engine)
    for parameter, gradient in zip(network.parameters(), small, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    weight = network.weight.detach().clone()
    scaler.step(optimizer)
    torch.testing.assert_close(network.weight, weight - small[0])


@pytest.mark.parametrize(("max_norm", "expected"), [(0.25, 0.25), (1e9, None)])
def test_the_trainer_steps_with_clipped_gradients(max_norm: float, expected: float | None) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    start = torch.cat([p.detach().flatten().clone() for p in network.parameters()])
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.full((2, 3), 100.0), "label": torch.zeros(2, 1)}],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),  # the step is the gradient
        loss_function=nn.MSELoss(),
        train_handlers=[GradientClipping(network, max_norm)],
        decollate=False,
    )
    trainer.run()
    end = torch.cat([p.detach().flatten() for p in network.parameters()])
    step = float((end - start).norm())
    assert step == pytest.approx(expected, rel=1e-4) if expected else step > 100


def test_train_json_clips(train_workflow: Callable[..., ConfigWorkflow]) -> None:
    workflow = train_workflow(gradient_clip=0.125, epochs=1, val_interval=2)
    network = workflow.parser.get_parsed_content("network")
    trainer = workflow.parser.get_parsed_content("train#trainer")
    unclipped: list[float] = []
    clipped: list[float] = []
    # a hook of the backward pass sees the norms before clipping; one parameter gives a lower bound
    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda p: unclipped.append(float(p.grad.norm()))
        )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: clipped.append(gradient_norm(network))
    )
    workflow.run()
    assert max(unclipped) > 0.125
    assert clipped == pytest.approx([0.125] * TINY["iterations_per_epoch"], rel=1e-3)

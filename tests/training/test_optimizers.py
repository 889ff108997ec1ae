"""The optimizers follow their papers, on the right parameters."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.networks.dynunet import DeepSupervisedDynUNet
from dynunet_bundle.training.optimizers import make_optimizer

Arrays = list[np.ndarray]

RATE, DECAY, MOMENTUM, STEPS = 0.05, 0.1, 0.9, 8


def dynunet(norm: str = "INSTANCE") -> DeepSupervisedDynUNet:
    torch.manual_seed(0)
    return DeepSupervisedDynUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        kernel_size=[[3, 3]] * 4,
        strides=[[1, 1]] + [[2, 2]] * 3,
        filters=[2, 2, 4, 4],
        norm_name=(norm, {"affine": True, **({"num_groups": 2} if norm == "GROUP" else {})}),
        trans_bias=True,
    )


def several_norms() -> nn.Module:
    """Other norms than DynUNet's, convolutions with a bias, and a linear layer."""
    norms = [nn.BatchNorm2d(4), nn.SyncBatchNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm3d(4)]
    affine = [nn.InstanceNorm1d(4, affine=True), nn.LayerNorm(4)]
    others = [nn.Conv3d(1, 2, 1), nn.ConvTranspose2d(1, 2, 1), nn.Linear(2, 2)]
    return nn.Sequential(*norms, *affine, *others)


def decayed(network: nn.Module, no_decay: list[str]) -> set[str]:
    """Names of the parameters that a step changes although their gradient is zero."""
    nn.utils.vector_to_parameters(
        torch.ones(sum(p.numel() for p in network.parameters())), network.parameters()
    )
    optimizer = make_optimizer(
        network, "sgd", 0.5, momentum=0.0, nesterov=False, weight_decay=0.5, no_decay=no_decay
    )
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name for name, p in network.named_parameters() if torch.all(p == 0.75)}
    still = {name for name, p in network.named_parameters() if torch.all(p == 1)}
    assert moved | still == {name for name, _ in network.named_parameters()}
    return moved


def sgd(weights: np.ndarray, gradients: Arrays) -> np.ndarray:
    """SGD with Nesterov momentum, as in PyTorch's documentation."""
    velocity = np.zeros_like(weights)
    for raw in gradients:
        gradient = raw + DECAY * weights
        velocity = MOMENTUM * velocity + gradient
        weights = weights - RATE * (gradient + MOMENTUM * velocity)
    return weights


def adam(weights: np.ndarray, gradients: Arrays, decoupled: bool = False) -> np.ndarray:
    """Kingma and Ba, algorithm 1; decoupled: Loshchilov and Hutter, algorithm 2."""
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step, raw in enumerate(gradients, 1):
        gradient = raw if decoupled else raw + DECAY * weights
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        ratio = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        weights = weights - RATE * ratio - (RATE * DECAY * weights if decoupled else 0)
    return weights


def radam(weights: np.ndarray, gradients: Arrays) -> np.ndarray:
    """Liu et al., 2020, algorithm 2; the first five steps have no adaptive rate."""
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    longest = 2 / (1 - 0.999) - 1
    for step, raw in enumerate(gradients, 1):
        gradient = raw + DECAY * weights
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        length = longest - 2 * step * 0.999**step / (1 - 0.999**step)
        update = first / (1 - 0.9**step)
        if length > 5:
            rectification = np.sqrt(
                (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            )
            update = update * rectification * np.sqrt(1 - 0.999**step) / (np.sqrt(second) + 1e-8)
        weights = weights - RATE * update
    return weights


REFERENCES = {
    "sgd": sgd,
    "adam": adam,
    "adamw": lambda weights, gradients: adam(weights, gradients, decoupled=True),
    "radam": radam,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_steps_are_those_of_the_paper(name: str) -> None:
    rng = np.random.default_rng(0)
    network = nn.Linear(3, 2, bias=False).double()
    start = network.weight.detach().numpy().copy()
    gradients = list(rng.normal(size=(STEPS, 2, 3)))
    optimizer = make_optimizer(network, name, RATE, MOMENTUM, True, DECAY)
    for gradient in gradients:
        network.weight.grad = torch.tensor(gradient)
        optimizer.step()
    expected = REFERENCES[name](start, gradients)
    np.testing.assert_allclose(network.weight.detach().numpy(), expected, rtol=1e-9)


def test_defaults_are_nnunets_to_the_bit() -> None:
    ours, theirs = dynunet(), dynunet()
    optimizers = [
        make_optimizer(ours),
        torch.optim.SGD(
            theirs.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
        ),
    ]
    images = torch.randn(2, 1, 16, 16)
    for network, optimizer in zip((ours, theirs), optimizers, strict=True):
        for _ in range(3):
            optimizer.zero_grad()
            sum(level.square().mean() for level in network(images)).backward()
            optimizer.step()
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    ids = [id(p) for group in optimizers[0].param_groups for p in group["params"]]
    assert ids == [id(p) for p in ours.parameters()]


@pytest.mark.parametrize("norm", ["INSTANCE", "BATCH", "GROUP"])
def test_norms_of_a_dynunet_need_not_decay(norm: str) -> None:
    """Selected by name, as in NVIDIA's nnU-Net."""
    names = {name for name, _ in dynunet(norm).named_parameters()}
    assert decayed(dynunet(norm), []) == names
    without_norms = {name for name in names if "norm" not in name}
    assert 0 < len(without_norms) < len(names)
    assert decayed(dynunet(norm), ["norm"]) == without_norms
    kernels = {name for name in without_norms if not name.endswith("bias")}
    # the heads and the transposed convolutions have a bias
    assert len(kernels) < len(without_norms)
    assert decayed(dynunet(norm), ["norm", "bias"]) == kernels
    norms = {name for name in names if "norm" in name}
    assert decayed(dynunet(norm), ["bias"]) == kernels | norms


def test_norms_are_told_by_their_type() -> None:
    linear = {"8.weight", "8.bias"}
    convolutions = {"6.weight", "7.weight"}
    biases = {"6.bias", "7.bias"}
    assert decayed(several_norms(), ["norm"]) == linear | convolutions | biases
    assert decayed(several_norms(), ["norm", "bias"]) == linear | convolutions


@pytest.fixture
def process_group() -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrap", [DistributedDataParallel, torch.compile])
def test_a_wrapped_network_has_the_same_groups(process_group: None, wrap: Any) -> None:
    network = dynunet()

    def groups(of: nn.Module) -> list[list[int]]:
        made = make_optimizer(of, no_decay=["norm", "bias"])
        return [[id(p) for p in group["params"]] for group in made.param_groups]

    expected = groups(network)
    assert groups(wrap(network)) == expected
    members = [identity for group in expected for identity in group]
    assert len(expected) == 2
    assert len(members) == len(set(members))
    assert set(members) == {id(p) for p in network.parameters()}


def test_there_are_no_empty_groups() -> None:
    assert len(make_optimizer(nn.LayerNorm(2), no_decay=["norm"]).param_groups) == 1
    assert len(make_optimizer(nn.Linear(2, 2), no_decay=["norm"]).param_groups) == 1


def test_only_parameters_on_cuda_step_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_fused(name: str) -> bool:
        return bool(make_optimizer(nn.Linear(2, 2), name).defaults.get("fused"))

    assert not any(map(is_fused, REFERENCES))
    monkeypatch.setattr(nn.Parameter, "is_cuda", True, raising=False)
    assert {name: is_fused(name) for name in REFERENCES} == {
        "sgd": False,
        "adam": True,
        "adamw": True,
        "radam": False,
    }


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"name": "adams"}, ["adams", "sgd, adam, adamw, radam"]),
        ({"no_decay": ["norms"]}, ["norms", "norm, bias"]),
        ({"no_decay": "norm"}, ["'norm'", "list"]),
        ({"learning_rate": -0.5}, ["-0.5", "at least 0"]),
        ({"learning_rate": float("nan")}, ["nan", "at least 0"]),
        ({"learning_rate": "fast"}, ["fast", "at least 0"]),
        ({"name": "adamw", "weight_decay": -1.5}, ["adamw", "-1.5"]),
        ({"momentum": 0.0}, ["momentum 0.0", "nesterov"]),
        ({"momentum": -0.25, "nesterov": False}, ["-0.25"]),
        ({"lookahead": {"period": 6}}, ["period", '"steps": 6']),
        ({"lookahead": {"steps": 0}}, ["steps is 0", "at least 1"]),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], needed: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_optimizer(nn.Linear(2, 2), **settings)
    assert all(text in str(caught.value) for text in needed), caught.value
    assert "\n" not in str(caught.value)

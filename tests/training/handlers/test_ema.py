"""The averaged weights follow the trained ones, step by step, and are saved under plain names."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.networks.nets import DynUNet
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.networks.dynunet import DeepSupervisedDynUNet, inference_state_dict, unwrapped
from dynunet_bundle.training.handlers.ema import EmaHandler, averaged_network

DECAY = 0.75
SETTINGS: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "kernel_size": [[3, 3]] * 4,
    "strides": [[1, 1]] + [[2, 2]] * 3,
    "filters": [2, 2, 4, 4],
    "norm_name": ("BATCH", {"affine": True}),
    "trans_bias": True,
}


@pytest.fixture
def wrappers() -> Iterator[dict[str, Callable[[nn.Module], nn.Module]]]:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    compiled, ddp = torch.compile, DistributedDataParallel
    yield {
        "bare": lambda network: network,
        "DDP": ddp,
        "compile": compiled,
        "compiled DDP": lambda network: compiled(ddp(network)),
        "DDP of compiled": lambda network: ddp(compiled(network)),
    }
    torch.distributed.destroy_process_group()


def dynunet() -> DeepSupervisedDynUNet:
    torch.manual_seed(0)
    return DeepSupervisedDynUNet(**SETTINGS)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=0.5), nn.Linear(4, 1))


def values(network: nn.Module) -> np.ndarray:
    """All weights and all floating-point buffers."""
    tensors = [value for value in network.state_dict().values() if value.is_floating_point()]
    return torch.cat([value.flatten() for value in tensors]).numpy().copy()


def train(
    network: nn.Module, averaged: nn.Module, accumulation_steps: int = 1
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Values after each of ten iterations in two epochs, of the network and of the average."""
    generator = torch.Generator().manual_seed(1)
    data = [
        {
            "image": torch.randn(4, 3, generator=generator),
            "label": torch.randn(4, 1, generator=generator),
        }
        for _ in range(5)
    ]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=nn.MSELoss(),
        train_handlers=[EmaHandler(network, averaged)],
        decollate=False,
        accumulation_steps=accumulation_steps,
    )
    fast: list[np.ndarray] = []
    slow: list[np.ndarray] = []

    def record(_: Any) -> None:
        fast.append(values(network))
        slow.append(values(unwrapped(averaged)))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, record)
    trainer.run()
    return fast, slow


@pytest.mark.parametrize(
    ("accumulation_steps", "stepping"),
    [
        (1, range(10)),
        # the last iteration of an epoch also steps
        (2, [1, 3, 4, 6, 8, 9]),
        (3, [2, 4, 7, 9]),
    ],
)
def test_each_optimizer_step_updates_the_average(
    accumulation_steps: int, stepping: list[int]
) -> None:
    network = small()
    averaged = averaged_network(network, DECAY)
    start = values(unwrapped(averaged))
    fast, slow = train(network, averaged, accumulation_steps)
    expected = start
    for iteration in range(10):
        if iteration == stepping[0]:
            expected = fast[iteration]
        elif iteration in stepping:
            expected = DECAY * expected + (1 - DECAY) * fast[iteration]
        np.testing.assert_allclose(slow[iteration], expected, rtol=1e-5, atol=1e-7)
    assert not np.allclose(fast[-1], slow[-1], atol=1e-3)


def test_the_average_does_not_change_the_training() -> None:
    network, other = small(), small()
    with_average, _ = train(network, averaged_network(network, DECAY))
    without, _ = train(other, averaged_network(other, None))
    np.testing.assert_array_equal(with_average, without)


@pytest.mark.parametrize("name", ["bare", "DDP", "compile", "compiled DDP", "DDP of compiled"])
def test_without_decay_the_bare_network_is_the_average(
    wrappers: dict[str, Callable[[nn.Module], nn.Module]], name: str
) -> None:
    network = dynunet()
    wrapped = wrappers[name](network)
    assert unwrapped(wrapped) is network
    assert averaged_network(wrapped, None) is network
    before = inference_state_dict(network)
    before = {key: value.clone() for key, value in before.items()}
    with torch.no_grad():
        network.output_block.conv.conv.bias += 1
    averaged = averaged_network(wrapped, DECAY)
    handler = EmaHandler(wrapped, averaged)
    assert handler.network is network
    assert unwrapped(averaged) is not network
    assert inference_state_dict(averaged).keys() == before.keys()


def test_an_average_holds_no_gradients_and_evaluates() -> None:
    averaged = averaged_network(dynunet().train(), DECAY)
    assert isinstance(averaged, AveragedModel)
    assert not any(module.training for module in averaged.modules())
    assert not any(parameter.requires_grad for parameter in averaged.parameters())
    # only the tensor of full resolution, as the evaluator needs
    assert averaged(torch.zeros(1, 1, 16, 16)).shape == (1, 2, 16, 16)


def test_a_plain_dynunet_loads_the_average() -> None:
    network = dynunet()
    averaged = averaged_network(network, DECAY)
    assert isinstance(averaged, AveragedModel)
    images = torch.randn(2, 1, 16, 16)
    for _ in range(3):
        averaged.update_parameters(network)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        network(images)  # changes the statistics of the norms
    state = inference_state_dict(averaged)
    assert list(state) == list(inference_state_dict(network))
    upsampling = {"upsample_kernel_size": SETTINGS["strides"][1:]}
    plain = DynUNet(**SETTINGS, **upsampling).eval()
    plain.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), averaged(images))
        assert not torch.allclose(plain(images), network.eval()(images), atol=1e-3)


def test_its_state_goes_on_to_the_bit() -> None:
    network = small()
    averaged = averaged_network(network, DECAY)
    train(network, averaged)
    resumed = averaged_network(small(), DECAY)
    resumed.load_state_dict(averaged.state_dict())
    with torch.no_grad():
        network[0].weight += 1
    for average in (averaged, resumed):
        assert isinstance(average, AveragedModel)
        average.update_parameters(network)
    assert np.array_equal(values(unwrapped(resumed)), values(unwrapped(averaged)))


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=f"ema_decay is {decay}.*0.999"):
        averaged_network(small(), decay)

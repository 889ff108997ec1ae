"""Deep supervision at native resolutions, and weights that a plain DynUNet loads."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BUNDLE
from monai.bundle import ConfigParser
from monai.networks.nets import DynUNet
from torch import nn

from dynunet_bundle.networks.architectures import network_arguments
from dynunet_bundle.networks.dynunet import (
    DeepSupervisedDynUNet,
    deep_supervision_weights,
    inference_state_dict,
)

# planned kernels, strides and patches; few filters, for speed
TASK04: dict[str, Any] = {
    "kernel_size": [[3, 3, 3]] * 4,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
    "filters": [4, 6, 8, 10],
}
ANISOTROPIC: dict[str, Any] = {
    "kernel_size": [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
    "filters": [4, 6, 8, 10, 10],
}
FLAT: dict[str, Any] = {
    "kernel_size": [[3, 3]] * 5,
    "strides": [[1, 1], [2, 2], [2, 2], [2, 2], [2, 1]],
    "filters": [4, 6, 8, 10, 10],
}
PLANS = {
    "Task04": (TASK04, (40, 56, 40), [(40, 56, 40), (20, 28, 20)]),
    "anisotropic": (ANISOTROPIC, (8, 32, 32), [(8, 32, 32), (8, 16, 16), (4, 8, 8)]),
    "2D": (FLAT, (64, 40), [(64, 40), (32, 20), (16, 10)]),
}

Plan = tuple[dict[str, Any], tuple[int, ...], list[tuple[int, ...]]]


def settings_of(plan: dict[str, Any], **overrides: Any) -> dict[str, Any]:
    """The arguments that train.json gives, for two channels and three classes."""
    train = json.loads((BUNDLE / "configs" / "train.json").read_text())
    ids = {name: train[name] for name in ("norm_name", "negative_slope")}
    dims = {"spatial_dims": len(plan["strides"][0]), "in_channels": 2, "out_channels": 3}
    levels = {"kernel_sizes": plan["kernel_size"], **{k: plan[k] for k in ("strides", "filters")}}
    return {**network_arguments(**dims, **levels, **ids), **overrides}


def make_network(plan: dict[str, Any], **overrides: Any) -> DeepSupervisedDynUNet:
    torch.manual_seed(0)
    return DeepSupervisedDynUNet(**settings_of(plan, **overrides))


def plain_network(plan: dict[str, Any]) -> DynUNet:
    torch.manual_seed(1)  # other weights at first
    settings = settings_of(plan)
    return DynUNet(**settings, upsample_kernel_size=settings["strides"][1:]).eval()


def images(size: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest) -> Plan:
    return PLANS[request.param]


def test_training_gives_a_list_at_native_resolutions(plan: Plan) -> None:
    settings, size, expected = plan
    outputs = make_network(settings).train()(images(size))
    assert isinstance(outputs, list)
    assert [tuple(output.shape) for output in outputs] == [(2, 3, *shape) for shape in expected]
    assert len(outputs) == len(deep_supervision_weights(len(settings["strides"])))


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_evaluation_equals_a_plain_dynunet_with_these_weights(
    plan: Plan, deep_supervision: bool
) -> None:
    settings, size, _ = plan
    network = make_network(settings, deep_supervision=deep_supervision)
    plain = plain_network(settings)
    plain.load_state_dict(inference_state_dict(network), strict=True)
    with torch.no_grad():
        output = network.eval()(images(size))
        assert isinstance(output, torch.Tensor)
        assert torch.equal(output, plain(images(size)))
        # the finest output in training is the same (instance norm has only one mode)
        finest = network.train()(images(size))[0]
    torch.testing.assert_close(finest, output)


def test_without_deep_supervision_there_is_one_output_and_no_head(plan: Plan) -> None:
    settings, size, _ = plan
    network = make_network(settings, deep_supervision=False).train()
    outputs = network(images(size))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, *size)]
    assert not any("supervision" in name for name, _ in network.named_parameters())


def test_every_output_trains_the_network_and_its_own_head(plan: Plan) -> None:
    settings, size, expected = plan
    network = make_network(settings).train()
    sum(output.square().mean() for output in network(images(size))).backward()
    without = [name for name, value in network.named_parameters() if value.grad is None]
    assert without == []
    assert len(network.supervision_heads) == len(expected) - 1
    for head in network.supervision_heads:
        assert all(value.grad.abs().sum() > 0 for value in head.parameters())


def test_each_head_reads_its_own_level() -> None:
    settings, size, _ = PLANS["anisotropic"]
    network = make_network(settings).train()
    before = network(images(size))
    with torch.no_grad():
        network.supervision_heads[1].conv.conv.bias += 1
    changed = [not torch.equal(a, b) for a, b in zip(before, network(images(size)), strict=True)]
    assert changed == [False, False, True]


def test_surplus_filters_are_ignored() -> None:
    ours = make_network({**TASK04, "filters": [4, 6, 8, 10, 99, 99]})
    plain_network(TASK04).load_state_dict(inference_state_dict(ours))


class Wrapper(nn.Module):
    """Stores the network under the name that a wrapper of torch uses."""

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        self.add_module(name, network)


@pytest.mark.parametrize(
    "names",
    [["module"], ["_orig_mod"], ["_orig_mod", "module"], ["module", "_orig_mod"]],
    ids=["DDP", "compile", "compiled DDP", "DDP of compiled"],
)
def test_prefixes_of_wrappers_are_dropped(names: list[str]) -> None:
    network = make_network(TASK04)
    wrapped: nn.Module = network
    for name in reversed(names):
        wrapped = Wrapper(name, wrapped)
    state, expected = inference_state_dict(wrapped), inference_state_dict(network)
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_the_wrappers_of_torch_are_named_so() -> None:
    network = make_network(TASK04)
    expected = list(inference_state_dict(network))
    assert list(inference_state_dict(nn.DataParallel(network))) == expected
    assert list(inference_state_dict(torch.compile(network))) == expected


def test_the_file_holds_each_weight_once(tmp_path: Path) -> None:
    plan = {**TASK04, "filters": [16, 32, 64, 64]}
    network = make_network(plan)
    state = inference_state_dict(network)
    torch.save(state, tmp_path / "model.pt")
    heads = sum(p.numel() for p in network.supervision_heads.parameters())
    num_bytes = 4 * (sum(p.numel() for p in network.parameters()) - heads)
    assert len({value.data_ptr() for value in state.values()}) < len(state)
    assert num_bytes < (tmp_path / "model.pt").stat().st_size < 1.2 * num_bytes
    loaded = torch.load(tmp_path / "model.pt", weights_only=True)
    plain_network(plan).load_state_dict(loaded, strict=True)


def test_weights_in_channels_last_are_transferred() -> None:
    network = make_network(TASK04).to(memory_format=torch.channels_last_3d).eval()
    plain = plain_network(TASK04)
    plain.load_state_dict(inference_state_dict(network), strict=True)
    size = (16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(images(size)), plain(images(size)))


def test_it_can_be_copied_after_a_training_step() -> None:
    # MONAI's DynUNet with deep supervision fails here: it stores the outputs of its heads
    size = (16, 16, 16)
    network = make_network(TASK04).train()
    sum(output.mean() for output in network(images(size))).backward()
    copied = copy.deepcopy(network)
    with torch.no_grad():
        assert torch.equal(copied.eval()(images(size)), network.eval()(images(size)))
        copied.output_block.conv.conv.bias += 1
        assert not torch.equal(copied(images(size)), network(images(size)))


def test_the_plain_network_can_be_scripted() -> None:
    size = (16, 16, 16)
    network = make_network(TASK04).eval()
    plain = plain_network(TASK04)
    plain.load_state_dict(inference_state_dict(network))
    scripted = torch.jit.script(plain)
    with torch.no_grad():
        torch.testing.assert_close(scripted(images(size)), network(images(size)))


@pytest.mark.parametrize(
    ("num_levels", "expected"),
    [
        (3, [1]),
        (4, [2 / 3, 1 / 3]),
        (5, [4 / 7, 2 / 7, 1 / 7]),
        (6, [8 / 15, 4 / 15, 2 / 15, 1 / 15]),
    ],
)
def test_weights_halve_at_each_level_and_sum_to_1(num_levels: int, expected: list[float]) -> None:
    weights = deep_supervision_weights(num_levels)
    assert weights == pytest.approx(expected)
    assert math.fsum(weights) == pytest.approx(1)
    assert deep_supervision_weights(num_levels, deep_supervision=False) == [1]
    plan = {
        "kernel_size": [[3, 3]] * num_levels,
        "strides": [[1, 1]] + [[2, 2]] * (num_levels - 1),
        "filters": [2] * num_levels,
    }
    assert len(make_network(plan).supervision_heads) == len(weights) - 1


def dice_ce(logits: torch.Tensor, label: torch.Tensor, batch: bool) -> float:
    """The formulas of cross entropy and of soft Dice without background."""
    logits = logits.detach().double()
    target = nn.functional.one_hot(label[:, 0].long(), 3).movedim(-1, 1).double()
    log_probability = logits - logits.exp().sum(1, keepdim=True).log()
    cross_entropy = -(target * log_probability).sum(1).mean()
    probability, target = log_probability.exp()[:, 1:], target[:, 1:]
    axes = [0, *range(2, logits.ndim)] if batch else list(range(2, logits.ndim))
    overlap = (probability * target).sum(axes)
    size = probability.sum(axes) + target.sum(axes)
    dice = (2 * overlap + 1e-5) / (size + 1e-5)
    return float(cross_entropy + (1 - dice).mean())


@pytest.mark.parametrize("name", ["anisotropic", "2D"])
@pytest.mark.parametrize("batch_dice", [True, False])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_the_declared_loss_is_the_weighted_sum_over_the_levels(
    name: str, batch_dice: bool, deep_supervision: bool
) -> None:
    settings, size, _ = PLANS[name]
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "train.json"))
    parser.update(
        {
            "strides": settings["strides"],
            "batch_dice": batch_dice,
            "deep_supervision": deep_supervision,
        }
    )
    loss = parser.get_parsed_content("loss")
    network = make_network(settings, deep_supervision=deep_supervision).train()
    outputs = network(images(size))
    generator = torch.Generator().manual_seed(3)
    label = torch.randint(0, 3, (2, 1, *size), generator=generator, dtype=torch.uint8)
    expected = 0.0
    weights = [4 / 7, 2 / 7, 1 / 7] if deep_supervision else [1.0]
    for weight, output in zip(weights, outputs, strict=True):
        # the middle voxel of each block, as in nearest-exact
        factors = [n // m for n, m in zip(size, output.shape[2:], strict=True)]
        coarse = label[(..., *(slice(factor // 2, None, factor) for factor in factors))]
        assert coarse.shape[2:] == output.shape[2:]
        expected += weight * dice_ce(output, coarse, batch_dice)
    value = loss(outputs, label)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    value.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())

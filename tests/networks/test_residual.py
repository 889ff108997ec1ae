"""nnU-Net's residual-encoder U-Net: its size, its arithmetic, and that it can replace DynUNet."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BUNDLE
from monai.bundle import ConfigParser
from torch import distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from dynunet_bundle.errors import PlanError
from dynunet_bundle.networks.architectures import network_arguments
from dynunet_bundle.networks.dynunet import (
    DeepSupervisedDynUNet,
    deep_supervision_weights,
    inference_state_dict,
)
from dynunet_bundle.networks.residual import (
    DecoderBlock,
    Layers,
    ResidualBlock,
    ResidualEncoderUNet,
)

ORACLE = Path(__file__).parents[1] / "planning" / "planner_oracle.json"
CONFIGS = BUNDLE / "configs"

# sum(p.numel() for p in net.parameters()) of the ResidualEncoderUNet of dynamic_network_architectures 0.4.4, built with
# the arguments that the planners of nnunetv2 2.8.1 write for these data sets
PARAMETERS = {
    ("hippo", "resenc_m", "2d"): 8728681,
    ("hippo", "resenc_m", "3d_fullres"): 25895593,
    ("brats", "resenc_m", "2d"): 71819444,
    ("brats", "resenc_m", "3d_fullres"): 101944372,
    ("brats", "resenc_l", "3d_fullres"): 102353972,
    ("liver", "resenc_l", "3d_lowres"): 102350575,
    ("liver", "resenc_xl", "3d_fullres"): 141481138,
    ("acdc", "resenc_m", "2d"): 71818580,
    ("acdc", "resenc_m", "3d_fullres"): 100945876,
    ("2dimg", "resenc_l", "2d"): 140019637,
}

# few filters, for speed
ISOTROPIC: dict[str, Any] = {
    "kernel_size": [[3, 3, 3]] * 4,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
    "filters": [2, 3, 4, 4],
}
ANISOTROPIC: dict[str, Any] = {
    "kernel_size": [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
    "filters": [2, 3, 4, 5, 5],
}
FLAT: dict[str, Any] = {
    "kernel_size": [[3, 3]] * 5,
    "strides": [[1, 1], [2, 2], [2, 2], [2, 2], [2, 1]],
    "filters": [2, 3, 4, 5, 5],
}
PLANS = {
    "isotropic": (ISOTROPIC, (16, 24, 16), [(16, 24, 16), (8, 12, 8)]),
    "anisotropic": (ANISOTROPIC, (8, 32, 16), [(8, 32, 16), (8, 16, 8), (4, 8, 4)]),
    "2D": (FLAT, (64, 40), [(64, 40), (32, 20), (16, 10)]),
}

Plan = tuple[dict[str, Any], tuple[int, ...], list[tuple[int, ...]]]
State = dict[str, torch.Tensor]


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest) -> Plan:
    return PLANS[request.param]


def settings_of(plan: dict[str, Any], config: str = "train.json", **more: Any) -> dict[str, Any]:
    """The arguments that a config gives its network, for two channels and three classes."""
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / config))
    parser.update(
        {
            "spatial_dims": len(plan["strides"][0]),
            "channel_names": ["a", "b"],
            "label_names": ["background", "c", "d"],
            "kernel_sizes": plan["kernel_size"],
            "strides": plan["strides"],
            "filters": plan["filters"],
        }
    )
    names = set(parser.get("network_def")) - {"_target_", "architecture"}
    ids = {name: parser.get_parsed_content(f"network_def::{name}") for name in names}
    deep_supervision = ids.pop("deep_supervision", False)
    return {**network_arguments(**ids), "deep_supervision": deep_supervision, **more}


def make_network(plan: dict[str, Any], **more: Any) -> ResidualEncoderUNet:
    torch.manual_seed(0)
    network = ResidualEncoderUNet(**settings_of(plan, **more))
    shake(network)
    return network


def shake(module: nn.Module) -> None:
    """Give norms and biases random values; initially residual branches give zero, which would hide faults."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            if ".adn.N.weight" in name:
                value.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                value.normal_(0, 0.3)


def images(size: tuple[int, ...], channels: int = 2) -> torch.Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(2))


def train_step(network: nn.Module, size: tuple[int, ...]) -> None:
    sum(output.square().mean() for output in network(images(size))).backward()


@pytest.mark.parametrize(("name", "planner", "configuration"), PARAMETERS)
def test_it_has_the_parameters_of_nnunets_network(
    name: str, planner: str, configuration: str
) -> None:
    facts = json.loads(ORACLE.read_text())[name]
    layout = facts["expected"][planner]["configurations"][configuration]
    arguments: dict[str, Any] = {
        "spatial_dims": len(layout["strides"][0]),
        "in_channels": facts["num_channels"],
        "out_channels": facts["num_classes_with_background"],
        "kernel_size": layout["kernel_sizes"],
        "strides": layout["strides"],
        "filters": layout["features"],
    }
    with torch.device("meta"):
        network = ResidualEncoderUNet(**arguments)
        plain = ResidualEncoderUNet(**arguments, deep_supervision=False)
    expected = PARAMETERS[name, planner, configuration]
    assert sum(value.numel() for value in network.parameters()) == expected
    heads = sum((width + 1) * arguments["out_channels"] for width in layout["features"][1:-1])
    assert sum(value.numel() for value in plain.parameters()) == expected - heads


def test_blocks_a_level() -> None:
    plan = {"kernel_size": [[3, 3]] * 8, "strides": [[1, 1]] + [[2, 2]] * 7, "filters": [2] * 8}
    network = make_network(plan)
    assert [len(level) for level in network.encoder] == [1, 3, 4, 6, 6, 6, 6, 6]


def norm(x: torch.Tensor, state: State, prefix: str) -> torch.Tensor:
    """The formula of instance norm."""
    axes = tuple(range(2, x.ndim))
    variance = x.var(axes, unbiased=False, keepdim=True)
    x = (x - x.mean(axes, keepdim=True)) / (variance + 1e-5).sqrt()
    shape = (1, -1, *[1] * len(axes))
    return x * state[f"{prefix}.weight"].view(shape) + state[f"{prefix}.bias"].view(shape)


def leaky_relu(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def conv_norm(
    x: torch.Tensor, state: State, prefix: str, stride: tuple[int, ...] | int = 1
) -> torch.Tensor:
    weight = state[f"{prefix}.conv.weight"]
    padding = [(size - 1) // 2 for size in weight.shape[2:]]
    convolve = functional.conv3d if x.ndim == 5 else functional.conv2d
    out = convolve(x, weight, state.get(f"{prefix}.conv.bias"), stride, padding)
    return norm(out, state, f"{prefix}.adn.N")


def residual_block(
    x: torch.Tensor, state: State, prefix: str, stride: tuple[int, ...], channels: int
) -> torch.Tensor:
    """The formula of ResNet-D's basic block."""
    out = leaky_relu(conv_norm(x, state, f"{prefix}conv1", stride))
    out = conv_norm(out, state, f"{prefix}conv2")
    pooled = max(stride) > 1
    if pooled:
        x = (functional.avg_pool3d if x.ndim == 5 else functional.avg_pool2d)(x, stride)
    if x.shape[1] != channels:
        x = conv_norm(x, state, f"{prefix}shortcut.{int(pooled)}")
    return leaky_relu(out + x)


@pytest.mark.parametrize("channels", [3, 5], ids=["same width", "wider"])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [
        ((3, 3, 3), (1, 1, 1)),
        ((3, 3, 3), (2, 2, 2)),
        ((1, 3, 3), (1, 2, 2)),
        ((3, 3), (1, 1)),
        ((3, 3), (2, 1)),
    ],
)
def test_a_residual_block_is_what_the_formula_says(
    kernel: tuple[int, ...], stride: tuple[int, ...], channels: int
) -> None:
    torch.manual_seed(0)
    block = ResidualBlock(Layers(len(kernel)), 3, channels, kernel, stride)
    shake(block)
    x = images((4, 8, 6)[-len(kernel) :], channels=3)
    before = x.clone()
    with torch.no_grad():
        expected = residual_block(x, block.state_dict(), "", stride, channels)
        torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, before)  # the skip to the decoder reads it again


def test_the_convolutions_have_a_bias_and_the_shortcut_has_none() -> None:
    block = ResidualBlock(Layers(3), 3, 5, (3, 3, 3), (2, 2, 2))
    biases = {name for name in block.state_dict() if name.endswith("conv.bias")}
    assert biases == {"conv1.conv.bias", "conv2.conv.bias"}


def test_a_decoder_block_is_what_the_formula_says() -> None:
    torch.manual_seed(0)
    block = DecoderBlock(Layers(3), 5, 3, (1, 3, 3), (1, 2, 2), trans_bias=True)
    shake(block)
    x, skip = images((4, 4, 3), channels=5), images((4, 8, 6), channels=3)
    state = block.state_dict()
    weight, bias = state["transp_conv.conv.weight"], state["transp_conv.conv.bias"]
    assert weight.shape == (5, 3, 1, 2, 2)
    with torch.no_grad():
        enlarged = functional.conv_transpose3d(x, weight, bias, stride=(1, 2, 2))
        expected = leaky_relu(conv_norm(torch.cat((enlarged, skip), 1), state, "conv"))
        torch.testing.assert_close(block(x, skip), expected)


def test_a_network_of_two_levels_is_what_the_formula_says() -> None:
    plan = {"kernel_size": [[3, 3]] * 2, "strides": [[1, 1], [2, 2]], "filters": [3, 4]}
    network = make_network(plan).eval()
    assert len(network.supervision_heads) == 0
    state, x = network.state_dict(), images((8, 12))
    with torch.no_grad():
        stem = leaky_relu(conv_norm(x, state, "stem"))
        top = residual_block(stem, state, "encoder.0.0.", (1, 1), 3)
        low = residual_block(top, state, "encoder.1.0.", (2, 2), 4)
        for index in (1, 2):
            low = residual_block(low, state, f"encoder.1.{index}.", (1, 1), 4)
        weight, bias = (state[f"decoder.0.transp_conv.conv.{key}"] for key in ("weight", "bias"))
        merged = torch.cat((functional.conv_transpose2d(low, weight, bias, stride=2), top), 1)
        merged = leaky_relu(conv_norm(merged, state, "decoder.0.conv"))
        weight, bias = (state[f"output_block.conv.conv.{key}"] for key in ("weight", "bias"))
        expected = functional.conv2d(merged, weight, bias)
        torch.testing.assert_close(network(x), expected)
        (alone,) = network.train()(x)
    torch.testing.assert_close(alone, expected)


def test_each_level_of_the_decoder_has_the_kernel_of_its_own_level() -> None:
    decoder = make_network(ANISOTROPIC).decoder
    found = [list(block.conv.conv.kernel_size) for block in decoder]
    assert found == ANISOTROPIC["kernel_size"][:-1][::-1]
    found = [list(block.transp_conv.conv.kernel_size) for block in decoder]
    assert found == ANISOTROPIC["strides"][1:][::-1]


def test_the_initial_weights_are_nnunets() -> None:
    torch.manual_seed(0)
    plan = {**ISOTROPIC, "filters": [8, 16, 24, 32]}
    network = ResidualEncoderUNet(**settings_of(plan))
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            fan_in = module.weight[0].numel()
            expected = math.sqrt(2 / (1 + 0.01**2) / fan_in)
            if module.weight.numel() > 2000:
                assert module.weight.std().item() == pytest.approx(expected, rel=0.1)
                # normal, not uniform: uniform values stay within 1.73 standard deviations
                assert module.weight.abs().max() > 2.5 * expected
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.InstanceNorm3d):
            last = "conv2" in name
            assert module.eps == 1e-5
            assert torch.equal(module.weight, torch.full_like(module.weight, 0.0 if last else 1.0))
            assert not module.bias.any()


def test_a_fresh_block_is_its_shortcut() -> None:
    torch.manual_seed(0)
    block = ResidualEncoderUNet(**settings_of(FLAT)).encoder[4][1]
    x = images((6, 6), channels=5)
    assert torch.equal(block(x), functional.leaky_relu(x, 0.01))


def test_training_gives_the_list_that_the_loss_and_dynunet_give(plan: Plan) -> None:
    settings, size, expected = plan
    outputs = make_network(settings).train()(images(size))
    assert isinstance(outputs, list)
    assert [tuple(output.shape) for output in outputs] == [(2, 3, *shape) for shape in expected]
    assert len(outputs) == len(deep_supervision_weights(len(settings["strides"])))
    dynunet = DeepSupervisedDynUNet(**settings_of(settings)).train()
    assert [o.shape for o in dynunet(images(size))] == [o.shape for o in outputs]


def test_without_deep_supervision_there_is_one_output_and_one_head(plan: Plan) -> None:
    settings, size, _ = plan
    network = make_network(settings, deep_supervision=False).train()
    (output,) = network(images(size))
    assert output.shape == (2, 3, *size)
    assert not any(name.startswith("supervision_heads") for name in network.state_dict())


def test_the_inference_form_loads_the_weights_strictly_and_agrees(plan: Plan) -> None:
    settings, size, _ = plan
    network = make_network(settings)
    torch.manual_seed(1)  # other weights at first
    plain = ResidualEncoderUNet(**settings_of(settings, "inference.json")).eval()
    plain.load_state_dict(inference_state_dict(network), strict=True)
    with torch.no_grad():
        output = network.eval()(images(size))
        assert isinstance(output, torch.Tensor)
        assert torch.equal(plain(images(size)), output)
        torch.testing.assert_close(network.train()(images(size))[0], output)


@pytest.mark.parametrize("name", ["train.json", "inference.json"])
def test_a_plan_switches_to_it_by_one_id(name: str) -> None:
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / name))
    parser.update({"architecture": "ResidualEncoderUNet"})
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    assert isinstance(network, ResidualEncoderUNet)
    assert bool(network.supervision_heads) == (name == "train.json")


def test_surplus_filters_are_ignored() -> None:
    short = make_network(ISOTROPIC)
    long = make_network({**ISOTROPIC, "filters": [*ISOTROPIC["filters"], 99, 99]})
    long.load_state_dict(short.state_dict(), strict=True)


def test_the_lowest_head_is_held_but_frozen_and_all_else_trains(plan: Plan) -> None:
    settings, size, expected = plan
    network = make_network(settings).train()
    assert len(network.supervision_heads) == len(expected)
    lowest = f"supervision_heads.{len(expected) - 1}."
    train_step(network, size)
    for name, value in network.named_parameters():
        if name.startswith(lowest):
            assert not value.requires_grad
            assert value.grad is None
        else:
            assert value.grad is not None, name
    for head in network.supervision_heads[:-1]:
        assert all(value.grad.abs().sum() > 0 for value in head.parameters())


def test_each_head_reads_its_own_level() -> None:
    settings, size, _ = PLANS["anisotropic"]
    network = make_network(settings).train()
    before = network(images(size))
    with torch.no_grad():
        network.supervision_heads[1].conv.conv.bias += 1
        network.supervision_heads[2].conv.conv.bias += 1
    changed = [not torch.equal(a, b) for a, b in zip(before, network(images(size)), strict=True)]
    assert changed == [False, False, True]


@pytest.fixture
def process_group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_ddp_finds_no_unused_parameter() -> None:
    settings, size, _ = PLANS["2D"]
    wrapped = DistributedDataParallel(make_network(settings).train())
    for _ in range(2):  # a parameter without a gradient fails in the next step
        train_step(wrapped, size)
    plain = ResidualEncoderUNet(**settings_of(settings, deep_supervision=False))
    plain.load_state_dict(inference_state_dict(wrapped), strict=True)


class Probabilities(nn.Module):
    """An example of scripted code around the network; it requires the annotation ``Tensor``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x).softmax(1)


def test_the_scripted_inference_form_equals_eager(plan: Plan, tmp_path: Path) -> None:
    settings, size, _ = plan
    network = make_network(settings, deep_supervision=False).eval()
    torch.jit.script(network).save(str(tmp_path / "model.ts"))
    scripted = torch.jit.load(str(tmp_path / "model.ts"))
    with torch.no_grad():
        expected = network(images(size))
        assert torch.equal(scripted(images(size)), expected)
        wrapped = torch.jit.script(Probabilities(network))
        assert torch.equal(wrapped(images(size)), expected.softmax(1))


def test_it_can_be_copied_after_a_training_step() -> None:
    settings, size, _ = PLANS["isotropic"]
    network = make_network(settings).train()
    train_step(network, size)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        assert torch.equal(copied.eval()(images(size)), network.eval()(images(size)))
        copied.output_block.conv.conv.bias += 1
        assert not torch.equal(copied(images(size)), network(images(size)))


@pytest.mark.parametrize("training", [True, False])
def test_it_compiles_into_one_graph(training: bool) -> None:
    settings, size, _ = PLANS["2D"]
    network = make_network(settings).train(training)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images(size)), network(images(size)))


def test_channels_last_gives_the_same() -> None:
    settings, size, _ = PLANS["isotropic"]
    network = make_network(settings).train()
    expected = network(images(size))
    layout = torch.channels_last_3d
    last = copy.deepcopy(network).to(memory_format=layout)
    outputs = last(images(size).to(memory_format=layout))
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4)
    sum(output.mean() for output in outputs).backward()


def test_the_transposed_convolutions_lose_their_bias_on_request() -> None:
    network = make_network(FLAT, trans_bias=False)
    assert all(block.transp_conv.conv.bias is None for block in network.decoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel_size": [[3, 3]] * 4}, "4 kernel.*5 stride"),
        ({"strides": [[1, 1], [2, 2]]}, "5 kernel.*2 stride"),
        ({"filters": [2, 3, 4, 5]}, "4 filter"),
        ({"kernel_size": [[3, 3]], "strides": [[1, 1]], "filters": [2]}, "1 level"),
        ({"kernel_size": [], "strides": [], "filters": []}, "0 level"),
        ({"kernel_size": [[3, 3, 3]] * 5}, "must have 2 values"),
    ],
)
def test_lists_that_do_not_belong_together_are_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        ResidualEncoderUNet(**{**settings_of(FLAT), **change})


def test_tuples_are_lists() -> None:
    strides = tuple(tuple(stride) for stride in FLAT["strides"])
    arguments = settings_of(FLAT)
    arguments.update({"strides": strides, "filters": tuple(FLAT["filters"])})
    ResidualEncoderUNet(**arguments)

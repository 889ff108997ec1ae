"""The CPU layers give the results of torch's own, and keep their names."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from helpers.small_plans import COMMON, FLAT, SOLID
from monai.networks.nets import DynUNet
from torch import nn

from dynunet_bundle.networks import dynunet as network
from dynunet_bundle.networks.cpu import norm as cpu_norm
from dynunet_bundle.networks.cpu.layers import (
    OneDnnConv3d,
    PointwiseConv3d,
    UpConv3d,
    use_cpu_layers,
)
from dynunet_bundle.networks.cpu.norm import (
    NormActivation,
    NormActivation2d,
    NormActivation3d,
    channels_last,
    is_channels_last_cpu,
)
from dynunet_bundle.networks.dynunet import DeepSupervisedDynUNet

SHAPES = [(2, 12, 9, 7, 5), (3, 8, 16, 4, 8), (2, 3, 10, 12), (2, 1, 4, 6, 8), (1, 16, 6, 5)]
PLANS = {"2D": FLAT, "3D": SOLID}


@pytest.fixture
def blocks(monkeypatch):
    """Small blocks and short rows, so that a small tensor has many of them, the last ones incomplete."""
    monkeypatch.setattr(cpu_norm, "BLOCK", 256)
    monkeypatch.setattr(cpu_norm, "ROW", 64)
    monkeypatch.setattr(cpu_norm, "SMALLEST", 0)


@pytest.fixture
def calls(monkeypatch):
    """Number of times that the norm is computed by blocks."""
    counted = []
    original = cpu_norm._NormActivation.apply
    monkeypatch.setattr(
        cpu_norm._NormActivation,
        "apply",
        lambda *arguments: counted.append(1) or original(*arguments),
    )
    return counted


def made(shape, dtype=torch.float32, offset=0.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=dtype) + offset
    return x.contiguous(memory_format=channels_last(x))


def norm_activation(channels: int, flat: bool) -> NormActivation:
    norm = (nn.InstanceNorm2d if flat else nn.InstanceNorm3d)(channels, affine=True)
    torch.manual_seed(1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    kind = NormActivation2d if flat else NormActivation3d
    return kind(norm, nn.LeakyReLU(0.2, inplace=True))


def plain(layer: NormActivation, x: torch.Tensor) -> torch.Tensor:
    """The formula, in the precision of x."""
    axes = tuple(range(2, x.ndim))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    weight, bias = (
        value.to(x.dtype).view(-1, *[1] * len(axes)) for value in (layer.weight, layer.bias)
    )
    normed = (x - mean) / (variance + layer.eps).sqrt() * weight + bias
    return torch.where(normed > 0, normed, layer.negative_slope * normed)


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_norm_and_activation_by_blocks(blocks, calls, shape, offset):
    layer, x = norm_activation(shape[1], len(shape) == 4).train(), made(shape, offset=offset)
    incoming = made(shape).flip(2)
    results = []
    for function, dtype in ((layer, torch.float32), (lambda x: plain(layer, x), torch.float64)):
        value = x.to(dtype).requires_grad_()
        output = function(value)
        gradients = torch.autograd.grad(
            output, [value, layer.weight, layer.bias], incoming.to(dtype)
        )
        results.append([output.detach(), *gradients])
    assert calls == [1]
    assert results[0][0].is_contiguous(memory_format=channels_last(x))
    # float32 rounds a number near 300 by 3e-5
    tolerance = 1e-5 if not offset else 2e-3
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), exact.double(), rtol=tolerance, atol=tolerance)


def test_a_channel_far_from_zero_keeps_its_variance(blocks):
    layer, x = norm_activation(3, flat=True), made((1, 3, 64, 64), offset=10000.0)
    with torch.no_grad():
        exact = plain(layer, x.double())
        assert (layer(x) - exact).abs().max() < 0.01


@pytest.mark.parametrize("shape", [(2, 6, 3, 4, 2), (2, 4, 6, 5)])
def test_the_gradient_is_that_of_the_output(blocks, shape):
    x = made(shape, torch.float64).requires_grad_()
    weight, bias = (
        torch.linspace(start, 2, shape[1], dtype=torch.float64).requires_grad_()
        for start in (0.5, -1)
    )
    assert torch.autograd.gradcheck(
        lambda *inputs: cpu_norm._NormActivation.apply(*inputs, 1e-5, 0.1), (x, weight, bias)
    )


def test_torchs_own_functions_elsewhere(calls):
    layer = norm_activation(4, flat=False)
    big = made((1, 4, 32, 32, 32))

    def expected(x):
        return F.leaky_relu(F.instance_norm(x, None, None, layer.weight, layer.bias), 0.2)

    for x in (big.contiguous(), big.half(), big[..., :8], made((1, 4, 8, 8, 8))):
        with torch.no_grad():
            assert torch.equal(layer(x), expected(x))
    assert calls == []
    layer(big)
    assert calls == [1]


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_computed_in_float32_and_rounded_once(blocks, shape):
    layer, x = norm_activation(shape[1], len(shape) == 4), made(shape, offset=3.0).bfloat16()
    with torch.no_grad():
        exact = plain(layer, x.double())
        result = layer(x)
    assert result.dtype == torch.bfloat16 and result.data_ptr() == x.data_ptr()
    # half the distance of two neighbours in bfloat16, plus the rounding of float32
    torch.testing.assert_close(result.double(), exact, rtol=2**-8, atol=1e-5)


def test_bfloat16_with_gradients_is_torchs_own(blocks, calls):
    layer, x = norm_activation(4, flat=False), made((1, 4, 6, 8, 10)).bfloat16()
    expected = F.leaky_relu(F.instance_norm(x, None, None, layer.weight, layer.bias), 0.2)
    assert torch.equal(layer(x), expected) and calls == []


def test_without_gradients_the_result_takes_the_place_of_the_input(blocks):
    layer, x = norm_activation(4, flat=False), made((2, 4, 6, 8, 10))
    with_gradients = layer(x).detach()
    with torch.no_grad():
        result = layer(x)
    assert torch.equal(result, with_gradients) and result.data_ptr() == x.data_ptr()


def test_one_small_patch_is_convolved_by_onednn_as_by_torch():
    torch.manual_seed(0)
    conv = nn.Conv3d(8, 6, 3, stride=(1, 2, 2), padding=1)
    ours = copy.deepcopy(conv)
    ours.__class__ = OneDnnConv3d
    x = made((1, 8, 4, 6, 6))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), conv(x))
    torch.testing.assert_close(ours(x), conv(x))
    ours(x).sum().backward()
    conv(x).sum().backward()
    torch.testing.assert_close(ours.weight.grad, conv.weight.grad)


def test_compiled_and_traced_it_is_torchs_own(calls):
    layer, big = norm_activation(4, flat=False).train(), made((1, 4, 32, 32, 32))
    with torch.no_grad():
        traced = torch.jit.trace(layer, big, check_trace=False)
        compiled = torch.compile(layer, backend="eager")(big)
    assert "leaky_relu" in str(traced.graph) and calls == []
    torch.testing.assert_close(compiled, layer(big), rtol=1e-5, atol=1e-5)


def networks(plan, monkeypatch, **settings) -> tuple[DeepSupervisedDynUNet, DeepSupervisedDynUNet]:
    """The network, and the same with torch's own layers."""
    pair = []
    for function in (use_cpu_layers, lambda network: None):
        monkeypatch.setattr(network, "use_cpu_layers", function)
        torch.manual_seed(2)
        made_network = DeepSupervisedDynUNet(**{**COMMON, **plan, **settings})
        for name, value in made_network.named_parameters():
            if "norm" in name:
                nn.init.normal_(value, 1, 0.2)
        dims = plan["spatial_dims"]
        order = torch.channels_last if dims == 2 else torch.channels_last_3d
        pair.append(made_network.to(memory_format=order))
    return tuple(pair)


@pytest.mark.parametrize("trans_bias", [True, False])
@pytest.mark.parametrize("name", PLANS)
def test_a_network_trains_the_same(name, trans_bias, blocks, calls, monkeypatch):
    ours, theirs = networks(PLANS[name], monkeypatch, trans_bias=trans_bias)
    size = (2, 2, *[16] * PLANS[name]["spatial_dims"])
    assert list(ours.state_dict()) == list(theirs.state_dict())
    results = []
    for model in (ours, theirs):
        outputs = model.train()(made(size))
        sum(output.square().sum() for output in outputs).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([*(output.detach() for output in outputs), *gradients])
    assert len(calls) == 14
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize("name", PLANS)
def test_in_evaluation_it_is_a_plain_dynunet(name, blocks, monkeypatch):
    plan = PLANS[name]
    ours, _ = networks(plan, monkeypatch)
    reference = DynUNet(**COMMON, **plan, upsample_kernel_size=plan["strides"][1:])
    reference.load_state_dict(network.inference_state_dict(ours))
    order = torch.channels_last if plan["spatial_dims"] == 2 else torch.channels_last_3d
    x = made((2, 2, *[16] * plan["spatial_dims"]))
    with torch.no_grad():
        expected = reference.eval().to(memory_format=order)(x)
        torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-4, atol=1e-5)


def test_what_is_exchanged(monkeypatch):
    ours, theirs = networks(SOLID, monkeypatch)
    kinds = [type(module) for module in ours.modules()]
    assert kinds.count(PointwiseConv3d) == 2 and kinds.count(UpConv3d) == 3
    assert kinds.count(NormActivation3d) == 14 and nn.InstanceNorm3d not in kinds
    assert [type(module) for module in copy.deepcopy(ours).modules()] == kinds
    assert NormActivation3d not in [type(module) for module in theirs.modules()]


@pytest.mark.parametrize(
    "settings",
    [
        {"norm_name": ["BATCH", {"affine": True}]},
        {"norm_name": ["INSTANCE", {"affine": False}]},
        {"norm_name": ["GROUP", {"num_groups": 4}]},
        {"act_name": "prelu"},
        {"act_name": ["leakyrelu", {"negative_slope": 0.0}]},
    ],
    ids=str,
)
def test_other_norms_and_activations_stay(settings, monkeypatch):
    ours, theirs = networks(SOLID, monkeypatch, **settings)
    kinds = [type(module) for module in ours.modules()]
    assert NormActivation3d not in kinds and nn.Identity not in kinds
    x = made((2, 2, 16, 16, 16))
    for a, b in zip(ours.train()(x), theirs.train()(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_it_does_not_depend_on_the_threads(blocks, threads):
    layer, x = norm_activation(8, flat=False).train(), made((2, 8, 16, 16, 16))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        output = layer(x)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(output.double(), plain(layer, x.double()), rtol=1e-5, atol=1e-5)


def test_the_order_of_an_image_with_one_channel():
    for size, order in itertools.product([(4, 6), (4, 6, 8)], (False, True)):
        x = torch.zeros(2, 3, *size)
        x = x.contiguous(memory_format=channels_last(x)) if order else x
        assert is_channels_last_cpu(x) is order
    assert is_channels_last_cpu(torch.zeros(2, 1, 4, 6, 8))

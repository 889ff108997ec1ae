"""The lean forward pass gives MONAI's results in less memory, and falls back to MONAI's pass where needed."""

import copy

import pytest
import torch
from helpers.small_plans import COMMON, FLAT, SOLID
from monai.networks.nets import DynUNet
from torch import nn

from dynunet_bundle.networks.cpu import forward as cpu_forward
from dynunet_bundle.networks.cpu import norm as cpu_norm
from dynunet_bundle.networks.cpu.forward import LeanDynUNet, fit_to_cpu
from dynunet_bundle.networks.cpu.norm import channels_last
from dynunet_bundle.networks.dynunet import PlainConvUNet

WIDE = {
    "spatial_dims": 3,
    "kernel_size": [[3, 3, 3], [5, 3, 1], [3, 3, 3]],
    "strides": [[1, 1, 1], [3, 2, 2], [2, 1, 2]],
}
PLANS = {
    "2D": (DynUNet, FLAT, (16, 16)),
    "3D": (DynUNet, SOLID, (8, 16, 16)),
    "odd kernels and strides": (DynUNet, WIDE, (18, 8, 8)),
    "decoder kernels of nnU-Net": (PlainConvUNet, WIDE, (18, 8, 8)),
}


@pytest.fixture(params=PLANS)
def networks(request):
    """MONAI's network and the lean one with the same weights, and an image."""
    network, plan, size = PLANS[request.param]
    torch.manual_seed(0)
    plain = network(
        **{**COMMON, **plan}, upsample_kernel_size=plan["strides"][1:], deep_supervision=False
    ).eval()
    for module in plain.modules():
        if isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    lean = copy.deepcopy(plain)
    fit_to_cpu(lean)
    return plain, lean, torch.randn(2, 2, *size)


@pytest.fixture(params=[1, 2**24], ids=["a row at a time", "at once"])
def slabs(request, monkeypatch):
    monkeypatch.setattr(cpu_forward, "SLAB", request.param)
    monkeypatch.setattr(cpu_norm, "SMALLEST", 0)


@pytest.mark.parametrize("order", ["contiguous", "channels last"])
@pytest.mark.parametrize("batch", [1, 2])
def test_it_computes_what_monai_computes(networks, slabs, batch, order, monkeypatch):
    plain, lean, images = networks
    assert type(lean) is LeanDynUNet
    x = images[:batch]
    if order == "channels last":
        x = x.contiguous(memory_format=channels_last(images))
    monkeypatch.setattr(lean, "skip_layers", None)  # MONAI's pass needs it
    with torch.no_grad():
        torch.testing.assert_close(lean(x), plain(x), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_as_far_from_float32_as_monai_in_bfloat16(networks, slabs):
    plain, lean, images = networks
    x = images.contiguous(memory_format=channels_last(images))
    with torch.no_grad():
        exact = plain(x)
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = lean(x), plain(x)
    assert ours.dtype == torch.bfloat16
    error, usual = ((logits.float() - exact).square().mean() for logits in (ours, theirs))
    assert error < 1.5 * usual


def test_no_slab_is_larger_than_it_may_be(networks, monkeypatch):
    _, lean, images = networks
    sizes = []
    original = cpu_forward.convolve
    monkeypatch.setattr(cpu_forward, "SLAB", 1)
    monkeypatch.setattr(
        cpu_forward,
        "convolve",
        lambda x, *rest: sizes.append((x.shape[2], len(x))) or original(x, *rest),
    )
    x = images[:1].contiguous(memory_format=channels_last(images))
    with torch.no_grad():
        lean(x)
    finest = [depth for depth, _ in sizes]
    # one row of the level below gives as many rows as the stride, plus a margin on both sides
    stride = lean.strides[1][0]
    kernel = lean.upsamples[-1].conv_block.conv1.conv.kernel_size[0]
    assert finest[-1] == stride + kernel - 1
    assert sizes.count((finest[-1], 1)) >= images.shape[2] // stride


def test_gradients_go_by_monais_own_pass(networks):
    plain, lean, images = networks
    for network in (plain, lean):
        network(images).square().mean().backward()
    pairs = zip(plain.parameters(), lean.parameters(), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


def test_weights_are_named_as_before(networks):
    plain, lean, _ = networks
    assert list(lean.state_dict()) == list(plain.state_dict())
    lean.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("own", [{"res_block": True}, {"dropout": 0.1}, {"norm_name": "batch"}])
def test_other_blocks_compute_what_they_did(own):
    settings = {**COMMON, **SOLID, **own}
    torch.manual_seed(0)
    network = DynUNet(**settings, upsample_kernel_size=SOLID["strides"][1:]).eval()
    x = torch.randn(1, 2, 8, 16, 16)
    with torch.no_grad():
        before = network(x)
        fit_to_cpu(network)
        torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-4)
    assert isinstance(network, LeanDynUNet) == ("dropout" not in own)


def test_it_is_done_once(networks):
    _, lean, _ = networks
    kinds = [type(module) for module in lean.modules()]
    kept = {name: value.data_ptr() for name, value in lean.named_parameters()}
    fit_to_cpu(nn.ModuleList([lean]))
    assert [type(module) for module in lean.modules()] == kinds
    assert {name: value.data_ptr() for name, value in lean.named_parameters()} == kept


def test_a_network_elsewhere_is_left_alone(networks):
    plain, _, _ = networks
    kinds = [type(module) for module in plain.modules()]
    fit_to_cpu(plain.to("meta"))
    assert [type(module) for module in plain.modules()] == kinds

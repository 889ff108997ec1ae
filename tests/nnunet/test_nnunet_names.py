"""nnU-Net's weights fill the same network here, whatever the kind."""

from pathlib import Path

import pytest
import torch
from helpers.nnunet_results import nnunet_state, seeded_network
from torch import nn

from dynunet_bundle.errors import WeightsError
from dynunet_bundle.networks.architectures import plain_network
from dynunet_bundle.nnunet.names import load_nnunet_state, nnunet_name

SOURCE = Path("fold_0/checkpoint_final.pth")
KINDS = [
    ("PlainConvUNet", 2),
    ("PlainConvUNet", 3),
    ("ResidualEncoderUNet", 2),
    ("ResidualEncoderUNet", 3),
]


@pytest.mark.parametrize(("kind", "dims"), KINDS)
def test_the_network_computes_what_it_did(kind: str, dims: int) -> None:
    theirs, ours = seeded_network(0, kind, dims), seeded_network(1, kind, dims)
    state = load_nnunet_state(ours, nnunet_state(theirs), 3, SOURCE)
    x = torch.randn(1, 1, *[16] * dims)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
    fresh = seeded_network(2, kind, dims)
    fresh.load_state_dict(state, strict=True)


def test_names_of_nnunets_own_checkpoints() -> None:
    """As listed by nnU-Net 2.8.1 for networks of four levels."""
    expected = {
        "input_block.conv1.conv.weight": "encoder.stages.0.0.convs.0.conv.weight",
        "downsamples.1.norm2.bias": "encoder.stages.2.0.convs.1.norm.bias",
        "bottleneck.conv2.conv.weight": "encoder.stages.3.0.convs.1.conv.weight",
        "upsamples.0.transp_conv.conv.bias": "decoder.transpconvs.0.bias",
        "upsamples.2.conv_block.conv1.conv.weight": "decoder.stages.2.convs.0.conv.weight",
        "output_block.conv.conv.weight": "decoder.seg_layers.2.weight",
        "supervision_heads.0.conv.conv.bias": "decoder.seg_layers.1.bias",
        "stem.adn.N.weight": "encoder.stem.convs.0.norm.weight",
        "encoder.1.2.conv1.conv.bias": "encoder.stages.1.blocks.2.conv1.conv.bias",
        "encoder.1.0.shortcut.1.adn.N.bias": "encoder.stages.1.blocks.0.skip.1.norm.bias",
        "decoder.1.conv.conv.weight": "decoder.stages.1.convs.0.conv.weight",
    }
    assert {name: nnunet_name(name, 4) for name in expected} == expected
    with pytest.raises(ValueError, match="swin"):
        nnunet_name("swin.0.weight", 4)


def test_a_bias_before_a_batch_norm_counts() -> None:
    """The trainer nnUNetTrainerBN: a running mean of inputs with the bias, which our convolution lacks."""
    torch.manual_seed(0)
    conv, norm = nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4)
    nn.init.normal_(norm.running_mean)
    ids = {
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1] * 3, [2] * 3, [2] * 3],
        "filters": [4, 6, 8],
        "norm_name": ["BATCH", {"affine": True}],
    }
    network = plain_network("DynUNet", spatial_dims=3, in_channels=1, out_channels=3, **ids).eval()
    state = nnunet_state(network)
    first = "encoder.stages.0.0.convs.0."
    state |= {f"{first}conv.{name}": value.detach() for name, value in conv.named_parameters()}
    state |= {f"{first}norm.{name}": value for name, value in norm.state_dict().items()}
    load_nnunet_state(network, state, 3, SOURCE)
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        block = network.input_block
        torch.testing.assert_close(block.norm1(block.conv1(x)), norm.eval()(conv(x)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("decoder.transpconvs.0.weight"),
            "decoder.transpconvs.0.weight is missing",
        ),
        (
            lambda state: state.update({"encoder.attention.weight": torch.ones(1)}),
            "encoder.attention.weight",
        ),
        (
            lambda state: state.update({"decoder.seg_layers.1.bias": torch.ones(4)}),
            r"decoder.seg_layers.1.bias is \(4,\), expected \(3,\)",
        ),
    ],
)
def test_another_network_is_refused(change, message) -> None:
    state = nnunet_state(seeded_network(0))
    change(state)
    with pytest.raises(WeightsError, match=message):
        load_nnunet_state(seeded_network(1), state, 3, SOURCE)

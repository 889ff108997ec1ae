"""A plan has a short name for its network; both forms of a network are built from the plan's ids."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BUNDLE, TINY, run_script
from monai.bundle import ConfigParser
from monai.networks.nets import DynUNet
from torch import nn

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.errors import ConfigError, PlanError, WeightsError, find_user_error
from dynunet_bundle.networks.architectures import (
    ARCHITECTURES,
    plain_network,
    training_network,
)
from dynunet_bundle.networks.dynunet import (
    DeepSupervisedDynUNet,
    DeepSupervisedPlainConvUNet,
    PlainConvUNet,
    inference_state_dict,
)
from dynunet_bundle.networks.residual import ResidualEncoderUNet
from dynunet_bundle.networks.weights import read_weights, save_weights
from dynunet_bundle.planning import planner

IDS: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 3,
    "kernel_sizes": [[3, 3, 3]] * 4,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
    "filters": [4, 6, 8, 10],
}
OLD_PATHS = (
    "dynunet_bundle.residual.ResidualEncoderUNet",
    "dynunet_bundle.networks.residual.ResidualEncoderUNet",
)
LINE = 'Change the line to "architecture": "ResidualEncoderUNet"'


def test_the_names_are_those_that_the_planner_writes() -> None:
    assert set(ARCHITECTURES) == {planner.DYNUNET, planner.PLAIN_CONV_UNET, planner.RESIDUAL}


@pytest.mark.parametrize(
    ("architecture", "trained", "plain"),
    [
        ("DynUNet", DeepSupervisedDynUNet, DynUNet),
        ("PlainConvUNet", DeepSupervisedPlainConvUNet, PlainConvUNet),
        ("ResidualEncoderUNet", ResidualEncoderUNet, ResidualEncoderUNet),
    ],
)
def test_both_forms_of_a_planned_network(
    architecture: str, trained: type[nn.Module], plain: type[nn.Module]
) -> None:
    network = training_network(architecture, **IDS)
    assert type(network) is trained
    levels = network.train()(torch.randn(1, 2, 16, 16, 16))
    assert [tuple(level.shape) for level in levels] == [
        (1, 3, *[16 // 2**index] * 3) for index in range(2)
    ]
    inference = plain_network(architecture, **IDS)
    assert type(inference) is plain
    inference.load_state_dict(inference_state_dict(network), strict=True)
    output = inference.eval()(torch.randn(1, 2, 16, 16, 16))
    assert output.shape == (1, 3, 16, 16, 16)


# kernels, strides and filters that nnU-Net plans for ACDC, 3d_fullres, plain
ACDC: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 4,
    "kernel_sizes": [[1, 3, 3]] * 2 + [[3, 3, 3]] * 4,
    "strides": [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]],
    "filters": [32, 64, 128, 256, 320, 320],
}


def test_kernels_of_the_decoder_are_those_of_nnunets_levels() -> None:
    """30,005,956: parameters of nnU-Net's network without lower heads and convolution biases before norms."""
    sizes = {
        name: sum(part.numel() for part in plain_network(name, **ACDC).parameters())
        for name in ("DynUNet", "PlainConvUNet")
    }
    assert sizes == {"DynUNet": 30_227_140, "PlainConvUNet": 30_005_956}
    network = plain_network("PlainConvUNet", **ACDC)
    kernels = [block.conv_block.conv1.conv.kernel_size for block in network.upsamples]
    assert kernels == [(3, 3, 3)] * 3 + [(1, 3, 3)] * 2


def test_with_one_kernel_both_networks_are_the_same() -> None:
    ours, theirs = (plain_network(name, **IDS).eval() for name in ("PlainConvUNet", "DynUNet"))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("make", [training_network, plain_network])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_slope_and_norm_reach_the_network(make: Any, architecture: str) -> None:
    ids = {**IDS, "norm_name": ("GROUP", {"num_groups": 2}), "negative_slope": 0.3}
    parts = list(make(architecture, **ids).modules())
    assert {part.negative_slope for part in parts if isinstance(part, nn.LeakyReLU)} == {0.3}
    assert any(isinstance(part, nn.GroupNorm) for part in parts)
    assert not any(isinstance(part, nn.InstanceNorm3d) for part in parts)


def test_without_deep_supervision_there_is_one_output() -> None:
    for architecture in ARCHITECTURES:
        network = training_network(architecture, deep_supervision=False, **IDS).train()
        assert len(network(torch.randn(1, 2, 16, 16, 16))) == 1


@pytest.mark.parametrize("make", [training_network, plain_network])
@pytest.mark.parametrize("architecture", ["UNETR", "os", ""])
def test_another_architecture_is_refused(make: Any, architecture: str) -> None:
    with pytest.raises(PlanError, match=f'architecture is "{architecture}". It must be "DynUNet"'):
        make(architecture, **IDS)


# --- the import paths of earlier versions


@pytest.mark.parametrize("path", OLD_PATHS)
@pytest.mark.parametrize("config", ["train.json", "inference.json"])
def test_a_config_with_an_old_path_says_what_to_write(config: str, path: str) -> None:
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / config))
    parser.update({"architecture": path})
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("network_def")
    error = find_user_error(caught.value)
    assert isinstance(error, PlanError) and LINE in str(error)


@pytest.mark.parametrize("path", OLD_PATHS)
def test_an_overlay_with_an_old_path_says_what_to_write(path: str, tmp_path: Path) -> None:
    overlay = tmp_path / "Own_3d.json"
    overlay.write_text(json.dumps({"filters": [2, 4], "architecture": path}))
    with pytest.raises(ConfigError) as caught:
        load_workflow(BUNDLE, "inference.json", [str(overlay)])
    assert str(caught.value).startswith(f"{overlay}: architecture is") and LINE in str(caught.value)


def test_old_weights_say_what_to_write_in_their_json(tmp_path: Path) -> None:
    weights, sidecar = tmp_path / "model.pt", tmp_path / "model.json"
    save_weights(weights, {"a": torch.zeros(1)}, {"architecture": OLD_PATHS[0]}, {})
    with pytest.raises(WeightsError) as caught:
        read_weights(weights)
    assert str(caught.value).startswith(f"{sidecar}: architecture is") and LINE in str(caught.value)
    sidecar.write_text(sidecar.read_text().replace(f'"{OLD_PATHS[0]}"', '"ResidualEncoderUNet"'))
    assert read_weights(weights)[1]["plan"] == {"architecture": "ResidualEncoderUNet"}


def test_predict_py_tells_it_in_one_line(phantom: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "Own_3d.json"
    overlay.write_text(json.dumps({"filters": TINY["filters"], "architecture": OLD_PATHS[1]}))
    done = run_script(
        "predict",
        *(
            "--input",
            phantom / "imagesTs",
            "--output_dir",
            tmp_path / "out",
            "--config_file",
            overlay,
        ),
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {overlay}: ") and LINE in done.stderr

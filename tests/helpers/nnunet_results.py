"""Results folders as nnU-Net v2 writes them, with small networks of seeded weights."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dynunet_bundle.networks.architectures import plain_network
from dynunet_bundle.nnunet.names import nnunet_name

CLASSES = "dynamic_network_architectures.architectures.unet."
STEPS = {
    "resampling_fn_data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": {
        "is_seg": False,
        "order": 1,
        "order_z": 0,
        "force_separate_z": None,
    },
}


def network_arguments(kind: str = "PlainConvUNet", dims: int = 3) -> dict[str, Any]:
    """Arguments of nnU-Net's network with three levels, the first flat."""
    blocks = {"n_conv_per_stage": [2, 2, 2], "n_conv_per_stage_decoder": [2, 2]}
    if kind == "ResidualEncoderUNet":
        blocks = {"n_blocks_per_stage": [1, 3, 4], "n_conv_per_stage_decoder": [1, 1]}
    return {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [([1, 3, 3] if dims == 3 else [3, 3]), [3] * dims, [3] * dims],
        "strides": [[1] * dims, [2] * dims, [2] * dims],
        **blocks,
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def plans_of(kind: str = "PlainConvUNet", dims: int = 3, **changes: Any) -> dict[str, Any]:
    """Content of plans.json with one configuration; ``changes`` are keys of the configuration."""
    configuration = {
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16, 16, 16][:dims],
        "spacing": [2.0, 2.0, 2.0][:dims],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        **{name: "resample_data_or_seg_to_shape" for name in STEPS},
        **{f"{name}_kwargs": arguments for name, arguments in STEPS.items()},
        "architecture": {
            "network_class_name": CLASSES + kind,
            "arch_kwargs": network_arguments(kind, dims),
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
        **changes,
    }
    return {
        "dataset_name": "Dataset099_Phantom",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"2d" if dims == 2 else "3d_fullres": configuration},
        "foreground_intensity_properties_per_channel": {
            "0": {"percentile_00_5": 1.0, "percentile_99_5": 9.0, "mean": 5.0, "std": 2.0}
        },
    }


DATASET = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "head": 1, "tail": 2},
    "numTraining": 6,
    "file_ending": ".nii.gz",
}


def seeded_network(
    seed: int, kind: str = "PlainConvUNet", dims: int = 3, **changes: Any
) -> nn.Module:
    """Our network of ``network_arguments``, with random weights and biases."""
    arguments = network_arguments(kind, dims)
    torch.manual_seed(seed)
    settings = {
        "in_channels": 1,
        "out_channels": 3,
        "kernel_sizes": arguments["kernel_sizes"],
        "strides": arguments["strides"],
        "filters": arguments["features_per_stage"],
    }
    network = plain_network(kind, spatial_dims=dims, **{**settings, **changes})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


def nnunet_state(network: nn.Module, num_levels: int = 3) -> dict[str, torch.Tensor]:
    """Weights by nnU-Net's names: with its aliases, biases before norms, and lower heads."""
    state: dict[str, torch.Tensor] = {}
    for name, value in network.state_dict().items():
        if name.startswith("skip_layers."):
            continue
        theirs = nnunet_name(name, num_levels)
        state[theirs] = value
        if theirs.endswith(".conv.weight") and ".skip." not in theirs:
            state.setdefault(theirs.replace("weight", "bias"), torch.randn(len(value)))
    for name, value in list(state.items()):
        alias = name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")
        for known in (name, alias):
            state[known] = value
            if known.startswith("encoder."):
                state[f"decoder.{known}"] = value
    width = network_arguments()["features_per_stage"][1]
    ones = [1] * (state["decoder.seg_layers.1.weight"].ndim - 2)
    state["decoder.seg_layers.0.weight"] = torch.randn(3, width, *ones)
    state["decoder.seg_layers.0.bias"] = torch.randn(3)
    return state


def save_checkpoint(path: Path, state: Mapping[str, torch.Tensor], **changes: Any) -> None:
    """A checkpoint with the nine keys that nnU-Net writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "network_weights": dict(state),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.4)]},
        "_best_ema": np.float32(0.6),
        "current_epoch": 20,
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
        **changes,
    }
    torch.save(content, path)


def make_results(
    folder: Path,
    kind: str = "PlainConvUNet",
    dims: int = 3,
    folds: Sequence[str] = ("0",),
    **changes: Any,
) -> Path:
    """A results folder; the weights of a fold have its place as their seed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans_of(kind, dims, **changes)))
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    for seed, fold in enumerate(folds):
        name = "2d" if dims == 2 else "3d_fullres"
        save_checkpoint(
            folder / f"fold_{fold}" / "checkpoint_final.pth",
            nnunet_state(seeded_network(seed, kind, dims)),
            init_args={"configuration": name},
            inference_allowed_mirroring_axes=(0, 1) if dims == 2 else (0, 1, 2),
        )
    return folder

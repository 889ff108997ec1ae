"""nnU-Net v2's own network, plans and predictor for one of our plans. Needs nnunetv2, and nothing from this project.

The plans have the form of nnU-Net 2.8.1, with SimpleITK's axis order: z, y, x, not transposed.
"""

import importlib
from typing import Any

import torch

CONFIGURATION = "3d_fullres"
SCHEMES = {
    "zscore": "ZScoreNormalization",
    "zscore_nonzero": "ZScoreNormalization",
    "ct": "CTNormalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}


def network(plan: dict[str, Any]) -> torch.nn.Module:
    """nnU-Net's network of the size of a plan, with its own random initial weights."""
    unet = importlib.import_module("dynamic_network_architectures.architectures.unet")
    dims, levels = len(plan["patch_size"]), len(plan["strides"])
    torch.manual_seed(0)
    made: torch.nn.Module = unet.PlainConvUNet(
        input_channels=len(plan["channel_names"]),
        n_stages=levels,
        features_per_stage=plan["filters"],
        conv_op=getattr(torch.nn, f"Conv{dims}d"),
        kernel_sizes=plan["kernel_sizes"],
        strides=plan["strides"],
        n_conv_per_stage=[2] * levels,
        num_classes=len(plan["label_names"]),
        n_conv_per_stage_decoder=[2] * (levels - 1),
        conv_bias=True,
        norm_op=getattr(torch.nn, f"InstanceNorm{dims}d"),
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )
    return made.eval()


def plans(plan: dict[str, Any], reader: str = "SimpleITKIO") -> dict[str, Any]:
    """nnU-Net's plans file with one configuration.

    Args:
        plan: ours, with spacing and patch in the order of nnU-Net's array (z, y, x).
        reader: nnU-Net's class for the files.
    """
    resampling = {"order_z": 0, "force_separate_z": None}
    kinds = {"data": (False, 3), "seg": (True, 1), "probabilities": (False, 1)}
    functions: dict[str, Any] = {}
    for kind, (is_label, order) in kinds.items():
        functions[f"resampling_fn_{kind}"] = "resample_data_or_seg_to_shape"
        own = {"is_seg": is_label, "order": order}
        functions[f"resampling_fn_{kind}_kwargs"] = {**own, **resampling}
    names = {"mean": "mean", "std": "std", "lower": "percentile_00_5", "upper": "percentile_99_5"}
    statistics = {
        str(channel): {theirs: (found or {}).get(ours) for ours, theirs in names.items()}
        for channel, found in enumerate(plan["intensity_statistics"])
    }
    configuration = {
        "data_identifier": "made",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(plan["patch_size"]),
        "spacing": list(plan["spacing"]),
        "normalization_schemes": [SCHEMES[scheme] for scheme in plan["normalization"]],
        "use_mask_for_norm": [scheme == "zscore_nonzero" for scheme in plan["normalization"]],
        # the network is created separately
        "architecture": {},
        **functions,
    }
    return {
        "dataset_name": "Dataset999_Made",
        "plans_name": "made",
        "image_reader_writer": reader,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": statistics,
        "configurations": {CONFIGURATION: configuration},
    }


def dataset_json(plan: dict[str, Any], file_ending: str = ".nii.gz") -> dict[str, Any]:
    """nnU-Net's dataset.json."""
    labels = {name: value for value, name in enumerate(plan["label_names"])}
    channels = {str(index): name for index, name in enumerate(plan["channel_names"])}
    return {"labels": labels, "channel_names": channels, "file_ending": file_ending}


def managers(plan: dict[str, Any], reader: str = "SimpleITKIO") -> tuple[Any, Any]:
    """nnU-Net's PlansManager, and the ConfigurationManager of the one configuration."""
    handling = importlib.import_module("nnunetv2.utilities.plans_handling.plans_handler")
    manager = handling.PlansManager(plans(plan, reader))
    return manager, manager.get_configuration(CONFIGURATION)


def predictor(plan: dict[str, Any], own_network: torch.nn.Module, mirroring: bool) -> Any:
    """nnU-Net's predictor with its defaults: half a patch of overlap, Gaussian weights, one tile at a time.

    It is initialised directly, so the times do not include reading a training folder or searching for the trainer.
    """
    inference = importlib.import_module("nnunetv2.inference.predict_from_raw_data")
    device = torch.device(plan["device"])
    made = inference.nnUNetPredictor(use_mirroring=mirroring, device=device, allow_tqdm=False)
    dims = len(plan["patch_size"])
    made.manual_initialization(
        own_network,
        *managers(plan),
        [own_network.state_dict()],
        dataset_json(plan),
        "nnUNetTrainer",
        tuple(range(dims)),
    )
    return made

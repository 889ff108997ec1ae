"""Checks that run MONAI's commands on the bundle, as the Model Zoo's CI does, offline and without a GPU."""

import math
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dynunet_bundle.delivery.verify.bundle_folder import (
    BundleFolder,
    BundleProblem,
    SkippedCheck,
    last_words,
    list_argument,
)
from dynunet_bundle.delivery.verify.data import NUM_CASES
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import atomic_write
from dynunet_bundle.planning.plan import plan_from

SCHEMA = Path(__file__).with_name("metadata_schema.json")


def check_schema(bundle: BundleFolder) -> list[BundleProblem]:
    """``verify_metadata`` with our own schema, which is stricter than MONAI's and needs no download."""
    if find_spec("jsonschema") is None:
        raise ConfigError("jsonschema is not installed. Run pip install jsonschema.")
    bundle.require("configs/metadata.json")
    schema = bundle.scratch / "schema.json"
    with atomic_write(schema) as file:
        file.write(SCHEMA.read_bytes())
    done = bundle.monai(
        "verify_metadata", "--meta_file", "configs/metadata.json", "--filepath", str(schema)
    )
    return _failure(done, "verify_metadata", "Correct configs/metadata.json.")


def check_network(bundle: BundleFolder) -> list[BundleProblem]:
    """``verify_net_in_out``: for a patch of the size in the metadata, the network's output matches the metadata."""
    bundle.require("configs/metadata.json")
    done = bundle.monai(
        "verify_net_in_out",
        "network_def",
        "--meta_file",
        "configs/metadata.json",
        "--config_file",
        "configs/inference.json",
        "--device",
        "cpu",
    )
    return _failure(done, "verify_net_in_out", "Make network_data_format and network_def agree.")


def check_export(bundle: BundleFolder) -> list[BundleProblem]:
    """``ckpt_export``: the weights load strictly, and the network can be scripted."""
    if not (bundle.path / "models" / "model.pt").is_file():
        raise SkippedCheck("models/model.pt is missing")
    done = bundle.monai(
        "ckpt_export",
        "network_def",
        "--filepath",
        str(bundle.scratch / "model.ts"),
        "--ckpt_file",
        "models/model.pt",
        "--meta_file",
        "configs/metadata.json",
        "--config_file",
        "configs/inference.json",
    )
    return _failure(done, "ckpt_export", "Package the weights with their own overlays.")


def check_single_process(bundle: BundleFolder) -> list[BundleProblem]:
    """train.json trains one iteration on synthetic data, without a process group and without a GPU."""
    config = bundle.config("train.json")
    if config.get("cascade"):
        raise SkippedCheck("the second stage of a cascade needs the masks of the first")
    patch = small_patch(plan_from(config).overlay())
    output = str(bundle.scratch / "training")
    done = bundle.monai(
        "run",
        "training",
        "--config_file",
        "configs/train.json",
        *("--dataset_dir", str(bundle.dataset)),
        *("--ckpt_dir", output, "--output_dir", output),
        *("--device", "cpu", "--num_folds", str(NUM_CASES), "--fold", "0"),
        *("--epochs", "1", "--iterations_per_epoch", "1", "--val_interval", "1"),
        *("--batch_size", "1", "--patch_size", list_argument(patch)),
    )
    return _failure(done, "run training", "Run it by hand; train.json must not need torchrun.")


def small_patch(plan: Mapping[str, Any]) -> list[int]:
    """The smallest patch with two voxels per axis at the lowest level, but not larger than the plan's."""
    factors = [math.prod(axis) for axis in zip(*plan["strides"], strict=True)]
    pairs = zip(plan["patch_size"], factors, strict=True)
    return [min(size, 2 * factor) for size, factor in pairs]


def _failure(
    done: subprocess.CompletedProcess[str], command: str, remedy: str
) -> list[BundleProblem]:
    if done.returncode == 0:
        return []
    return [BundleProblem(f"monai.bundle {command} fails: {last_words(done)}", remedy)]

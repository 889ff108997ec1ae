"""The content of ``configs/metadata.json``, by MONAI's bundle specification."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dynunet_bundle.delivery.package.facts import Facts
from dynunet_bundle.delivery.package.model_card_images import channels_text
from dynunet_bundle.errors import ConfigError, counted
from dynunet_bundle.planning.channels import channel_names_text

SCHEMA_URL = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
"""The newest schema used by bundles of the Model Zoo."""

REQUIRED_PACKAGES = (
    "nibabel",
    "pytorch-ignite",
    "scipy",
    "tensorboard",
    "nvidia-dali-cuda120",
    "SimpleITK",
    "fire",
    "tqdm",
    "pillow",
    "jinja2",
    "connected-components-3d",
    "jsonschema",
)
"""Packages that the bundle imports besides MONAI, torch and numpy; pyproject.toml has the same list."""

METHOD_REFERENCE = (
    "Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, "
    "Nature Methods 18 (2021)"
)

MR_CHANNELS = ("mr", "mri", "t1", "t1w", "t1gd", "t1c", "t1ce", "t2", "t2w", "flair", "adc", "dwi")
HEADING = re.compile(r"^## \[?(\d+\.\d+\.\d+)\]?.*$", re.MULTILINE)
METRIC_DIGITS = 4
ZSCORE_RANGE = (-8.0, 8.0)
ZSCORES = ("zscore", "zscore_nonzero")
UNIT_SCHEMES = ("rescale_to_0_1", "rgb_to_0_1")
"""Normalizations whose results are from 0 to 1."""


def make_metadata(
    plan: Mapping[str, Any],
    facts: Facts,
    name: str,
    changelog: Mapping[str, str],
    bundle_version: str,
    scores: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Metadata of a bundle for one plan.

    Args:
        plan: the plan ids, as literals.
        facts: texts about the task.
        name: display name.
        changelog: text by version.
        bundle_version: a version in the changelog.
        scores: content of ``scores.json``, or None if the model was not evaluated.

    Raises:
        ConfigError: if a required package is not installed, or the version is not in the changelog.
    """
    if bundle_version not in changelog:
        raise ConfigError(
            f"the changelog has no entry for version {bundle_version}, only for {', '.join(changelog) or 'none'}. "
            'Write a section "## VERSION" (--changelog), or pass another --version.'
        )
    targets = list(plan["regions"] or plan["label_names"])
    versions = package_versions()
    return {
        "schema": SCHEMA_URL,
        "version": bundle_version,
        "changelog": dict(changelog),
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"],
        "numpy_version": versions["numpy"],
        "required_packages_version": {package: versions[package] for package in REQUIRED_PACKAGES},
        "supported_apps": {},
        "name": name,
        "task": f"Segmentation of {facts.subject}",
        "description": describe_model(facts),
        "authors": facts.authors,
        "copyright": facts.copyright,
        "data_source": facts.data_source,
        "data_type": "nibabel",
        **_class_texts(plan, targets),
        "eval_metrics": eval_metrics(scores),
        "intended_use": facts.intended_use,
        "references": [METHOD_REFERENCE, *facts.references],
        "network_data_format": _network_data_format(plan, targets),
    }


def _class_texts(plan: Mapping[str, Any], targets: Sequence[str]) -> dict[str, str]:
    pairs = zip(plan["label_values"], plan["label_names"], strict=True)
    labels = ", ".join(f"{value} {label}" for value, label in pairs)
    return {
        "image_classes": f"{channels_text(plan)}; the bundle normalises them",
        "label_classes": f"one channel: {labels}",
        "pred_classes": f"{counted(len(targets), 'channel')}: {', '.join(targets)}",
    }


def _network_data_format(plan: Mapping[str, Any], targets: Sequence[str]) -> dict[str, Any]:
    image = {"type": "image", "format": "magnitude", "modality": modality(plan)}
    mask = {"type": "image", "format": "segmentation"}
    return {
        "inputs": {"image": {**image, **_data_format(plan, input_names(plan), _input_range(plan))}},
        "outputs": {"pred": {**mask, **_data_format(plan, targets, [0, 1])}},
    }


def package_versions() -> dict[str, str]:
    """All packages that a bundle imports, with pip's names and versions; MONAI, torch and numpy first.

    Raises:
        ConfigError: if one is not installed.
    """
    return {
        name: installed_version(name) for name in ("monai", "torch", "numpy", *REQUIRED_PACKAGES)
    }


def describe_model(facts: Facts) -> str:
    """One sentence on the model."""
    return facts.description or (
        f"An nnU-Net-style network, configured to its data, that segments {facts.subject}."
    )


def _input_range(plan: Mapping[str, Any]) -> list[float]:
    """Range of the values that the network gets; empty if a channel is not normalised.

    A CT is clipped; of a z-score this is what bundles of the Model Zoo say, since it has no limits.
    """
    lows, highs = [], []
    for scheme, statistics in zip(plan["normalization"], plan["intensity_statistics"], strict=True):
        if scheme == "ct":
            bounds = (statistics["lower"], statistics["upper"])
            low, high = ((value - statistics["mean"]) / statistics["std"] for value in bounds)
        elif scheme in ZSCORES:
            low, high = ZSCORE_RANGE
        elif scheme in UNIT_SCHEMES:
            low, high = 0.0, 1.0
        else:
            return []
        lows.append(round(low, 2))
        highs.append(round(high, 2))
    return [min(lows), max(highs)]


def _data_format(
    plan: Mapping[str, Any], names: Sequence[str], value_range: Sequence[float]
) -> dict[str, Any]:
    return {
        "num_channels": len(names),
        # numbers, not "8*n": verify_net_in_out uses the smallest n, for which instance norms have a single voxel
        "spatial_shape": list(plan["patch_size"]),
        "dtype": "float32",
        "value_range": list(value_range),
        "is_patch_data": True,
        "channel_def": {str(index): name for index, name in enumerate(names)},
    }


def input_names(plan: Mapping[str, Any]) -> list[str]:
    """Names of the network's input channels; in a cascade, including the classes of the previous stage."""
    previous = plan["label_names"][1:] if plan.get("cascade") else []
    return [*plan["channel_names"], *(f"previous {label}" for label in previous)]


def modality(plan: Mapping[str, Any]) -> str:
    """Modality of the images: ``"CT"``, ``"MR"``, or else the names of the channels."""
    if "ct" in plan["normalization"]:
        return "CT"
    if all(channel.lower() in MR_CHANNELS for channel in plan["channel_names"]):
        return "MR"
    return channel_names_text(plan["channel_names"])


def eval_metrics(scores: Mapping[str, Any] | None) -> dict[str, float]:
    """Mean scores of an evaluation, without case names: Dice overall and by class, HD95, ASSD and NSD by class."""
    if not scores or scores.get("mean_dice") is None:
        return {}
    figures = {"mean_dice": scores["mean_dice"]}
    figures |= {f"dice_{name}": value for name, value in scores["mean"].items()}
    for name, measures in scores.get("statistics", {}).items():
        for measure, summary in measures.items():
            if measure in ("hd95_mm", "assd_mm", "hd95_px", "assd_px", "nsd"):
                figures[f"{measure}_{name}"] = summary["mean"]
    return {
        name: round(value, METRIC_DIGITS) for name, value in figures.items() if value is not None
    }


def installed_version(package: str) -> str:
    """Version of an installed package, without a build suffix (``2.13.0+cpu``), which pip would not find.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError as error:
        raise ConfigError(
            f"{package} is not installed, but metadata.json lists its version. Run pip install {package}."
        ) from error


def read_changelog(path: Path) -> dict[str, str]:
    """The first entry of each section ``## X.Y.Z`` of a changelog, in the order of the file.

    Raises:
        ConfigError: if the file cannot be read or has no such section.
    """
    try:
        parts = HEADING.split(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}. Pass --changelog.") from error
    versions = dict(zip(parts[1::2], map(_first_entry, parts[2::2]), strict=True))
    if not versions:
        raise ConfigError(
            f'{path} has no section "## X.Y.Z". Write a section for each version of the bundle.'
        )
    return versions


def _first_entry(section: str) -> str:
    """The first list entry or paragraph of a Markdown section, on one line."""
    first = re.split(r"\n\s*(?:\n|[-*] )", section.strip())[0]
    return " ".join(first.removeprefix("- ").removeprefix("* ").split())

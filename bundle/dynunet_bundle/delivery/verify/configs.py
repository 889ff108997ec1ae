"""Checks of the configs and of the weights, with MONAI's parser and the bundle's own code."""

import re
from collections.abc import Iterator
from typing import Any

from dynunet_bundle.configs.code_check import check_configs
from dynunet_bundle.delivery.package.make import NAME
from dynunet_bundle.delivery.verify.bundle_folder import BundleFolder, BundleProblem, SkippedCheck
from dynunet_bundle.delivery.verify.metadata import METADATA_SCHEMA
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json, sha256_of
from dynunet_bundle.networks.model_json import MODEL_SCHEMA

KEYS_WITHOUT_LABEL = "$[key for key in @case_keys if key != 'label']"
"""Keys that inference.json loads: the image and, in a cascade, the previous mask."""

INFERENCE_IDS = (
    "bundle_root",
    "device",
    "dataset_dir",
    "output_dir",
    "network_def",
    "network",
    "preprocessing",
    "dataset",
    "dataloader",
    "inferer",
    "postprocessing",
    "handlers",
    "evaluator",
    "initialize",
    "run",
)
TRAIN_IDS = (
    "bundle_root",
    "ckpt_dir",
    "output_dir",
    "dataset_dir",
    "device",
    "val_interval",
    "epochs",
    "network_def",
    "network",
    "loss",
    "optimizer",
    "lr_scheduler",
    "train#preprocessing",
    "train#dataset#data",
    "train#dataloader",
    "train#inferer",
    "train#handlers",
    "train#trainer#max_epochs",
    "validate#preprocessing",
    "validate#dataset#data",
    "validate#dataloader",
    "validate#inferer",
    "validate#postprocessing",
    "validate#handlers",
    "validate#key_metric",
    "validate#evaluator",
    "initialize",
    "run",
)
REFERENCES = {
    "train#trainer#train_handlers": "@train#handlers",
    "train#dataset#transform": "@train#preprocessing",
    "validate#evaluator#val_handlers": "@validate#handlers",
    "validate#dataset#transform": "@validate#preprocessing",
}
"""Ids that must be references, according to MONAI's check of optional properties."""


def check_inference(bundle: BundleFolder) -> list[BundleProblem]:
    """inference.json has the ids of MONAI's properties, and each can be built."""
    missing = _lacking(bundle.config("inference.json"), INFERENCE_IDS, "inference.json")
    return [*missing, *_probed(bundle, "inference", "inference.json")]


def check_train(bundle: BundleFolder) -> list[BundleProblem]:
    """train.json has the ids of MONAI's properties, each can be built, and ids that clients replace are referenced."""
    config = bundle.config("train.json")
    problems = _lacking(config, TRAIN_IDS, "train.json")
    for name, reference in REFERENCES.items():
        value = _part(config, name)
        if value != reference:
            problems.append(
                BundleProblem(f'train.json: {name} is "{value}".', f'Write "{reference}".')
            )
    return [*problems, *_probed(bundle, "train", "train.json")]


def check_imports(bundle: BundleFolder) -> list[BundleProblem]:
    """Every import and every ``_target_`` of the configs can be imported."""
    remedy = "Correct the name, or add the package to required_packages_version and install it."
    return [BundleProblem(f"{fault}.", remedy) for fault in bundle.probed["imports"]]


def check_logging(bundle: BundleFolder) -> list[BundleProblem]:
    """MONAI accepts logging.conf: no class or argument in it could run code (GHSA-wvpx-5qmp-46g3)."""
    bundle.require("configs/logging.conf")
    remedy = "Use only handlers of the logging module, with literal arguments."
    return [
        BundleProblem(f"configs/logging.conf: {fault}.", remedy)
        for fault in bundle.probed["logging"]
    ]


def check_code(bundle: BundleFolder) -> list[BundleProblem]:
    """Configs evaluate and call only the few kinds of code that the bundle's own configs need."""
    remedy = "Use classes of MONAI, torch or the bundle, and only one-line expressions of values."
    return [
        BundleProblem(f"configs/{fault}.", remedy)
        for fault in check_configs(bundle.path / "configs")
    ]


def check_weights(bundle: BundleFolder) -> list[BundleProblem]:
    """model.pt holds tensors only, fits the network of inference.json strictly, and is the file of model.json."""
    if not (bundle.path / "models" / "model.pt").is_file():
        raise SkippedCheck(
            "models/model.pt is missing; python -m monai.bundle download_large_files downloads it"
        )
    remedy = "Package the model again, with the overlays that it was trained with."
    problems = [
        BundleProblem(f"models/model.pt: {fault}.", remedy) for fault in bundle.probed["weights"]
    ]
    facts = bundle.path / "models" / "model.json"
    if facts.is_file():
        expected = read_json(facts, ConfigError, MODEL_SCHEMA)["sha256"]
        if expected != sha256_of(bundle.path / "models" / "model.pt"):
            problems.append(
                BundleProblem("models/model.pt is not the file that model.json describes.", remedy)
            )
    return problems


def check_label(bundle: BundleFolder) -> list[BundleProblem]:
    """Requirements of MONAI Label 0.8.5: folder name, distinct labels, and the lists and loaders that it replaces."""
    metadata = bundle.config("metadata.json", METADATA_SCHEMA)
    if bundle.config("inference.json").get("cascade"):
        raise SkippedCheck("MONAI Label does not support the previous masks of a cascade")
    return list(
        _label_faults(
            bundle.path.name, metadata, bundle.config("inference.json"), bundle.config("train.json")
        )
    )


def _label_faults(
    folder: str, metadata: dict[str, Any], inference: dict[str, Any], train: dict[str, Any]
) -> Iterator[BundleProblem]:
    if not NAME.fullmatch(folder) or not re.search("segmentation|annotation", folder):
        yield BundleProblem(
            f'the folder is called "{folder}".',
            "Name it organ_modality_segmentation, from which MONAI Label infers what a bundle does.",
        )
    pred = _part(metadata, "network_data_format#outputs#pred#channel_def") or {}
    labels = [str(name).lower() for name in pred.values()]
    for name in sorted({name for name in labels if labels.count(name) > 1}):
        yield BundleProblem(
            f'two labels are called "{name}" in lower case.',
            "Rename one; MONAI Label would show only one.",
        )
    transforms = _part(inference, "preprocessing#transforms")
    steps = (
        [step for step in transforms if isinstance(step, dict)]
        if isinstance(transforms, list)
        else []
    )
    loaders = [step for step in steps if step.get("_target_") == "LoadImaged"]
    keys = [step.get("keys") for step in loaders]
    if keys not in (["image"], [["image"]], [KEYS_WITHOUT_LABEL]):
        yield BundleProblem(
            "inference.json does not load exactly the key image.",
            "List one LoadImaged with that key in preprocessing.",
        )
    handlers = _part(train, "train#handlers")
    if not isinstance(handlers, list) or not all(
        isinstance(handler, dict) and "_target_" in handler for handler in handlers
    ):
        yield BundleProblem(
            "train#handlers is not a list of components.",
            "Write a literal list, to which MONAI Label adds a handler.",
        )


def _lacking(config: dict[str, Any], names: tuple[str, ...], file: str) -> list[BundleProblem]:
    return [
        BundleProblem(f"{file} lacks the id {name}.", "Add it.")
        for name in names
        if _part(config, name) is None
    ]


def _part(config: dict[str, Any], name: str) -> Any:
    """The value of an id like ``train#handlers``, or None."""
    part: Any = config
    for step in name.split("#"):
        part = part.get(step) if isinstance(part, dict) else None
    return part


def _probed(bundle: BundleFolder, what: str, file: str) -> list[BundleProblem]:
    return [
        BundleProblem(f"{file}: {fault}.", "Correct it; see MONAI's bundle properties.")
        for fault in bundle.probed[what]
    ]

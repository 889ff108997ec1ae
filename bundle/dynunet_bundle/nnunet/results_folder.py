"""A results folder of nnU-Net v2, or the zip of ``nnUNetv2_export_model_to_zip``: which files make up one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynunet_bundle.dicom_input.archives import extracted
from dynunet_bundle.errors import DatasetError
from dynunet_bundle.files import read_json
from dynunet_bundle.nnunet.plans_schema import DATASET_SCHEMA, PLANS_SCHEMA

CHECKPOINTS = {"final": "checkpoint_final.pth", "best": "checkpoint_best.pth"}
WANTED = frozenset(
    (
        *("plans.json", "dataset.json", "postprocessing.json", "postprocessing.pkl"),
        *CHECKPOINTS.values(),
    )
)
"""Files of a zip that are extracted."""

DEPTH = 5
"""Levels that are searched for models. nnU-Net has two folders below ``nnUNet_results``, ``DatasetNNN_Name`` and
``TRAINER__PLANS__CONFIGURATION``; zips made by hand often have that folder, too, and one above it."""


@dataclass(frozen=True)
class ResultsFolder:
    """One trained configuration.

    Attributes:
        folder: with plans.json, dataset.json and the folds.
        plans: content of plans.json.
        dataset: content of dataset.json.
        checkpoints: path by fold, e.g. ``{"0": .../fold_0/checkpoint_final.pth}``.
    """

    folder: Path
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    checkpoints: Mapping[str, Path]


def opened(source: Path) -> Path:
    """The folder itself, or a temporary folder with the needed files of a zip, see ``archives.extracted``.

    Args:
        source: folder or zip.

    Raises:
        DatasetError: if the source is missing, or is not a readable zip within the limits.
        OutputError: if the temporary folder has no space.
    """
    if source.is_dir():
        return source
    if not source.is_file():
        raise DatasetError(
            f"{source} does not exist. Pass a results folder of nnU-Net, or its zip."
        )
    try:
        return extracted(source, wanted=WANTED)
    except DatasetError as error:
        raise DatasetError(f"{source}: {error}") from error


def find_models(root: Path) -> list[Path]:
    """Folders with plans.json, dataset.json and at least one fold, sorted."""
    found = []
    for depth in range(DEPTH):
        for plans in sorted(root.glob("*/" * depth + "plans.json")):
            folder = plans.parent
            if (folder / "dataset.json").is_file() and any(folder.glob("fold_*/*.pth")):
                found.append(folder)
    return found


def choose_model(root: Path, configuration: str | None, source: Path | None = None) -> Path:
    """The folder of one configuration.

    Args:
        root: a results folder, or a folder above it.
        configuration: e.g. ``3d_fullres``; None if there is one model only.
        source: the zip that the folder was extracted from, for messages.

    Raises:
        DatasetError: if there are no models, several, or none of the configuration.
    """
    models = find_models(root)
    if not models:
        raise DatasetError(
            f"{source or root} has no trained model: a folder with plans.json, dataset.json and "
            "fold_0/checkpoint_final.pth."
        )
    if configuration and len(models) > 1:
        models = [model for model in models if model.name.split("__")[-1] == configuration]
    if len(models) != 1:
        names = ", ".join(str(model.relative_to(root)) for model in models or find_models(root))
        raise DatasetError(
            f"{source or root} has the models {names}. Choose one with --configuration, or pass its folder."
        )
    return models[0]


def read_results(folder: Path, folds: Sequence[str] | None, kind: str) -> ResultsFolder:
    """Read the description of a model, and find its checkpoints.

    Args:
        folder: of ``choose_model``.
        folds: names of the folds, e.g. ``["0", "1"]`` or ``["all"]``; None takes all numbered folds, or else ``all``,
            as nnU-Net does.
        kind: key of ``CHECKPOINTS``.

    Raises:
        DatasetError: if a file is malformed, or a fold is missing.
    """
    plans = read_json(folder / "plans.json", DatasetError, PLANS_SCHEMA)
    dataset = read_json(folder / "dataset.json", DatasetError, DATASET_SCHEMA)
    name = CHECKPOINTS[kind]
    there = {
        path.parent.name.removeprefix("fold_"): path
        for path in sorted(folder.glob(f"fold_*/{name}"))
    }
    chosen = list(folds) if folds else [fold for fold in there if fold != "all"] or list(there)
    missing = [fold for fold in chosen if fold not in there]
    if missing or not chosen:
        known = ", ".join(there) or "none"
        raise DatasetError(
            f"{folder} has no {name} of fold {', '.join(missing) or '0'}; it has the folds {known}. "
            "Choose others with --folds, or --checkpoint best."
        )
    return ResultsFolder(folder, plans, dataset, {fold: there[fold] for fold in chosen})

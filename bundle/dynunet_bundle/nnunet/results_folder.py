"""A results folder of nnU-Net v2, or the zip of ``nnUNetv2_export_model_to_zip``: which files make up one model."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dynunet_bundle.dicom_input.archives import DAMAGES
from dynunet_bundle.errors import DatasetError
from dynunet_bundle.files import is_inside, read_json
from dynunet_bundle.limits import GIB
from dynunet_bundle.nnunet.plans import DATASET_SCHEMA, PLANS_SCHEMA

WANTED = ("plans.json", "dataset.json", "postprocessing.json", "postprocessing.pkl")
"""Files of a zip that are extracted, beside the checkpoints."""

CHECKPOINTS = {"final": "checkpoint_final.pth", "best": "checkpoint_best.pth"}
MAX_BYTES = 16 * GIB
"""Largest size of all extracted files; five folds of nnU-Net's largest network have 8 GiB with their optimizers."""

MAX_FILES = 20_000
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


@contextmanager
def opened(source: Path) -> Iterator[Path]:
    """The folder itself, or a temporary folder with the needed files of a zip.

    Args:
        source: folder or zip.

    Raises:
        DatasetError: if the source is missing, or is not a readable zip.
    """
    if source.is_dir():
        yield source
        return
    if not source.is_file():
        raise DatasetError(
            f"{source} does not exist. Pass a results folder of nnU-Net, or its zip."
        )
    with tempfile.TemporaryDirectory(prefix="dynunet-nnunet-") as folder:
        try:
            with zipfile.ZipFile(source) as archive:
                _extract(archive, Path(folder), source)
        except DAMAGES as error:
            raise DatasetError(
                f"{source} is not a zip, or is damaged. Pass a results folder of nnU-Net, or its zip."
            ) from error
        yield Path(folder)


def _extract(archive: zipfile.ZipFile, folder: Path, source: Path) -> None:
    entries = archive.infolist()
    names = {*WANTED, *CHECKPOINTS.values()}
    chosen = [entry for entry in entries if PurePosixPath(entry.filename).name in names]
    if len(entries) > MAX_FILES or sum(entry.file_size for entry in chosen) > MAX_BYTES:
        raise DatasetError(
            f"{source} has {len(entries)} files; at most {MAX_FILES} files and {MAX_BYTES // GIB} GiB are read. "
            "Unpack it, and pass the folder of one model."
        )
    for entry in chosen:
        if not is_inside(entry.filename):
            raise DatasetError(f"{source} has a file that leads out of its folder. Do not use it.")
        target = folder / entry.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)


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

"""``model.json``, the file beside weights: their plan, and what they learnt from. Nothing here imports torch at once.

Stored on disk: the file names.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.case_marks import MARKS_SCHEMA
from dynunet_bundle.dicom_input.archives import extracted
from dynunet_bundle.errors import DatasetError, WeightsError
from dynunet_bundle.files import PICTURE_SUFFIXES, read_json
from dynunet_bundle.machine.places import models_home
from dynunet_bundle.planning.plan import PLAN_SCHEMA, find_old_architecture
from dynunet_bundle.shapes import (
    COUNT,
    MAYBE_NUMBER,
    OBJECT,
    SHA256,
    TEXT,
    Schema,
    by_name,
    list_of,
    object_with,
    require_shape,
)

MODEL = "model.pt"
CHECKPOINTS = ("checkpoint_last.pt", "checkpoint_last.previous.pt")
"""Names of the last state of a training, and of the one before it; both lie beside ``model.pt``."""

PREVIOUS_STAGE = "previous_stage"
"""Folder beside the weights of a cascade with those of its previous stage, as ``models`` of a package has weights."""

WEIGHTS_NAME: Schema = {
    "type": "string",
    "pattern": r"^[^/\\\x00]{1,252}\.pt$",
    "description": "the name of a .pt file in the same folder",
}
MAX_MEMBERS = 100
"""Most further files of weights of an ensemble; nnU-Net trains five in all."""

MAX_MEMBERS = 100
"""Largest number of members of an ensemble that is read from a zip."""

PACKED = frozenset(
    f"model{number}{suffix}"
    for number in ("", *(f"_{member}" for member in range(2, MAX_MEMBERS + 1)))
    for suffix in (".pt", ".json")
)
"""Names of weights and their JSON in a package."""

CODES_ID = "label_codes"
"""Id of inference.json: DICOM codes of classes. An overlay of the training, or of the package, sets it."""

OF_AN_EPOCH = ("sha256", "epoch", "val_mean_dice")
"""Entries of ``model.json`` that are not those of another epoch of the same training."""

RANGES = by_name(list_of({"type": "number"}, minItems=2, maxItems=2))
"""The smallest and the largest value of each class in the training cases."""

MODEL_SCHEMA = object_with(
    {
        "plan": PLAN_SCHEMA,
        "sha256": SHA256,
        "epoch": {**COUNT, "type": ["integer", "null"]},
        "epochs": {**COUNT, "type": ["integer", "null"]},
        "iterations_per_epoch": {**COUNT, "type": ["integer", "null"]},
        "val_mean_dice": MAYBE_NUMBER,
        "members": list_of(WEIGHTS_NAME, maxItems=MAX_MEMBERS, uniqueItems=True),
        "recipe": OBJECT,
        "made_with": object_with({"run_id": TEXT, "overlays": list_of(TEXT)}),
        "keep_largest": list_of(list_of(COUNT, minItems=1)),
        "mirror_axes": {
            **list_of({"type": "integer", "minimum": 0, "maximum": 2}, uniqueItems=True),
            "type": ["array", "null"],
        },
        "training": {
            **object_with(
                {
                    "num_cases": COUNT,
                    "volumes_ml": RANGES,
                    "components": RANGES,
                    "picture_types": list_of({"enum": list(PICTURE_SUFFIXES)}, uniqueItems=True),
                }
            ),
            "type": ["object", "null"],
        },
        "learnt_from": object_with(
            {
                "fold": {"type": ["integer", "string", "null"]},
                "trained": MARKS_SCHEMA,
                "held_out": MARKS_SCHEMA,
                "preprocessing": list_of(by_name(OBJECT)),
            },
            ("fold", "trained", "held_out", "preprocessing"),
        ),
        "origin": by_name(TEXT),
    },
    ("sha256",),
    description="Restore the file that was saved with the weights.",
)


def model_facts(weights: Path) -> Mapping[str, Any]:
    """What is known of weights; empty if there is no JSON beside them.

    For the last state of a training these are the facts of the model beside it that hold for all epochs.

    Args:
        weights: the ``.pt`` file.

    Raises:
        WeightsError: if the JSON is malformed.
    """
    is_checkpoint = weights.name in CHECKPOINTS
    path = (weights.with_name(MODEL) if is_checkpoint else weights).with_suffix(".json")
    facts: Mapping[str, Any] = read_json(path, WeightsError, MODEL_SCHEMA) if path.is_file() else {}
    if is_checkpoint:
        return {name: value for name, value in facts.items() if name not in OF_AN_EPOCH}
    return facts


def model_plan(weights: Path) -> Mapping[str, Any]:
    """The plan ids that weights were trained with; empty if the JSON beside them is missing or lacks a plan.

    The last state of a training has them itself.

    Args:
        weights: the ``.pt`` file.

    Raises:
        WeightsError: if the JSON is malformed, or names the network by an import path, as earlier versions did.
    """
    plan: Mapping[str, Any] = model_facts(weights).get("plan", {})
    if not plan and weights.name in CHECKPOINTS:
        plan = _plan_in(weights)
    fault = find_old_architecture(plan)
    if fault:
        raise WeightsError(f"{weights.with_suffix('.json')}: {fault}")
    return plan


def model_files(model: Path) -> list[Path]:
    """Weights of a model: of an ensemble all members.

    Args:
        model: a ``.pt`` file, or a folder with ``model.pt`` in it or in its ``models``: a package, a training; or a
            run of several folds, whose models are the members of an ensemble; or the zip of a package, whose weights
            are extracted to a folder that is removed when the process ends; or the name of an installed package.

    Raises:
        WeightsError: if there are no weights, or the JSON beside them is malformed.
        DatasetError: if a zip is damaged, larger than the limits, or has unsafe names.
        OutputError: if the temporary folder has no space for a zip.
    """
    if not model.exists() and len(model.parts) == 1 and (models_home() / model).is_dir():
        model = models_home() / model
    beside = (model, model.with_suffix(".json"), model.with_name(CHECKPOINTS[0]))
    if not any(map(os.path.lexists, beside)):
        raise missing_weights(model)
    if model.suffix.lower() == ".zip" and model.is_file():
        model = _unpacked(model)
    if model.is_dir():
        places = (model / "models" / MODEL, model / MODEL)
        found = [place for place in places if place.is_file()][:1]
        found = found or _fold_models(model)
        if not found:
            raise WeightsError(
                f"{model} has neither models/model.pt nor model.pt, and no fold_*/models/model.pt. Pass a package, the "
                "folder of a training, or a file of weights."
            )
        if len(found) > 1:
            return found
        model = found[0]
    return [model, *(model.with_name(name) for name in model_facts(model).get("members", ()))]


def missing_weights(path: Path) -> WeightsError:
    """The error for a model or weights that do not exist."""
    fault = "" if path.exists() else ": the path does not exist"
    return WeightsError(
        f"there are no weights at {path}{fault}. Train first, or pass another --model (in an overlay, weights_file)."
    )


def _unpacked(archive: Path) -> Path:
    """Folder of the package in a zip, with its weights only."""
    try:
        folder = extracted(archive, wanted=PACKED)
    except DatasetError as error:
        raise DatasetError(f"{archive}: {error}") from error
    found = sorted(folder.glob(f"*/models/{MODEL}"))
    if len(found) != 1:
        raise WeightsError(
            f"{archive} is not a package: it has {len(found)} files */models/{MODEL}, not one. Pass the zip of one "
            "package, or its folder."
        )
    return found[0].parents[1]


def previous_weights(weights: Path) -> list[Path]:
    """Weights of the previous stage of a cascade; empty if they are not beside those of the cascade.

    Args:
        weights: the ``.pt`` file of the cascade.

    Raises:
        WeightsError: if the JSON beside them is malformed.
    """
    model = weights.parent / PREVIOUS_STAGE / MODEL
    return model_files(model) if model.is_file() else []


def _fold_models(run: Path) -> list[Path]:
    """Weights of the folds of a run in their order; those of the training on all cases if there are no folds."""
    files = {
        file.parts[-3].removeprefix("fold_"): file for file in run.glob(f"fold_*/models/{MODEL}")
    }
    numbers = sorted(int(name) for name in files if name.isdecimal())
    return [files[str(number)] for number in numbers] or list(files.values())


def learnt_mirroring(path: Path) -> list[int] | None:
    """Axes of the patch that the training mirrored over; None if unknown."""
    facts = model_facts(path)
    axes: list[int] | None = facts.get("mirror_axes")
    # earlier versions listed the axes of the declaration, three for a patch of two
    dims = facts.get("plan", {}).get("spatial_dims", 3)
    return None if axes is None else [axis for axis in axes if axis < dims]


def model_settings(weights: Path) -> dict[str, Any]:
    """The ids that a prediction takes from model.json: the plan, rules for largest components, DICOM codes of classes.

    Args:
        weights: the ``.pt`` file.

    Raises:
        WeightsError: as ``model_plan``.
    """
    facts = model_facts(weights)
    ids = {"keep_largest": facts.get("keep_largest"), CODES_ID: model_recipe(weights).get(CODES_ID)}
    return {**model_plan(weights), **{name: ids[name] for name in ids if ids[name] is not None}}


def model_recipe(weights: Path) -> dict[str, Any]:
    """What the overlays of the training set, as ids of an overlay; empty for weights of earlier versions.

    Args:
        weights: the ``.pt`` file.

    Raises:
        WeightsError: if the JSON is malformed.
    """
    return dict(model_facts(weights).get("recipe", {}))


def _plan_in(checkpoint: Path) -> Mapping[str, Any]:
    from dynunet_bundle.networks.tensor_file import load_tensors

    try:
        state = load_tensors(checkpoint, mmap=True)
    except Exception:  # noqa: BLE001 - read_weights tells what is wrong with the file
        return {}
    plan: Mapping[str, Any] = state.get("plan", {}) if isinstance(state, Mapping) else {}
    require_shape(plan, PLAN_SCHEMA, checkpoint, WeightsError)
    return plan

"""Compare a folder of predicted masks with a folder of reference masks."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose, LoadImaged

from dynunet_bundle.cases import apply_to_case, find_images, image_files
from dynunet_bundle.errors import CaseError, ConfigError, DatasetError
from dynunet_bundle.evaluation.metrics import dice_by_target
from dynunet_bundle.files import case_name, read_json
from dynunet_bundle.preflight import check_overrides, known_ids
from dynunet_bundle.preprocessing.labels import IGNORE_CLASS
from dynunet_bundle.preprocessing.reader import ImageFileReader
from dynunet_bundle.progress import progress
from dynunet_bundle.regions import Regions, require_label_plan, target_classes, target_names

AFFINE_TOLERANCE_MM = 1e-2
LABEL_IDS = ("label_names", "label_values", "ignore_value", "regions", "regions_class_order")
LOAD = Compose([LoadImaged(("image", "label"), reader=ImageFileReader)])


def label_ids(overlays: Sequence[str], config_dir: str | Path) -> dict[str, Any]:
    """What task overlays say of labels, later ones over earlier ones: keywords of ``score_folders``.

    Args:
        overlays: config files, such as ``scripts/plan.py`` writes.
        config_dir: folder of the bundle's configs.

    Raises:
        ConfigError: if an overlay is missing or malformed, or names an id that no config has.
    """
    known = known_ids(Path(config_dir))
    ids: dict[str, Any] = {}
    for overlay in overlays:
        content = read_json(overlay, ConfigError)
        check_overrides(["--config_file", str(overlay)], known)
        ids |= {name: content[name] for name in LABEL_IDS if name in content}
    return ids


def score_folders(
    predictions: str,
    labels: str,
    label_names: Sequence[str] | None = None,
    label_values: Sequence[int] | None = None,
    ignore_value: int | None = None,
    regions: Regions | None = None,
    regions_class_order: Sequence[int] | None = None,
) -> tuple[dict[str, list[float | None]], list[str]]:
    """Score every prediction against the label of the same name, voxel by voxel.

    Args:
        predictions: folder of masks.
        labels: folder of reference masks; it may hold more.
        label_names: one name a class, the background first; where None, classes are named by their values.
        label_values: value of each class, ascending; where None 0, 1, 2, ... for the names, or the values that occur.
        ignore_value: voxels that have this value in the reference are left out, or None.
        regions: score these in place of the classes, or None.
        regions_class_order: as in the plan; it is only checked.

    Returns:
        Dice by class or region for each case, and their names, the background first.

    Raises:
        DatasetError: if a prediction has no label, or the masks have values that are not listed.
        PlanError: if the ignored value or the regions do not fit the classes.
        CaseError: if a file cannot be read, or a pair lies on different grids.
    """
    found, references = _files_by_name(predictions), _files_by_name(labels)
    lacking = sorted(set(found) - set(references))
    if lacking:
        raise DatasetError(
            f"{labels} has no label for {', '.join(lacking)}. Files are paired by their names."
        )
    pairs = {
        name: _load_pair(name, path, references[name])
        for name, path in progress(found.items(), "load", total=len(found))
    }
    values, names = _classes(pairs, label_names, label_values, ignore_value, regions)
    require_label_plan(values, ignore_value, regions, regions_class_order)
    targets = target_classes(values, regions)
    scores = {}
    for name, (ours, theirs) in pairs.items():
        reference = np.searchsorted(values, theirs)
        if ignore_value is not None:
            reference[theirs == ignore_value] = IGNORE_CLASS
        scores[name] = dice_by_target(np.searchsorted(values, ours), reference, targets)
    return scores, target_names(names, regions)


def _classes(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    label_names: Sequence[str] | None,
    label_values: Sequence[int] | None,
    ignore_value: int | None,
    regions: Regions | None,
) -> tuple[list[int], list[str]]:
    """Values and names of the classes, found in the masks where they are not given."""
    predicted = _values_in(ours for ours, _ in pairs.values())
    expected = _values_in(theirs for _, theirs in pairs.values()) - {ignore_value}
    found = sorted({0} | predicted | expected)
    if label_values is None:
        in_regions = {value for values in (regions or {}).values() for value in values}
        label_values = (
            list(range(len(label_names))) if label_names else sorted(in_regions | set(found))
        )
    names = list(label_names or ["background", *map(str, label_values[1:])])
    unlisted = [value for value in found if value < 0 or value not in label_values]
    if unlisted or len(names) != len(label_values):
        raise DatasetError(
            f"the masks have the values {found}, but {names} stand for {list(label_values)}. "
            "Pass --label_names and --label_values that list all of them."
        )
    if list(label_values) != sorted(set(label_values)):
        raise DatasetError(f"the label values must ascend, not {list(label_values)}.")
    return list(label_values), names


def _files_by_name(folder: str) -> dict[str, str]:
    files = [file for case in find_images(folder) for file in image_files(case)]
    return {case_name(file): file for file in files}


def _values_in(masks: Iterable[np.ndarray]) -> set[int]:
    return {int(value) for mask in masks for value in np.unique(mask)}


def _load_pair(name: str, prediction: str, reference: str) -> tuple[np.ndarray, np.ndarray]:
    loaded = apply_to_case({"image": prediction, "label": reference, "name": name}, LOAD)
    ours, theirs = loaded["image"], loaded["label"]
    affines = np.asarray(ours.affine), np.asarray(theirs.affine)
    if ours.shape != theirs.shape or not np.allclose(*affines, atol=AFFINE_TOLERANCE_MM):
        raise CaseError(
            name,
            "prediction and label lie on different grids, "
            f"shapes {tuple(ours.shape[1:])} and {tuple(theirs.shape[1:])}",
            "Predict from the image that the label was drawn on.",
        )
    return tuple(np.rint(mask.numpy()).astype(np.int32) for mask in (ours, theirs))

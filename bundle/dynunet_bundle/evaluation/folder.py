"""Compare a folder of predicted masks with a folder of reference masks."""

from collections.abc import Sequence

import numpy as np
from monai.transforms import Compose, LoadImaged

from dynunet_bundle.cases import apply_to_case, find_images, image_files
from dynunet_bundle.errors import CaseError, DatasetError
from dynunet_bundle.evaluation.metrics import dice_by_class
from dynunet_bundle.files import case_name
from dynunet_bundle.preprocessing.reader import ImageFileReader
from dynunet_bundle.progress import progress

AFFINE_TOLERANCE_MM = 1e-2
LOAD = Compose([LoadImaged(("image", "label"), reader=ImageFileReader)])


def score_folders(
    predictions: str,
    labels: str,
    label_names: Sequence[str] | None = None,
    label_values: Sequence[int] | None = None,
) -> tuple[dict[str, list[float | None]], list[str]]:
    """Score every prediction against the label of the same name, voxel by voxel.

    Args:
        predictions: folder of masks.
        labels: folder of reference masks; it may hold more.
        label_names: one name a class, the background first; where None, classes are named by their values.
        label_values: value of each class, ascending; where None 0, 1, 2, ... for the names, or the values that occur.

    Returns:
        Dice by class for each case, and the label names.

    Raises:
        DatasetError: if a prediction has no label, or the masks have values that are not listed.
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
    found_values = sorted({0, *(value for pair in pairs.values() for value in _values_in(*pair))})
    if label_values is None:
        label_values = list(range(len(label_names))) if label_names else found_values
    names = list(label_names or ["background", *map(str, label_values[1:])])
    unlisted = [value for value in found_values if value < 0 or value not in label_values]
    if unlisted or len(names) != len(label_values):
        raise DatasetError(
            f"the masks have the values {found_values}, but {names} stand for {list(label_values)}. "
            "Pass --label_names and --label_values that list all of them."
        )
    if list(label_values) != sorted(set(label_values)):
        raise DatasetError(f"the label values must ascend, not {list(label_values)}.")
    scores = {}
    for name, (ours, theirs) in pairs.items():
        classes = np.searchsorted(label_values, ours), np.searchsorted(label_values, theirs)
        scores[name] = dice_by_class(*classes, len(names))
    return scores, names


def _files_by_name(folder: str) -> dict[str, str]:
    files = [file for case in find_images(folder) for file in image_files(case)]
    return {case_name(file): file for file in files}


def _values_in(*masks: np.ndarray) -> list[int]:
    return sorted({int(value) for mask in masks for value in np.unique(mask)})


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

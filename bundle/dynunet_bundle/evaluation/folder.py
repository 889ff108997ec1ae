"""Compare a folder of predicted masks with a folder of reference masks."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from dynunet_bundle.dataset import find_images
from dynunet_bundle.errors import CaseError, DatasetError
from dynunet_bundle.evaluation.metrics import dice_by_class
from dynunet_bundle.files import case_name
from dynunet_bundle.progress import progress

AFFINE_TOLERANCE_MM = 1e-2


def score_folders(
    predictions: str, labels: str, label_names: Sequence[str] | None = None
) -> tuple[dict[str, list[float | None]], list[str]]:
    """Score every prediction against the label of the same name, voxel by voxel.

    Args:
        predictions: folder of masks.
        labels: folder of reference masks; it may hold more.
        label_names: names by value; where None, classes are named by the values that occur.

    Returns:
        Dice by class for each case, and the label names.

    Raises:
        DatasetError: if a prediction has no label.
        CaseError: if a pair lies on different grids, or has values beyond ``label_names``.
    """
    found = {case_name(case["image"]): case["image"] for case in find_images(predictions)}
    references = {case_name(case["image"]): case["image"] for case in find_images(labels)}
    lacking = sorted(set(found) - set(references))
    if lacking:
        raise DatasetError(
            f"{labels} has no label for {', '.join(lacking)}. Files are paired by their names."
        )
    pairs = {
        name: _load_pair(name, path, references[name])
        for name, path in progress(found.items(), "load", total=len(found))
    }
    highest = max(int(max(a.max(initial=0), b.max(initial=0))) for a, b in pairs.values())
    names = list(label_names or ["background", *map(str, range(1, highest + 1))])
    if highest >= len(names):
        raise DatasetError(f"the masks have values up to {highest}, but only {names} are named.")
    return {name: dice_by_class(*pair, len(names)) for name, pair in pairs.items()}, names


def _load_pair(name: str, prediction: str, reference: str) -> tuple[np.ndarray, np.ndarray]:
    ours, theirs = nib.load(Path(prediction)), nib.load(Path(reference))
    if ours.shape != theirs.shape or not np.allclose(
        ours.affine, theirs.affine, atol=AFFINE_TOLERANCE_MM
    ):
        raise CaseError(
            name,
            f"prediction and label lie on different grids, shapes {ours.shape} and {theirs.shape}",
            "Predict from the image that the label was drawn on.",
        )
    return _values(ours), _values(theirs)


def _values(image: nib.Nifti1Image) -> np.ndarray:
    return np.rint(np.asanyarray(image.dataobj)).astype(np.int32)

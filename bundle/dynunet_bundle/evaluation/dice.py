"""Scores of a mask against a reference on the same grid."""

from collections.abc import Sequence

import numpy as np

from dynunet_bundle.labels.scheme import IGNORE_CLASS


def dice_by_target(
    prediction: np.ndarray, reference: np.ndarray, targets: Sequence[Sequence[int]]
) -> list[float | None]:
    """Dice of each class or region: twice the overlap over the sum of both volumes.

    Args:
        prediction: class numbers, any shape.
        reference: class numbers, the same shape; voxels that are ``IGNORE_CLASS`` here are left out of both.
        targets: the classes of each region, or one class each.

    Returns:
        One value per target: None if it is in neither mask (means leave it out), 0 if it is in only one of them.

    Raises:
        ValueError: if the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"shapes differ: {prediction.shape} and {reference.shape}")
    ignored = reference == IGNORE_CLASS
    if ignored.any():
        prediction, reference = prediction[~ignored], reference[~ignored]
    scores: list[float | None] = []
    for classes in targets:
        predicted, expected = members(prediction, classes), members(reference, classes)
        volume = int(predicted.sum()) + int(expected.sum())
        overlap = int((predicted & expected).sum())
        scores.append(2 * overlap / volume if volume else None)
    return scores


def members(mask: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Voxels of a mask that belong to any of some classes; for a few classes several times faster than ``np.isin``.

    Args:
        mask: class numbers, any shape.
        classes: at least one class.

    Returns:
        Boolean, the shape of the mask.
    """
    found = mask == classes[0]
    for value in classes[1:]:
        found |= mask == value
    return found

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
        reference: class numbers, the same shape; what is ``IGNORE_CLASS`` here is left out of both.
        targets: the classes that make up each region, or one class each.

    Returns:
        One value a target: None where it is in neither mask (it then counts in no mean), 0 where it is in one of them
        only.

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
    """Where a mask has one of some classes, boolean; ``np.isin`` takes several times as long for a few.

    Args:
        mask: class numbers, any shape.
        classes: at least one class.
    """
    found = mask == classes[0]
    for value in classes[1:]:
        found |= mask == value
    return found

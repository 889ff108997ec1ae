"""Scores of a mask against a reference on the same grid."""

import numpy as np


def dice_by_class(
    prediction: np.ndarray, reference: np.ndarray, num_classes: int
) -> list[float | None]:
    """Dice of each foreground class: twice the overlap over the sum of both volumes.

    Args:
        prediction: label values, any shape.
        reference: label values, the same shape.
        num_classes: labels including the background.

    Returns:
        One value for each class from 1 on: None where a class is in neither mask (it then counts in no mean), 0
        where it is in one of them only.

    Raises:
        ValueError: if the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"shapes differ: {prediction.shape} and {reference.shape}")
    scores: list[float | None] = []
    for value in range(1, num_classes):
        predicted, expected = prediction == value, reference == value
        volume = int(predicted.sum()) + int(expected.sum())
        overlap = int((predicted & expected).sum())
        scores.append(2 * overlap / volume if volume else None)
    return scores

"""Random changes of the previous stage's mask, so that a cascade does not rely on it too much.

Source: ``ApplyRandomBinaryOperatorTransform`` and ``RemoveRandomConnectedComponentFromOneHotEncodingTransform`` of
batchgeneratorsv2 0.3.6. A class that grows into another replaces it, so each voxel has at most one class and the mask
can be stored as class numbers.
"""

from dataclasses import dataclass

import numpy as np

from dynunet_bundle.feed.augmentation import Augmentation
from dynunet_bundle.feed.draws import Numbers

OPERATIONS = ("dilation", "erosion", "closing", "opening")

NUMBERS_PER_CLASS = 9
"""Random numbers per class: four for morphology, five for removal."""


@dataclass(frozen=True)
class Morphology:
    """Change the shape of a class.

    Attributes:
        value: the class.
        operation: one of ``OPERATIONS``.
        radius: radius of the ball, in voxels.
    """

    value: int
    operation: str
    radius: float


@dataclass(frozen=True)
class Removal:
    """Remove a component of a class.

    Attributes:
        value: the class.
        max_share: only components smaller than this share of the patch are removed.
        place: which of these components, from 0 (the first) to 1.
        refill: class that replaces it; 0 is the background.
    """

    value: int
    max_share: float
    place: float
    refill: int


MaskChange = Morphology | Removal


def draw_mask_changes(
    augmentation: Augmentation, num_masks: int, rng: np.random.Generator
) -> list[MaskChange]:
    """Draw the changes of one sample's mask, in the order in which to apply them.

    Args:
        augmentation: the declaration.
        num_masks: number of foreground classes.
        rng: the sample's own generator for mask changes.
    """
    numbers = Numbers(rng, 2 + NUMBERS_PER_CLASS * num_masks)
    return [
        *_morphologies(augmentation, num_masks, numbers),
        *_removals(augmentation, num_masks, numbers),
    ]


def _morphologies(augmentation: Augmentation, num_masks: int, numbers: Numbers) -> list[MaskChange]:
    drawn = numbers.hit(augmentation.prob("morphology"))
    order, coins, which, radii = (numbers.take(num_masks) for _ in range(4))
    if not drawn:
        return []
    settings = augmentation.kinds["morphology"]
    low, high = settings["radius"]
    return [
        Morphology(
            index + 1,
            OPERATIONS[int(which[index] * len(OPERATIONS))],
            low + (high - low) * radii[index],
        )
        for index in _shuffled(order)
        if coins[index] < settings["class_prob"]
    ]


def _removals(augmentation: Augmentation, num_masks: int, numbers: Numbers) -> list[MaskChange]:
    drawn = numbers.hit(augmentation.prob("removal"))
    order, coins, places, refills, others = (numbers.take(num_masks) for _ in range(5))
    if not drawn:
        return []
    settings = augmentation.kinds["removal"]
    changes: list[MaskChange] = []
    for index in _shuffled(order):
        if coins[index] >= settings["class_prob"]:
            continue
        refill = 0
        if num_masks > 1 and refills[index] < settings["refill_prob"]:
            # one of the other classes, skipping this one
            other = int(others[index] * (num_masks - 1))
            refill = other + 1 + (other >= index)
        changes.append(Removal(index + 1, settings["max_share"], places[index], refill))
    return changes


def _shuffled(numbers: list[float]) -> list[int]:
    return sorted(range(len(numbers)), key=numbers.__getitem__)

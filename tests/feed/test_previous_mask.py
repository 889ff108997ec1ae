"""Changes of the previous stage's mask: against scipy with balls, and by invariants."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from conftest import BUNDLE
from feed_cases import assert_share
from scipy import ndimage

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.feed.augmentation import Augmentation
from dynunet_bundle.feed.previous_mask import changed_mask, dilated, eroded
from dynunet_bundle.feed.previous_mask_draws import (
    OPERATIONS,
    MaskChange,
    Morphology,
    Removal,
    draw_mask_changes,
)
from dynunet_bundle.files import read_json
from dynunet_bundle.shapes import OBJECT

SHIPPED = read_json(BUNDLE / "configs" / "train.json", ConfigError, OBJECT)["mask_augmentation"]
SHAPES = [(15, 17), (9, 12, 11), (1, 14, 13), (2, 3, 30)]
ShapeFn = Callable[[np.ndarray, np.ndarray], np.ndarray]


def ball(radius: float, dims: int) -> np.ndarray:
    reach = np.arange(-int(radius), int(radius) + 1)
    axes = np.meshgrid(*[reach] * dims, indexing="ij")
    return np.sum(np.square(axes), axis=0) <= radius**2


def dilation(mask: np.ndarray, element: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(mask, element)


def erosion(mask: np.ndarray, element: np.ndarray) -> np.ndarray:
    return ndimage.binary_erosion(mask, element, border_value=1)


REFERENCES: dict[str, ShapeFn] = {
    "dilation": dilation,
    "erosion": erosion,
    "closing": lambda mask, element: erosion(dilation(mask, element), element),
    "opening": lambda mask, element: dilation(erosion(mask, element), element),
}


def blobs(shape: Sequence[int], seed: int, num_classes: int = 4) -> np.ndarray:
    """Classes in patches of several voxels."""
    noise = np.random.default_rng(seed).normal(size=(num_classes, *shape))
    smooth = np.stack([ndimage.gaussian_filter(channel, 1.5) for channel in noise])
    return smooth.argmax(axis=0).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [0.5, 1.0, 1.5, 2.0, 3.7, 8.0, 20.0])
def test_distances_are_those_of_a_ball(shape: tuple[int, ...], radius: float) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.05
    element = ball(radius, len(shape))
    np.testing.assert_array_equal(dilated(mask, radius), dilation(mask, element))
    np.testing.assert_array_equal(eroded(~mask, radius), erosion(~mask, element))


@pytest.mark.parametrize("fill", [False, True])
def test_nothing_and_everything_stay(fill: bool) -> None:
    mask = np.full((6, 5, 7), fill)
    for change in (dilated, eroded):
        np.testing.assert_array_equal(change(mask, 3.0), mask)


def reference(classes: np.ndarray, change: MaskChange) -> np.ndarray:
    """One channel per class, as in nnU-Net."""
    channels = np.stack([classes == value for value in range(1, 4)])
    mask = channels[change.value - 1].copy()
    if isinstance(change, Morphology):
        after = REFERENCES[change.operation](mask, ball(change.radius, mask.ndim))
        channels[:, after & ~mask] = False
        channels[change.value - 1] = after
    else:
        parts, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
        sizes = [int((parts == number).sum()) for number in range(1, count + 1)]
        small = [i + 1 for i, size in enumerate(sizes) if size < change.max_share * mask.size]
        if small:
            gone = parts == small[int(change.place * len(small))]
            channels[change.value - 1, gone] = False
            if change.refill:
                channels[change.refill - 1, gone] = True
    assert channels.sum(axis=0).max() <= 1
    return (channels * np.arange(1, 4).reshape(-1, *(1,) * mask.ndim)).sum(axis=0)


@pytest.mark.parametrize("shape", [(31, 33), (18, 20, 22)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_class_changes_its_shape_and_takes_the_place_of_others(
    shape: tuple[int, ...], operation: str
) -> None:
    changed = 0
    for seed, radius in enumerate((1.0, 1.5, 2.3, 3.0, 6.0)):
        classes = blobs(shape, seed)
        # far from the border, at it, and all over
        classes[:4] = 0
        change = Morphology(1 + seed % 3, operation, radius)
        kept = classes.copy()
        found = changed_mask(classes, [change])
        np.testing.assert_array_equal(found, reference(classes, change))
        np.testing.assert_array_equal(classes, kept)
        changed += (found != classes).any()
    assert changed == 5


@pytest.mark.parametrize("shape", [(31, 33), (18, 20, 22)])
@pytest.mark.parametrize("refill", [0, 3])
def test_one_small_component_goes(shape: tuple[int, ...], refill: int) -> None:
    gone = set()
    for place in (0.0, 0.4, 0.99):
        classes = blobs(shape, 3)
        (change,) = [Removal(1, 0.15, place, refill)]
        found = changed_mask(classes, [change])
        lost = found != classes
        parts, _ = ndimage.label(classes == 1, np.ones((3,) * classes.ndim))
        # one whole component, and nothing else
        (number,) = np.unique(parts[lost])
        assert number > 0 and (lost == (parts == number)).all()
        assert (found[lost] == refill).all()
        gone.add(int(number))
    assert len(gone) == 3


def test_a_large_component_stays() -> None:
    classes = np.zeros((10, 10, 10), np.uint8)
    classes[:2] = 1
    classes[5, 5, 5] = 2
    assert (changed_mask(classes, [Removal(1, 0.15, 0.5, 0)]) == classes).all()
    assert (changed_mask(classes, [Removal(1, 0.2, 0.5, 0)]) == classes).all()
    assert not (changed_mask(classes, [Removal(1, 0.201, 0.5, 0)]) == 1).any()
    found = changed_mask(classes, [Removal(2, 0.15, 0.99, 0), Removal(3, 0.15, 0.5, 0)])
    assert (found == np.where(classes == 2, 0, classes)).all()


def test_corners_join_components() -> None:
    classes = np.zeros((4, 4, 4), np.uint8)
    classes[0, 0, 0] = classes[1, 1, 1] = 1
    assert not changed_mask(classes, [Removal(1, 0.15, 0.0, 0)]).any()


def test_changes_follow_each_other() -> None:
    classes = blobs((18, 20, 22), 5)
    changes: list[MaskChange] = [
        Morphology(2, "dilation", 2.5),
        Morphology(1, "opening", 1.5),
        Removal(3, 0.15, 0.3, 0),
    ]
    expected = classes
    for change in changes:
        expected = changed_mask(expected, [change])
    np.testing.assert_array_equal(changed_mask(classes, changes), expected)


# --- what is drawn


def draws(config: dict[str, Any], num_masks: int, count: int = 4000) -> list[list[MaskChange]]:
    rng = np.random.default_rng(11)
    declared = Augmentation.of_masks(config)
    return [draw_mask_changes(declared, num_masks, rng) for _ in range(count)]


def test_the_shipped_declaration_has_nnunets_probabilities() -> None:
    found = draws(SHIPPED, 3)
    shapes = [[one for one in drawn if isinstance(one, Morphology)] for drawn in found]
    removals = [[one for one in drawn if isinstance(one, Removal)] for drawn in found]
    # a class is unchanged with probability 0.5, all three with 0.125
    assert_share([bool(drawn) for drawn in shapes], 0.4 * 0.875)
    assert_share([bool(drawn) for drawn in removals], 0.2 * 0.875)
    for value in (1, 2, 3):
        assert_share([any(one.value == value for one in drawn) for drawn in shapes], 0.4 * 0.5)
        assert_share([any(one.value == value for one in drawn) for drawn in removals], 0.2 * 0.5)
    every = [one for drawn in shapes for one in drawn]
    for operation in OPERATIONS:
        assert_share([one.operation == operation for one in every], 0.25)
    radii = np.array([one.radius for one in every])
    assert radii.min() >= 1 and radii.max() <= 8
    assert_share(radii < 4.5, 0.5)
    gone = [one for drawn in removals for one in drawn]
    assert {(one.max_share, one.refill) for one in gone} == {(0.15, 0)}
    assert_share([one.place < 0.25 for one in gone], 0.25)
    # morphology first; within a kind, classes are in random order
    assert all(
        isinstance(drawn[0], Morphology)
        for drawn in found
        if {*map(type, drawn)} != {Removal} and drawn
    )
    pairs = [(drawn[0].value, drawn[1].value) for drawn in shapes if len(drawn) == 3]
    for first in (1, 2, 3):
        assert_share([pair[0] == first for pair in pairs], 1 / 3)


def test_another_class_takes_the_place_of_a_component() -> None:
    config = {"removal": {"prob": 1.0, "max_share": 0.1, "refill_prob": 0.6}}
    gone = [one for drawn in draws(config, 4, 1000) for one in drawn if isinstance(one, Removal)]
    assert len(gone) == 4000
    assert_share([one.refill > 0 for one in gone], 0.6)
    assert all(one.refill != one.value for one in gone)
    for value in (1, 2, 3, 4):
        others = [one for one in gone if one.refill and one.value != value]
        assert_share([one.refill == value for one in others], 1 / 3)
    alone = draws(config, 1, 50)
    assert all(one.refill == 0 for drawn in alone for one in drawn if isinstance(one, Removal))


def test_what_is_switched_off_is_not_drawn() -> None:
    assert draws({}, 3, 50) == [[]] * 50
    only = draws({"removal": SHIPPED["removal"]}, 3, 500)
    both = draws(SHIPPED, 3, 500)
    # draws of one kind do not depend on the other
    assert only == [[one for one in drawn if isinstance(one, Removal)] for drawn in both]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"morfology": {"prob": 1}}, 'Did you mean "morphology"'),
        ({"morphology": {"prob": 0.4}}, "lacks radius"),
        ({"morphology": {"prob": 0.4, "radius": [0, 8]}}, "radius is .* above 0 to 64"),
        ({"morphology": {"prob": 0.4, "radius": [1, 80]}}, "radius is .* above 0 to 64"),
        ({"removal": {"prob": 0.2, "max_share": 15}}, "max_share is 15. Give a number from 0 to 1"),
        (
            {"removal": {"prob": 0.2, "max_share": 0.1, "radius": 3}},
            '"radius" is not a known setting',
        ),
        ({"noise": {"prob": 0.2, "std": [0, 1]}}, '"noise" is not a known augmentation'),
    ],
)
def test_a_wrong_declaration_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation.of_masks(config)


def test_masks_are_no_matter_of_the_other_declaration() -> None:
    with pytest.raises(ConfigError, match='"morphology" is not a known augmentation'):
        Augmentation.from_config({"morphology": SHIPPED["morphology"]})

"""The masks of a previous stage in the feed of a cascade: their position, and which augmentations change them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import feed_reference as reference
import numpy as np
import pytest
import torch
from feed_cases import (
    EVERYTHING,
    SHIPPED,
    WAYS,
    at_prob,
    fed,
    place_of,
    prepare,
    source_of,
)

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.feed.augmentation import Augmentation
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.feed.previous_mask import changed_mask
from dynunet_bundle.feed.previous_mask_draws import draw_mask_changes
from dynunet_bundle.feed.source import Numbering
from dynunet_bundle.preprocessing.store import PreparedDataset

PATCHES = {"3d": (8, 9, 10), "dummy 2d": (3, 10, 11), "2d": (9, 10)}
CHANNELS, MASKS = 2, 2
SEED = 7
CHANGES: dict[str, Any] = {
    "morphology": {"prob": 0.7, "radius": [1, 3], "class_prob": 0.7},
    "removal": {"prob": 0.7, "max_share": 0.3, "class_prob": 0.7, "refill_prob": 0.3},
}

ON, OFF = Augmentation.of_masks(CHANGES), Augmentation({})


def volumes(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images, and classes in patches of a few voxels; larger and smaller than the patches."""
    rng = np.random.default_rng(seed)
    shapes = [(14, 15, 16), (7, 6, 12)]
    images = [rng.normal(size=(CHANNELS, *shape)).astype(np.float32) for shape in shapes]
    coarse = [rng.integers(0, 3, [length // 3 + 1 for length in shape]) for shape in shapes]
    classes = [
        part.repeat(3, 0).repeat(3, 1).repeat(3, 2)[: shape[0], : shape[1], : shape[2]]
        for part, shape in zip(coarse, shapes, strict=True)
    ]
    return images, classes


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """A cascade whose previous masks differ from the labels."""
    images, previous = volumes(0)
    return prepare(tmp_path_factory.mktemp("cascade"), images, None, previous=previous)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """The same cases without previous masks."""
    return prepare(tmp_path_factory.mktemp("alone"), volumes(0)[0])


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """The previous mask is the label itself."""
    images, classes = volumes(1)
    return prepare(tmp_path_factory.mktemp("twice"), images, classes, previous=classes)


def loader_of(
    dataset: PreparedDataset, size: Sequence[int], changes: Any = CHANGES, **settings: Any
) -> DaliLoader:
    given = {"augmentation": EVERYTHING, "seed": SEED, "batch_size": 4, "num_iterations": 5}
    return DaliLoader(dataset, size, **{**given, **settings}, mask_augmentation=changes)


def one_hot(classes: np.ndarray) -> np.ndarray:
    return np.concatenate([classes == value for value in range(1, MASKS + 1)])


@pytest.mark.parametrize("form", PATCHES)
@WAYS
def test_image_and_label_are_those_of_a_training_without_masks(
    cascade: PreparedDataset, alone: PreparedDataset, form: str, in_graph: bool
) -> None:
    size = PATCHES[form]
    with_masks = fed(loader_of(cascade, size), in_graph)
    without = fed(loader_of(alone, size, None), in_graph)
    for (image, label), (expected, classes) in zip(with_masks, without, strict=True):
        assert image.shape == (CHANNELS + MASKS, *size)
        np.testing.assert_array_equal(image[:CHANNELS], expected)
        np.testing.assert_array_equal(label, classes)
        masks = image[CHANNELS:]
        assert set(np.unique(masks)) <= {0.0, 1.0} and masks.sum(axis=0).max() <= 1


@pytest.mark.parametrize("zero_outside", [False, True])
@pytest.mark.parametrize("form", PATCHES)
@WAYS
def test_masks_go_where_the_label_goes(
    twice: PreparedDataset, form: str, in_graph: bool, zero_outside: bool
) -> None:
    """Rotated, scaled, cropped and mirrored with it, and unaffected by intensity augmentations."""
    loader = loader_of(twice, PATCHES[form], {}, zero_outside=zero_outside)
    wrong = total = 0
    for image, label in fed(loader, in_graph):
        wrong += int((image[CHANNELS:] != one_hot(label)).sum())
        total += label.size
    # of two equally near voxels, the two methods may take different ones
    assert wrong <= total * 0.002
    assert form != "3d" or in_graph or wrong == 0


@pytest.mark.parametrize("form", PATCHES)
def test_a_mask_is_the_nearest_voxel_of_the_volume(cascade: PreparedDataset, form: str) -> None:
    size = PATCHES[form]
    declared = at_prob(0.6, {kind: SHIPPED[kind] for kind in ("rotation", "scaling")})
    source = source_of(
        cascade, size, augmentation=declared, seed=SEED, num_masks=MASKS, mask_augmentation=OFF
    )
    turned = 0
    for number in range(40):
        place = source.place(number)
        matrix, start, index = place_of(source, number)
        volume = np.load(cascade.cases()[index].previous)
        where = reference.positions(matrix, start, source.patch_size)
        expected = reference.nearest(volume, where).reshape(1, *size)
        found = source.previous(place, number)
        assert found.dtype == np.uint8 and found.shape == (1, *size)
        assert ((found == expected) | (expected < 0)).all()
        turned += place.patch_map.kind > 0
    assert turned > 20


@pytest.mark.parametrize("form", PATCHES)
def test_both_ways_give_the_same_masks_to_the_bit(cascade: PreparedDataset, form: str) -> None:
    ways = [fed(loader_of(cascade, PATCHES[form]), in_graph) for in_graph in (False, True)]
    for (ours, _), (theirs, _) in zip(*ways, strict=True):
        np.testing.assert_array_equal(ours[CHANNELS:], theirs[CHANNELS:])


@WAYS
def test_masks_change_as_drawn(cascade: PreparedDataset, in_graph: bool) -> None:
    size = PATCHES["3d"]
    quiet = fed(loader_of(cascade, size, {}), in_graph)
    loud = fed(loader_of(cascade, size), in_graph)
    changed = 0
    for (before, _), (after, _) in zip(quiet, loud, strict=True):
        np.testing.assert_array_equal(before[:CHANNELS], after[:CHANNELS])
        changed += (before != after).any()
    assert 5 < changed < len(loud)


def test_a_change_hangs_on_seed_and_number_only(cascade: PreparedDataset) -> None:
    def masks(first: int, **how: Any) -> list[np.ndarray]:
        numbering = Numbering(batch_size=1, first_iteration=first)
        source = source_of(
            cascade,
            PATCHES["3d"],
            augmentation=EVERYTHING,
            numbering=numbering,
            num_masks=MASKS,
            mask_augmentation=ON,
            **how,
        )
        numbers = [source.numbering.sample(iteration, 0) for iteration in range(4)]
        return [source.previous(source.place(number), number) for number in numbers]

    whole = [masks(0), masks(4)]
    np.testing.assert_array_equal(whole[1], masks(4))
    assert any((a != b).any() for a, b in zip(*whole, strict=True))
    assert any((a != b).any() for a, b in zip(masks(0, seed=9), whole[0], strict=True))


@pytest.mark.parametrize("settings", [{"num_threads": 3}, {"num_workers": 1}, {"prefetch": 4}])
def test_who_computes_changes_nothing(cascade: PreparedDataset, settings: dict[str, Any]) -> None:
    expected = fed(loader_of(cascade, PATCHES["3d"]))
    found = fed(loader_of(cascade, PATCHES["3d"], **settings))
    for (ours, _), (theirs, _) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_feed_that_was_stopped_goes_on(cascade: PreparedDataset) -> None:
    expected = fed(loader_of(cascade, PATCHES["3d"]))[8:]
    loader = loader_of(cascade, PATCHES["3d"])
    loader.load_state_dict({**loader.state_dict(), "iteration": 2})
    for (ours, _), (theirs, _) in zip(fed(loader), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    other = loader_of(cascade, PATCHES["3d"], {})
    with pytest.raises(ConfigError, match="feed has changed .*: mask_augmentation"):
        other.load_state_dict(loader.state_dict())


def test_the_position_of_a_feed_without_masks_is_what_it_was(alone: PreparedDataset) -> None:
    """Trainings stopped in a version without cascades can be resumed."""
    assert "mask_augmentation" not in loader_of(alone, (4, 4, 4), None).state_dict()["feed"]


def test_neighbouring_slices_are_changed_alike(cascade: PreparedDataset) -> None:
    source = source_of(
        cascade,
        PATCHES["2d"],
        slices_per_volume=4,
        num_masks=MASKS,
        mask_augmentation=ON,
    )
    for number in (0, 4, 8):
        drawn = [source.previous(source.place(number + step), number + step) for step in range(4)]
        plain = [
            np.load(source.cases[place.index].previous)[0, place.start[0]]
            for place in (source.place(number + step) for step in range(4))
        ]
        rng = np.random.Generator(
            np.random.Philox(key=source.sampling.seed, counter=[0, 0, 2, number // 4])
        )
        changes = draw_mask_changes(ON, MASKS, rng)
        for place, volume, found in zip(
            (source.place(number + step) for step in range(4)), plain, drawn, strict=True
        ):
            size = PATCHES["2d"]
            rows, columns = place.start[1:]
            padded = np.pad(volume, 20)[20 + rows :, 20 + columns :][: size[0], : size[1]]
            np.testing.assert_array_equal(found[0], changed_mask(padded, changes))


def test_the_stored_masks_are_never_written_to(cascade: PreparedDataset) -> None:
    before = [Path(case.previous).read_bytes() for case in cascade.cases()]
    for in_graph in (False, True):
        fed(loader_of(cascade, PATCHES["3d"]), in_graph)
    assert [Path(case.previous).read_bytes() for case in cascade.cases()] == before


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_store_of_halves_has_whole_masks(tmp_path: Path, dtype: str) -> None:
    images, classes = volumes(1)
    dataset = prepare(tmp_path, images, classes, dtype, previous=classes)
    (batch,) = DaliLoader(dataset, (6, 6, 6), 2, 1, mask_augmentation={})
    expected = torch.cat([batch["label"] == value for value in (1, 2)], dim=1)
    assert torch.equal(batch["image"][:, CHANNELS:], expected.float())
    item = dataset[0]
    assert torch.equal(
        item["image"][CHANNELS:], torch.cat([item["label"] == 1, item["label"] == 2]).float()
    )

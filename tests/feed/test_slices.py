"""Batches of neighbouring slices, as in NVIDIA's example: same crop and augmentation, except for noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feed_cases import (
    DECLARED,
    EVERYTHING,
    WAYS,
    at_prob,
    coordinates,
    fed,
    loader_of,
    parts,
    place_of,
    prepare,
    source_of,
)

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.preprocessing.store import PreparedDataset

BATCH_SIZE, VOLUMES, SLICES = 8, 2, 4
PATCH = (5, 6)
SHAPES = [(9, 8, 10), (3, 12, 7), (4, 6, 6), (1, 7, 7)]
"""Deeper than the slices that are taken, shallower, just as deep, and a single slice."""


def make_loader(dataset: PreparedDataset, **settings: Any) -> DaliLoader:
    defaults = {
        "patch_size": PATCH,
        "batch_size": BATCH_SIZE,
        "num_iterations": 6,
        "seed": 1,
        "volumes_per_batch": VOLUMES,
    }
    return loader_of(dataset, **{**defaults, **settings})


def groups(pairs: list[Any]) -> list[list[Any]]:
    return [pairs[first : first + SLICES] for first in range(0, len(pairs), SLICES)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    images = [coordinates(shape, first=1 + 3000 * i) for i, shape in enumerate(SHAPES)]
    return prepare(tmp_path_factory.mktemp("cases"), images)


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Volumes whose slices are all equal."""
    rng = np.random.default_rng(0)
    images = [
        np.repeat(rng.normal(size=(2, 1, *shape[1:])), shape[0], axis=1).astype(np.float32)
        for shape in SHAPES
    ]
    labels = [np.repeat(rng.integers(0, 3, (1, *s[1:])), s[0], axis=0) for s in SHAPES]
    return prepare(tmp_path_factory.mktemp("columns"), images, labels)


@pytest.mark.parametrize("oversampling", [0.0, 1.0])
def test_the_slices_of_a_group_are_neighbours_and_share_their_crop(
    dataset: PreparedDataset, oversampling: float
) -> None:
    pairs = fed(make_loader(dataset, num_iterations=40, oversampling=oversampling))
    met, first_slices = set(), set()
    for group in groups(pairs):
        case = int(group[0][0].max() - 1) // 3000
        shape = SHAPES[case]
        places = []
        for image, label in group:
            np.testing.assert_array_equal(label, image % 3)
            inside = np.argwhere(image[0] > 0)[0]
            voxel = np.unravel_index(int(image[(0, *inside)]) - 1 - 3000 * case, shape)
            places.append((int(voxel[0]), *(np.array(voxel[1:]) - inside).tolist()))
        depths = [place[0] for place in places]
        # a shallow volume is cycled through repeatedly
        first = depths[0]
        assert depths == [(first + step) % shape[0] for step in range(SLICES)]
        if shape[0] >= SLICES:
            assert depths[-1] == first + SLICES - 1
        assert len({place[1:] for place in places}) == 1
        met.add(case)
        if case == 0:
            first_slices.add(first)
    assert met == {0, 1, 2, 3}
    assert first_slices <= set(range(6)) and len(first_slices) > 3


def test_foreground_is_among_the_slices(tmp_path: Path) -> None:
    label = np.zeros((12, 8, 8))
    label[0, 4, 4] = label[7, 4, 4] = label[11, 4, 4] = 2
    dataset = prepare(tmp_path, [coordinates(label.shape)], [label])
    pairs = fed(make_loader(dataset, oversampling=1.0, patch_size=(3, 3)))
    for group in groups(pairs):
        assert sum(int(label[0, 1, 1] == 2) for _, label in group) == 1


@WAYS
def test_the_slices_of_a_group_are_augmented_alike(
    columns: PreparedDataset, in_graph: bool
) -> None:
    without_noise = at_prob(0.6, but=["noise"])
    pairs = fed(make_loader(columns, augmentation=without_noise, num_iterations=12), in_graph)
    images = []
    for group in groups(pairs):
        for image, label in group[1:]:
            np.testing.assert_array_equal(image, group[0][0])
            np.testing.assert_array_equal(label, group[0][1])
        images.append(group[0][0].tobytes())
    # but not the groups
    assert len(set(images)) == 24


def test_noise_is_their_own(columns: PreparedDataset) -> None:
    noise = {"noise": {"prob": 1.0, "std": [0.5, 1.0]}}
    size = {"patch_size": (20, 20)}
    noisy = groups(fed(make_loader(columns, augmentation=noise, **size)))
    plain = groups(fed(make_loader(columns, **size)))
    added = np.stack(
        [
            [a[0] - b[0] for a, b in zip(ours, theirs, strict=True)]
            for ours, theirs in zip(noisy, plain, strict=True)
        ]
    )
    deviations = added.reshape(len(added), SLICES, -1).std(axis=2)
    assert deviations.min() > 0.4
    # 800 values estimate a standard deviation within 12 % (over 4.5 standard errors)
    assert np.abs(deviations / deviations.mean(axis=1, keepdims=True) - 1).max() < 0.12
    correlations = np.corrcoef(added.reshape(len(added) * SLICES, -1)) - np.eye(len(added) * SLICES)
    assert np.abs(correlations).max() < 0.17


def test_all_but_the_noise_is_drawn_once_for_a_group(dataset: PreparedDataset) -> None:
    source = source_of(dataset, PATCH, augmentation=EVERYTHING, slices_per_volume=SLICES)
    for group in range(40):
        numbers = range(group * SLICES, (group + 1) * SLICES)
        samples = [parts(source.sample(number)) for number in numbers]
        for sample in samples[1:]:
            for name in set(vars(sample)) - {"image", "label", "noise", "start", "end"}:
                np.testing.assert_array_equal(getattr(sample, name), getattr(samples[0], name))
            assert not sample.has_noise or not np.array_equal(sample.noise, samples[0].noise)
        places = [place_of(source, number) for number in numbers]
        for matrix, start, case in places[1:]:
            np.testing.assert_array_equal(matrix, places[0][0])
            np.testing.assert_array_equal(start[1:], places[0][1][1:])
            assert case == places[0][2]


def test_every_first_slice_is_as_likely_as_any_other(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, [coordinates((9, 4, 4))])
    source = source_of(dataset, (4, 4), 0.0, slices_per_volume=SLICES)
    starts = [place_of(source, SLICES * group)[1][0] for group in range(1800)]
    assert set(starts) == set(range(6))
    assert all(abs(starts.count(s) - 300) < 4.5 * np.sqrt(300 * 5 / 6) for s in set(starts))


def test_a_center_crop_takes_the_middle_slices(tmp_path: Path) -> None:
    volume = coordinates((9, 8, 10))
    dataset = prepare(tmp_path, [volume])
    pairs = fed(make_loader(dataset, center_crop=True, num_iterations=1))
    for group in groups(pairs):
        found = np.stack([image[0] for image, _ in group])
        np.testing.assert_array_equal(found, volume[0, 2:6, 1:6, 2:8])


def test_resume_ranks_and_threads_are_exact(columns: PreparedDataset) -> None:
    expected = list(make_loader(columns, augmentation=EVERYTHING))
    for settings in ({"num_threads": 1}, {"num_threads": 3}, {"prefetch": 4}):
        again = list(make_loader(columns, augmentation=EVERYTHING, **settings))
        assert all(
            torch.equal(a["image"], b["image"]) for a, b in zip(again, expected, strict=True)
        )
    for taken in range(6):
        resumed = make_loader(columns, augmentation=EVERYTHING)
        resumed.load_state_dict({**resumed.state_dict(), "iteration": taken})
        for ours, theirs in zip(resumed, expected[taken:], strict=True):
            assert torch.equal(ours["image"], theirs["image"])
            assert torch.equal(ours["label"], theirs["label"])
    ranks = [
        make_loader(
            columns,
            augmentation=EVERYTHING,
            batch_size=BATCH_SIZE // 2,
            volumes_per_batch=VOLUMES // 2,
            rank=rank,
            world_size=2,
        )
        for rank in range(2)
    ]
    for first, second, theirs in zip(*ranks, expected, strict=True):
        assert torch.equal(torch.cat([first["image"], second["image"]]), theirs["image"])
        assert torch.equal(torch.cat([first["label"], second["label"]]), theirs["label"])


def test_one_slice_a_volume_is_each_on_its_own(dataset: PreparedDataset) -> None:
    settings = {"augmentation": DECLARED, "num_iterations": 3}
    ours = fed(make_loader(dataset, volumes_per_batch=BATCH_SIZE, **settings))
    theirs = fed(make_loader(dataset, volumes_per_batch=None, **settings))
    for (image, label), (other_image, other_label) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(image, other_image)
        np.testing.assert_array_equal(label, other_label)


@pytest.mark.parametrize("volumes", [0, -1, 3, 16])
def test_a_batch_that_cannot_be_divided_is_refused(dataset: PreparedDataset, volumes: int) -> None:
    with pytest.raises(ConfigError, match=f"batch of 8 .* from {volumes} volumes"):
        make_loader(dataset, volumes_per_batch=volumes)


def test_3d_has_no_slices(dataset: PreparedDataset) -> None:
    with pytest.raises(ConfigError, match="2D plans only"):
        make_loader(dataset, patch_size=(4, 4, 4))

"""The DALI graph applies what the source drew: compared with numpy, sample by sample."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_source import EVERYTHING, coordinates, prepare, source_of

from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.preprocessing.store import PreparedDataset

BATCH_SIZE = 4
NUM_BATCHES = 6
SEED = 5
PATCHES = {3: (4, 5, 6), 2: (5, 6)}

NOISE = {"noise": {"prob": 0.5, "std": [0.5, 1.0]}}
BRIGHTNESS = {"brightness": {"prob": 0.5, "factor": [0.5, 2.0]}}
CONTRAST = {"contrast": {"prob": 0.5, "factor": [0.5, 2.0]}}
MIRROR = {"mirror": {"prob": 0.5, "axes": [0, 1, 2]}}
ALWAYS = {name: {**settings, "prob": 1.0} for name, settings in EVERYTHING.items()}


def fed(
    dataset: PreparedDataset, patch_size: Sequence[int], augmentation: dict[str, Any]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Image and label of each sample that came through DALI, by its number."""
    loader = DaliLoader(
        dataset, patch_size, BATCH_SIZE, NUM_BATCHES, augmentation=augmentation, seed=SEED
    )
    batches = list(loader)
    loader.close()
    for batch in batches:
        assert batch["image"].shape[2:] == batch["label"].shape[2:] == tuple(patch_size)
        assert (len(batch["image"]), len(batch["label"])) == (BATCH_SIZE, BATCH_SIZE)
        assert (batch["image"].dtype, batch["label"].dtype) == (torch.float32, torch.uint8)
    return [
        (image.numpy(), label.numpy())
        for batch in batches
        for image, label in zip(batch["image"], batch["label"], strict=True)
    ]


def by_hand(sample: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """nnU-Net's augmentations in their order, in plain numpy."""
    image, label, noise, has_noise, brightness, has_brightness, contrast, has_contrast, flips = (
        sample
    )
    image = image.astype(np.float64)
    if has_noise:
        image = image + noise
    if has_brightness:
        image = np.stack([c * float(f) for c, f in zip(image, brightness.ravel(), strict=True)])
    if has_contrast:
        image = np.stack(
            [
                np.clip((c - c.mean()) * float(f) + c.mean(), c.min(), c.max())
                for c, f in zip(image, contrast.ravel(), strict=True)
            ]
        )
    axes = [1 + axis for axis, flip in enumerate(flips) if flip]
    return np.flip(image, axes), np.flip(label, axes)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Two channels of random values about 0, one of them wider, larger and smaller than the patches."""
    rng = np.random.default_rng(0)
    images = [
        rng.normal([[[[0.0]]], [[[3.0]]]], [[[[1.0]]], [[[0.2]]]], (2, *shape)).astype(np.float32)
        for shape in [(9, 8, 10), (3, 4, 9)]
    ]
    labels = [rng.integers(0, 3, image.shape[1:]) for image in images]
    return prepare(tmp_path_factory.mktemp("random"), images, labels)


@pytest.fixture(scope="module")
def coordinate_dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare(tmp_path_factory.mktemp("coordinates"), [coordinates((9, 8, 10))])


@pytest.mark.parametrize("spatial_dims", [3, 2])
@pytest.mark.parametrize(
    "augmentation",
    [NOISE, BRIGHTNESS, CONTRAST, MIRROR, EVERYTHING, ALWAYS],
    ids=["noise", "brightness", "contrast", "mirror", "everything", "always"],
)
def test_the_graph_computes_what_was_drawn(
    dataset: PreparedDataset, augmentation: dict[str, Any], spatial_dims: int
) -> None:
    patch_size = PATCHES[spatial_dims]
    source = source_of(dataset, patch_size, augmentation=augmentation, seed=SEED)
    changed = 0
    for number, (image, label) in enumerate(fed(dataset, patch_size, augmentation)):
        sample = source.sample(number)
        expected_image, expected_label = by_hand(sample)
        np.testing.assert_allclose(image, expected_image, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(label, expected_label)
        changed += not np.array_equal(image, sample[0])
    # of 24 samples; with everything at 0.5 some still have nothing drawn
    assert changed == 24 if augmentation is ALWAYS else 6 <= changed <= 24


@pytest.mark.parametrize("spatial_dims", [3, 2])
def test_without_augmentation_patches_pass_unchanged(
    dataset: PreparedDataset, spatial_dims: int
) -> None:
    source = source_of(dataset, PATCHES[spatial_dims], seed=SEED)
    for number, (image, label) in enumerate(fed(dataset, PATCHES[spatial_dims], {})):
        expected = source.sample(number)
        np.testing.assert_array_equal(image, expected[0])
        np.testing.assert_array_equal(label, expected[1])


def test_contrast_stretches_about_the_mean_of_each_channel_within_its_range(
    dataset: PreparedDataset,
) -> None:
    size = (4, 4, 6)
    augmentation = {"contrast": {"prob": 1.0, "factor": [0.5, 2.0]}}
    source = source_of(dataset, size, augmentation=augmentation, seed=SEED)
    wider = 0
    for number, (image, _) in enumerate(fed(dataset, size, augmentation)):
        sample = source.sample(number)
        for after, before, factor in zip(image, sample[0], sample[6].ravel(), strict=True):
            assert after.min() >= before.min()
            assert after.max() <= before.max()
            middle = before.mean(dtype=float)
            if factor < 1:
                # nothing is clipped: the mean stays, the spread shrinks by the factor
                assert after.mean(dtype=float) == pytest.approx(middle, abs=1e-5)
                assert after.std() == pytest.approx(before.std() * factor, rel=1e-4)
            else:
                wider += 1
                away = np.where(before > middle, after - before, before - after)
                assert away.min() > -1e-5
                assert (after.min(), after.max()) == pytest.approx((before.min(), before.max()))
                assert after.std() > before.std() - 1e-5
    assert 10 < wider < 38  # of 48 channels


@pytest.mark.parametrize(
    ("patch_size", "axes"),
    [((4, 5, 6), [0]), ((4, 5, 6), [1]), ((4, 5, 6), [0, 2]), ((5, 6), [0]), ((5, 6), [1])],
)
def test_mirror_turns_the_declared_axes_of_image_and_label(
    coordinate_dataset: PreparedDataset, patch_size: tuple[int, ...], axes: list[int]
) -> None:
    shape = (9, 8, 10)
    dims = len(patch_size)
    seen = set()
    augmentation = {"mirror": {"prob": 0.5, "axes": axes}}
    for image, label in fed(coordinate_dataset, patch_size, augmentation):
        np.testing.assert_array_equal(label, image % 3)
        voxels = np.stack(np.unravel_index(image[0].astype(int) - 1, shape))[-dims:]
        flips = []
        for axis in range(dims):
            steps = np.unique(np.diff(voxels[axis], axis=axis))
            assert steps.tolist() in ([1], [-1])  # one step a voxel, all in one direction
            flips.append(int(steps[0] == -1))
        seen.add(tuple(flips))
    expected = np.zeros((2 ** len(axes), dims), int)
    expected[:, axes] = np.array(np.meshgrid(*[[0, 1]] * len(axes))).reshape(len(axes), -1).T
    assert seen == set(map(tuple, expected.tolist()))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_float16_store_is_computed_in_float32(tmp_path: Path, channels: int) -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(size=(channels, 8, 8, 8)).astype(np.float32)
    label = rng.integers(0, 3, (8, 8, 8))
    dataset = prepare(tmp_path, [image], [label], dtype="float16")
    source = source_of(dataset, (4, 4, 4), augmentation=ALWAYS, seed=SEED)
    for number, (image, label) in enumerate(fed(dataset, (4, 4, 4), ALWAYS)):
        sample = source.sample(number)
        assert sample[0].dtype == np.float16
        assert image.shape == (channels, 4, 4, 4)
        expected_image, expected_label = by_hand(sample)
        # float16 arithmetic would be off by some 1e-3
        np.testing.assert_allclose(image, expected_image, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(label, expected_label)

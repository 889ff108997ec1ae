"""Rotation and scaling put each voxel where the drawn map says, in both backends, in 3D, "dummy 2D" and 2D.

Numpy and torch compute on a CPU, the graph on a GPU; here the graph also runs on the CPU.
"""

from pathlib import Path
from typing import Any

import feed_reference as reference
import numpy as np
import pytest
from feed_cases import WAYS, fed, loader_of, place_of, prepare, source_of

from dynunet_bundle.feed.spatial import AFFINE, CROP, SCALE
from dynunet_bundle.preprocessing.store import PreparedDataset

BATCH_SIZE, NUM_BATCHES, SEED = 4, 8, 3
PATCHES = {"3d": (12, 14, 10), "dummy 2d": (4, 17, 14), "2d": (15, 12)}
MAPS = {"rotation": {"prob": 0.6}, "scaling": {"prob": 0.6, "factor": [0.7, 1.4]}}
CUBIC = {"scaling": {**MAPS["scaling"], "interpolation": "cubic"}}
SHAPES = [(24, 26, 22), (9, 10, 8)]
"""One volume has room for most patches, one is smaller than they are."""


def run(
    dataset: PreparedDataset,
    patch_size: tuple[int, ...],
    augmentation: dict[str, Any],
    in_graph: bool = False,
    **settings: Any,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, int, int]]:
    """For each sample: image and label ``[C, D, H, W]``, expected coordinates ``[3, D, H, W]``, case and kind."""
    loader = loader_of(
        dataset, patch_size, BATCH_SIZE, NUM_BATCHES, augmentation, seed=SEED, **settings
    )
    pairs = fed(loader, in_graph)
    source = source_of(dataset, patch_size, augmentation=augmentation, seed=SEED, **settings)
    whole = (1, *patch_size)[-3:]
    found = []
    for number, (image, label) in enumerate(pairs):
        matrix, start, case = place_of(source, number)
        where = reference.positions(matrix, start, whole)
        kind = SCALE if np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0 else AFFINE
        kind = CROP if np.array_equal(matrix, np.eye(3)) else kind
        shapes = (len(image), *whole), (1, *whole)
        found.append((image.reshape(shapes[0]), label.reshape(shapes[1]), where, case, kind))
    assert {kind for *_, kind in found} >= ({SCALE} if "rotation" not in augmentation else {AFFINE})
    return found


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Three channels: 100 + the voxel index along each axis. Labels: the sum of the indices modulo 3."""
    images = [np.indices(shape).astype(np.float32) + 100 for shape in SHAPES]
    labels = [np.indices(shape).sum(axis=0) % 3 for shape in SHAPES]
    return prepare(tmp_path_factory.mktemp("grids"), images, labels)


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedDataset, list[Any]]:
    """Two channels of normal values; labels 0 and 2 only, so interpolation would give 1."""
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(2, *shape)).astype(np.float32) for shape in SHAPES]
    labels = [2 * rng.integers(0, 2, (1, *shape)) for shape in SHAPES]
    dataset = prepare(tmp_path_factory.mktemp("textures"), images, [label[0] for label in labels])
    return dataset, list(zip(images, labels, strict=True))


@WAYS
@pytest.mark.parametrize("form", PATCHES)
def test_every_voxel_is_read_where_the_map_says(
    grids: PreparedDataset, form: str, in_graph: bool
) -> None:
    inner = 0
    for image, label, where, case, _ in run(grids, PATCHES[form], MAPS, in_graph):
        highest = np.array(SHAPES[case]).reshape(3, 1, 1, 1) - 1
        inside = ((where >= 0) & (where <= highest)).all(axis=0)
        inner += int(inside.sum())
        # the image tells where it was read; not a single voxel of zeros where the volume has data
        error = np.abs(image - 100 - where)[:, inside]
        assert error.max(initial=0) < 1e-3
        tie = (np.abs(where - np.floor(where) - 0.5) < 2e-3).any(axis=0)
        nearest = np.rint(where).astype(int).sum(axis=0) % 3
        assert (label[0] == nearest)[inside & ~tie].all()
        # the label agrees with the coordinates in the image
        own = np.rint(image - 100).astype(int).sum(axis=0) % 3
        assert (label[0] == own)[inside & ~tie].all()
        # more than a voxel outside, everything is zero
        outside = ((where <= -1) | (where >= highest + 1)).any(axis=0)
        assert not image[:, outside].any() and not label[:, outside].any()
    assert inner > 10_000 if form != "2d" else inner > 2000


@WAYS
@pytest.mark.parametrize("form", PATCHES)
def test_images_are_interpolated_linearly_and_labels_take_the_nearest(
    textures: tuple[PreparedDataset, list[Any]], form: str, in_graph: bool
) -> None:
    dataset, volumes = textures
    kinds = set()
    for image, label, where, case, kind in run(dataset, PATCHES[form], MAPS, in_graph):
        volume, whole_label = volumes[case]
        # borders included: there data is mixed with the zeros outside
        np.testing.assert_allclose(image, reference.linear(volume, where), atol=5e-4)
        expected = reference.nearest(whole_label, where)
        assert (label[expected >= 0] == expected[expected >= 0]).all()
        assert set(np.unique(label)) <= {0, 2}
        kinds.add(kind)
        if kind == CROP:
            np.testing.assert_array_equal(image, reference.linear(volume, where).astype(np.float32))
    assert kinds == {CROP, SCALE, AFFINE}


@pytest.mark.parametrize("form", PATCHES)
def test_both_branches_agree(textures: tuple[PreparedDataset, list[Any]], form: str) -> None:
    ours, theirs = (run(textures[0], PATCHES[form], MAPS, way) for way in (False, True))
    for (image, label, where, *_), (other_image, other_label, *_) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(image, other_image, atol=5e-4)
        tie = (np.abs(where - np.floor(where) - 0.5) < 2e-3).any(axis=0)
        assert (label == other_label)[:, ~tie].all()


@WAYS
@pytest.mark.parametrize("form", PATCHES)
def test_no_corner_is_empty_where_the_volume_has_data(
    tmp_path: Path, form: str, in_graph: bool
) -> None:
    # half a diagonal of the patch, times 1.4, fits between the middle and each side
    ones = np.ones((1, 40, 40, 40), np.float32)
    dataset = prepare(tmp_path, [ones], [ones[0]])
    for image, label, *_ in run(dataset, PATCHES[form], MAPS, in_graph, center_crop=True):
        assert np.abs(image - 1).max() < 1e-5
        assert (label == 1).all()


@WAYS
@pytest.mark.parametrize("form", PATCHES)
def test_cubic_scaling(
    textures: tuple[PreparedDataset, list[Any]], form: str, in_graph: bool
) -> None:
    dataset, volumes = textures
    for image, label, where, case, _ in run(dataset, PATCHES[form], CUBIC, in_graph):
        volume, whole_label = volumes[case]
        # DALI takes the kernel from a table; a = -0.75 or a spline would be off by 0.1 here
        np.testing.assert_allclose(image, reference.cubic(volume, where), atol=1e-2)
        expected = reference.nearest(whole_label, where)
        assert (label[expected >= 0] == expected[expected >= 0]).all()


def test_cubic_scaling_is_near_a_spline_where_the_image_is_smooth(tmp_path: Path) -> None:
    waves = np.indices((40, 40, 40)) / [[[[5.0]]], [[[4.0]]], [[[6.0]]]]
    smooth = np.sin(waves).sum(axis=0, keepdims=True).astype(np.float32)
    dataset = prepare(tmp_path, [smooth], [smooth[0] > 0])
    errors = {"cubic": [], "linear": []}
    for name, config in (("cubic", CUBIC), ("linear", {"scaling": MAPS["scaling"]})):
        for image, _, where, *_ in run(dataset, (12, 14, 10), config, center_crop=True):
            spline = reference.map_coordinates(smooth[0].astype(float), where, order=3)
            errors[name].append(np.abs(image[0] - spline).max())
    assert max(errors["cubic"]) < 2e-3
    assert max(errors["cubic"]) < max(errors["linear"]) / 5


@WAYS
def test_cubic_scaling_leaves_rotated_patches_linear(
    textures: tuple[PreparedDataset, list[Any]], in_graph: bool
) -> None:
    dataset, volumes = textures
    for image, _, where, case, kind in run(dataset, (12, 14, 10), {**MAPS, **CUBIC}, in_graph):
        if kind == AFFINE:
            expected = reference.linear(volumes[case][0], where)
            np.testing.assert_allclose(image, expected, atol=5e-4)


@pytest.mark.parametrize("form", PATCHES)
def test_above_1_objects_get_smaller(tmp_path: Path, form: str) -> None:
    cube = np.zeros((1, 40, 40, 40), np.float32)
    cube[:, :, 16:24, 16:24] = 1
    dataset = prepare(tmp_path, [cube], [cube[0]])
    for factor, width in ((1.6, 5), (0.8, 10)):
        config = {"scaling": {"prob": 1.0, "factor": [factor, factor]}}
        patch_size = PATCHES[form]
        for image, label, *_ in run(dataset, patch_size, config, center_crop=True):
            assert (label[0, 0].sum(axis=1) > 0).sum() == width
            assert (label[0, 0].sum(axis=0) > 0).sum() == width
            assert image[0].sum() / len(image[0]) == pytest.approx(width**2, rel=0.15)


@pytest.mark.parametrize("patch_size", [(12, 14, 10), (15, 12)])
@pytest.mark.parametrize("channels", [1, 3])
@WAYS
def test_a_float16_store_is_placed_in_float32(
    tmp_path: Path, patch_size: tuple[int, ...], channels: int, in_graph: bool
) -> None:
    volume = np.random.default_rng(1).normal(size=(channels, *SHAPES[0])).astype(np.float16)
    dataset = prepare(tmp_path, [volume.astype(np.float32)], dtype="float16")
    for image, _, where, *_ in run(dataset, patch_size, MAPS, in_graph):
        np.testing.assert_allclose(image, reference.linear(volume, where), atol=5e-4)


@pytest.mark.parametrize("form", PATCHES)
def test_a_region_is_no_larger_than_the_map_needs(grids: PreparedDataset, form: str) -> None:
    patch_size = PATCHES[form]
    source = source_of(grids, patch_size, augmentation=MAPS)
    for number in range(60):
        sample = source.sample(number)
        matrix, start, _ = place_of(source, number)
        where = reference.positions(matrix, start, (1, *patch_size)[-3:]).reshape(3, -1)
        # from the voxel before the first point to that after the last
        extent = np.floor(where.max(axis=1)) - np.floor(where.min(axis=1)) + 2
        if np.array_equal(matrix, np.eye(3)):
            extent[:] = (1, *patch_size)[-3:]
        elif form != "3d":
            extent[0] = where[0].max() - where[0].min() + 1
        assert sample[0].shape[1:] == sample[1].shape[1:]
        found = np.array((1, *sample[0].shape[1:])[-3:])
        assert (found <= extent).all()

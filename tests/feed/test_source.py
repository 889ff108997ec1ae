"""Samples are a pure function of seed and number, and contain the right region of the right case.

Images are coordinate images: the value of a voxel is 1 + its linear index, its label that value modulo 3. So a
patch shows where it was read, 0 is padding, and image and label are aligned if they agree.
"""

import math
import os
import pickle
import resource
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from feed_cases import EVERYTHING, content, coordinates, parts, prepare, source_of

from dynunet_bundle.errors import CaseError
from dynunet_bundle.feed.augmentation import Augmentation
from dynunet_bundle.feed.source import Numbering, PatchSource, Sampling
from dynunet_bundle.preprocessing.store import PreparedDataset


def start_of(image: np.ndarray, shape: Sequence[int], first: int = 1) -> np.ndarray:
    """First voxel of a patch ``[C, *patch]`` of a coordinate image, derived from its values."""
    patch = image[0] if image.ndim == 4 else image[0][np.newaxis]
    inside = np.argwhere(patch > 0)[0]
    voxel = np.unravel_index(int(patch[tuple(inside)]) - first, shape)
    return np.array(voxel) - inside


def region(volume: np.ndarray, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The expected patch: cut from the volume with wide margins of zeros."""
    wide = np.pad(volume, [(0, 0), *((length, length) for length in size)])
    cut = [slice(a + length, a + 2 * length) for a, length in zip(start, size, strict=True)]
    return wide[(slice(None), *cut)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    shapes = [(9, 8, 10), (5, 12, 7), (6, 6, 6)]
    images = [coordinates(shape, first=1 + 3000 * i) for i, shape in enumerate(shapes)]
    return prepare(tmp_path_factory.mktemp("cases"), images)


def test_a_sample_depends_on_seed_and_number_only(dataset: PreparedDataset) -> None:
    numbers = [*range(40), 10**12]
    first = source_of(dataset, (4, 4, 4), augmentation=EVERYTHING)
    expected = {number: content(first.sample(number)) for number in numbers}
    fresh = source_of(dataset, (4, 4, 4), augmentation=EVERYTHING)
    assert {number: content(fresh.sample(number)) for number in reversed(numbers)} == expected
    # a copy of a used one, as a worker process gets it
    copy = pickle.loads(pickle.dumps(first))  # noqa: S301 - our own bytes
    assert {number: content(copy.sample(number)) for number in numbers[::3]}.items() <= (
        expected.items()
    )


def test_numbers_and_seeds_differ(dataset: PreparedDataset) -> None:
    noise = {"noise": {"prob": 1.0, "std": [0.5, 1.0]}}
    drawn = {
        parts(source.sample(number)).noise.tobytes()
        for source in (source_of(dataset, (4, 4, 4), augmentation=noise, seed=s) for s in range(3))
        for number in range(60)
    }
    assert len(drawn) == 3 * 60
    # regions also differ: 60 samples of about 400 positions
    source = source_of(dataset, (4, 4, 4), oversampling=0)
    assert len({source.sample(number)[0].tobytes() for number in range(60)}) > 45


@pytest.mark.parametrize("shape", [(9, 8, 10), (3, 8, 10), (3, 4, 10), (2, 3, 3), (4, 5, 6)])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("oversampling", [0.0, 1.0])
def test_a_patch_is_the_right_region(
    tmp_path: Path, shape: tuple[int, ...], channels: int, oversampling: float
) -> None:
    size = np.array([4, 5, 6])
    volume = coordinates(shape, channels)
    source = source_of(prepare(tmp_path, [volume]), size.tolist(), oversampling)
    for number in range(60):
        image, label = source.sample(number)[:2]
        start = start_of(image, shape)
        np.testing.assert_array_equal(image, region(volume, start, size))
        np.testing.assert_array_equal(label, image[:1] % 3)
        # inside a larger volume; around a smaller one
        room = np.array(shape) - size
        assert np.all((start >= np.minimum(room, 0)) & (start <= np.maximum(room, 0)))
        assert (image.dtype, label.dtype) == (np.float32, np.uint8)


def test_every_place_is_as_likely_as_any_other(tmp_path: Path) -> None:
    # 3 x 2 places inside along the first two axes, 3 around the volume along the last
    shape, size, count = (5, 4, 2), (3, 3, 4), 3600
    source = source_of(prepare(tmp_path, [coordinates(shape)]), size, oversampling=0)
    starts = [tuple(start_of(source.sample(n)[0], shape).tolist()) for n in range(count)]
    assert set(starts) == {(a, b, c) for a in (0, 1, 2) for b in (0, 1) for c in (-2, -1, 0)}
    expected = count / 18
    assert all(
        abs(starts.count(place) - expected) < 4.5 * math.sqrt(expected) for place in set(starts)
    )


def test_every_case_is_as_likely_as_any_other(dataset: PreparedDataset) -> None:
    source = source_of(dataset, (4, 4, 4))
    cases = [int(source.sample(number)[0].max() - 1) // 3000 for number in range(1800)]
    assert all(abs(cases.count(case) - 600) < 4.5 * math.sqrt(1800 * 2 / 9) for case in range(3))


@pytest.mark.parametrize("size", [(3, 3, 3), (4, 6, 2), (3, 20, 3)])
def test_oversampling_centres_a_foreground_voxel(tmp_path: Path, size: tuple[int, ...]) -> None:
    shape = (12, 11, 13)
    volume = coordinates(shape)
    rng = np.random.default_rng(0)
    foreground = np.where(rng.random(shape) < 0.01, rng.integers(1, 3, shape), 0)
    foreground[0, 0, 0] = foreground[-1, -1, -1] = 1  # in the corners: the patch is moved inside
    source = source_of(prepare(tmp_path, [volume], [foreground]), size, oversampling=1)
    room = np.array(shape) - size
    lowest, highest = np.minimum(room, 0), np.maximum(room, 0)
    centred = {
        tuple(np.clip(voxel - np.array(size) // 2, lowest, highest).tolist())
        for voxel in np.argwhere(foreground)
    }
    for number in range(300):
        image, label = source.sample(number)[:2]
        assert label.any()
        assert tuple(start_of(image, shape).tolist()) in centred


@pytest.mark.parametrize("patch_size", [(3, 3, 3), (3, 3)])
def test_classes_are_balanced_however_rare(tmp_path: Path, patch_size: tuple[int, ...]) -> None:
    label = np.zeros((8, 12, 12))
    label[:, 6:11, 1:11] = 2  # 400 voxels
    label[4, 2, 3] = 1  # 1 voxel, out of reach of the patches about class 2
    source = source_of(prepare(tmp_path, [coordinates(label.shape)], [label]), patch_size, 1.0)
    centre = (0, *(1 for _ in patch_size))
    values = [int(source.sample(number)[1][centre]) for number in range(2000)]
    assert set(values) == {1, 2}
    assert abs(values.count(1) - 1000) < 4.5 * math.sqrt(500)


def test_only_classes_that_occur_are_centred(tmp_path: Path) -> None:
    label = np.zeros((9, 9, 9))
    label[6, 4, 5] = 2
    source = source_of(prepare(tmp_path, [coordinates(label.shape)], [label]), (3, 3, 3), 1.0)
    assert all(source.sample(number)[1][0, 1, 1, 1] == 2 for number in range(50))


def test_patches_of_a_sparse_label_are_centred_on_labelled_voxels(tmp_path: Path) -> None:
    """No patch is ignored completely; other voxels, background and foreground, are as likely as in the label."""
    label = np.full((9, 12, 12), 255)
    label[4, 5, 2:10] = 0
    label[4, 5, 2:4] = 1
    whole = np.where(label == 255, 0, label)
    sparse = prepare(tmp_path / "sparse", [coordinates(label.shape)], [label])
    assert sparse.cases()[0].sparse
    found = [source_of(sparse, (3, 3, 3), 0.0).sample(n)[1][0, 1, 1, 1] for n in range(400)]
    assert set(found) == {0, 1}
    assert abs(found.count(1) - 100) < 4.5 * math.sqrt(400 * 3 / 16)
    always = source_of(sparse, (3, 3, 3), 1.0)
    assert {int(always.sample(n)[1][0, 1, 1, 1]) for n in range(50)} == {1}
    # if everything is labelled, other patches are anywhere
    dense = prepare(tmp_path / "dense", [coordinates(label.shape)], [whole])
    assert not dense.cases()[0].sparse
    places = {tuple(source_of(dense, (3, 3, 3), 0.0).place(n).start) for n in range(400)}
    assert len(places) > 200


def test_a_case_without_foreground_gives_patches_from_anywhere(tmp_path: Path) -> None:
    shape = (5, 4, 4)
    cases = prepare(tmp_path, [coordinates(shape)], [np.zeros(shape)])
    source = source_of(cases, (4, 4, 4), oversampling=1)
    starts = {start_of(source.sample(number)[0], shape)[0] for number in range(50)}
    assert starts == {0, 1}


@pytest.mark.parametrize("share", [0.0, 0.33, 1.0])
def test_the_share_of_centred_patches(tmp_path: Path, share: float) -> None:
    # one foreground voxel: a random patch is centred on it once in 15^3 samples
    shape, count = (17, 17, 17), 10_000
    label = np.zeros(shape)
    label[8, 8, 8] = 1
    source = source_of(prepare(tmp_path, [coordinates(shape)], [label]), (3, 3, 3), share)
    centred = sum(source.sample(number)[1][0, 1, 1, 1] == 1 for number in range(count))
    allowed = 4.5 * math.sqrt(count * share * (1 - share)) + 12 * (1 - share)
    assert abs(centred - share * count) <= allowed


@pytest.mark.parametrize("patch_size", [(4, 5), (10, 5), (10, 9)])
@pytest.mark.parametrize("oversampling", [0.0, 1.0])
def test_a_2d_patch_is_a_slice_across_the_first_axis(
    tmp_path: Path, patch_size: tuple[int, int], oversampling: float
) -> None:
    shape = (7, 8, 6)
    volume = coordinates(shape, channels=2)
    source = source_of(prepare(tmp_path, [volume]), patch_size, oversampling)
    slices = set()
    for number in range(150):
        image, label = source.sample(number)[:2]
        assert image.shape == (2, *patch_size)
        assert label.shape == (1, *patch_size)
        start = start_of(image, shape)
        expected = region(volume, start, (1, *patch_size))
        np.testing.assert_array_equal(image, expected[:, 0])
        np.testing.assert_array_equal(label, image[:1] % 3)
        slices.add(int(start[0]))
    assert slices == set(range(7))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_regions_have_the_type_of_the_store(tmp_path: Path, dtype: str) -> None:
    """A GPU receives float16 and computes in float32."""
    volume = coordinates((6, 6, 6))  # up to 216: exact in float16
    dataset = prepare(tmp_path, [volume], dtype=dtype)
    rotated = source_of(dataset, (4, 4, 4), augmentation=EVERYTHING)
    assert {rotated.sample(number)[0].dtype for number in range(20)} == {np.dtype(dtype)}
    image = source_of(dataset, (4, 4, 4)).sample(0)[0]
    np.testing.assert_array_equal(
        image, region(volume, start_of(image, volume.shape[1:]), (4, 4, 4))
    )


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_together_see_what_one_process_sees(
    dataset: PreparedDataset, world_size: int
) -> None:
    def batch(numbering: Numbering, iteration: int) -> list[Any]:
        source = source_of(dataset, (4, 4, 4), augmentation=EVERYTHING, numbering=numbering)
        asked = [
            SimpleNamespace(iteration=iteration, idx_in_batch=index)
            for index in range(numbering.batch_size)
        ]
        return [content(source(info)) for info in asked]

    for iteration in (0, 1, 4):
        ranks = [batch(Numbering(2, 0, rank, world_size), iteration) for rank in range(world_size)]
        together = [sample for rank in ranks for sample in rank]
        assert together == batch(Numbering(2 * world_size), iteration)
        # and a resumed rank continues there
        assert batch(Numbering(2, iteration, 1, world_size), 0) == ranks[1]


def test_all_numbers_are_used_once() -> None:
    numbers = [
        Numbering(3, 5, rank, 2).sample(iteration, index)
        for rank in range(2)
        for iteration in range(4)
        for index in range(3)
    ]
    assert sorted(numbers) == list(range(5 * 2 * 3, 9 * 2 * 3))


@pytest.mark.parametrize("array", ["image", "label", "positions"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "header", "empty"])
def test_a_damaged_file_is_an_error_that_names_the_case(
    tmp_path: Path, array: str, damage: str
) -> None:
    cases = prepare(tmp_path, [coordinates((6, 6, 6))])
    source = source_of(cases, (4, 4, 4), oversampling=1)
    path = Path(getattr(cases.cases()[0], array))
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"truncated": whole[: len(whole) // 2], "header": whole[:20]}.get(damage, b"")
        )
    with pytest.raises(CaseError, match=f"case c0: .*{array}.npy") as caught:
        source.sample(0)
    assert caught.value.case == "c0"


@pytest.mark.parametrize("damage", ["missing", "truncated", "zeros"])
def test_a_damaged_case_is_prepared_anew_by_the_next_command(tmp_path: Path, damage: str) -> None:
    """The message suggests this."""
    cases = prepare(tmp_path, [coordinates((6, 6, 6))])
    expected = content(source_of(cases, (4, 4, 4)).sample(0))
    path = Path(cases.cases()[0].image)
    size = path.stat().st_size
    path.unlink()
    if damage != "missing":
        # as many zeros as a file system leaves after a power cut, or fewer
        path.write_bytes(bytes(size if damage == "zeros" else size // 2))
    with pytest.raises(CaseError, match="Start the command again"):
        source_of(cases, (4, 4, 4)).sample(0)
    again = PreparedDataset(cases.data, cases.transform, str(cases.store_dir), num_classes=3)
    assert content(source_of(again, (4, 4, 4)).sample(0)) == expected


def test_memory_maps_stay_in_their_process(tmp_path: Path) -> None:
    source = source_of(prepare(tmp_path, [coordinates((40, 40, 40))]), (4, 4, 4), 1.0)
    unused = len(pickle.dumps(source))
    source.sample(0)
    # the image alone has 256,000 bytes
    assert len(pickle.dumps(source)) == unused < 5000


def test_patches_are_copies(dataset: PreparedDataset) -> None:
    source = source_of(dataset, (4, 4, 4))
    before = content(source.sample(0))
    for array in source.sample(0)[:2]:
        array[...] = 0
    assert content(source.sample(0)) == before


def test_many_cases_need_few_open_files(tmp_path: Path) -> None:
    # Task01 trains on 387 cases of three files each, and 1024 open files are the usual limit
    template = prepare(tmp_path, [coordinates((6, 6, 6))]).cases()[0]
    cases = []
    for index in range(100):
        paths = {}
        for array in ("image", "label", "positions"):
            paths[array] = str(tmp_path / f"{index}.{array}.npy")
            os.link(getattr(template, array), paths[array])
        cases.append(replace(template, **paths))
    sampling = Sampling((4, 4, 4), Augmentation.from_config({}), oversampling=1.0)
    source = PatchSource(cases, sampling, Numbering(2))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 150, hard))
    try:
        for number in range(300):
            source.sample(number)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("shape", [(9, 8, 10), (8, 9, 7), (3, 8, 10), (2, 3, 3), (4, 5, 6)])
@pytest.mark.parametrize("patch_size", [(4, 5, 6), (5, 6)])
def test_a_center_crop_is_the_middle_of_the_volume(
    tmp_path: Path, shape: tuple[int, ...], patch_size: tuple[int, ...]
) -> None:
    volume = coordinates(shape, channels=2)
    size = np.array((1, *patch_size)[-3:])
    # foreground and its share have no effect
    source = source_of(prepare(tmp_path, [volume]), patch_size, 1.0, center_crop=True)
    expected = region(volume, (np.array(shape) - size) // 2, size)
    for number in range(5):
        image, label = source.sample(number)[:2]
        np.testing.assert_array_equal(image, expected.reshape(image.shape))
        np.testing.assert_array_equal(label, image[:1] % 3)


@pytest.mark.parametrize("patch_size", [(4, 4, 4), (2, 8, 8), (4, 4)])
def test_all_arrays_lie_as_dali_takes_them(
    dataset: PreparedDataset, patch_size: tuple[int, ...]
) -> None:
    source = source_of(dataset, patch_size, augmentation=EVERYTHING)
    for number in range(40):
        assert all(array.flags.c_contiguous for array in source.sample(number))

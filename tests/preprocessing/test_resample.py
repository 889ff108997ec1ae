"""Resampling keeps positions in the world, and its inverse restores exactly the original grid."""

import itertools
import tracemalloc
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from dynunet_bundle.preprocessing import resample_label
from dynunet_bundle.preprocessing.resample import (
    ResampleToSpacingd,
    find_coarse_axis,
    nearest_indices,
    resize,
    resize_label,
)


def rotation(degrees: Sequence[float]) -> np.ndarray:
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        one, other = [i for i in range(3) if i != axis]
        step = np.eye(3)
        step[[one, other], [one, other]] = np.cos(angle)
        step[one, other], step[other, one] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    return turn


def make_affine(spacing: Sequence[float], degrees: Sequence[float] = (0, 0, 0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ np.diag(spacing)
    affine[:3, 3] = [-70, 20, 300]
    return affine


def volume(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(affine))


def resample(tensor: MetaTensor, spacing: Sequence[float], is_label: bool = False) -> MetaTensor:
    return ResampleToSpacingd("x", spacing, is_label)({"x": tensor})["x"]


def worlds(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """World coordinates of all voxels, ``[3, D, H, W]``."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1)
    return (affine[:3, :3] @ voxels + affine[:3, 3:]).reshape(3, *shape)


# --- geometry


@pytest.mark.parametrize("is_label", [False, True])
def test_the_own_spacing_changes_nothing(is_label: bool):
    array = np.random.default_rng(0).integers(0, 4, (1, 9, 8, 7)).astype(np.float32)
    affine = make_affine([2.0, 0.7, 1.1], [10, 20, 30])
    result = resample(volume(array, affine), [2.0, 0.7, 1.1], is_label)
    np.testing.assert_array_equal(result.numpy(), array)
    np.testing.assert_array_equal(np.asarray(result.affine), affine)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (12, -25, 40)])
@pytest.mark.parametrize("spacing", [(1.3, 0.8, 1.45), (0.7, 0.9, 0.6), (2.0, 2.5, 1.7)])
def test_every_value_stays_at_its_place_in_the_world(
    degrees: tuple[float, ...], spacing: tuple[float, ...]
):
    affine = make_affine([1.0, 1.2, 0.9], degrees)
    shape = (40, 36, 44)
    # three channels that hold x, y and z in mm
    image = volume(worlds(affine, shape).astype(np.float32), affine)
    result = resample(image, spacing)
    expected = worlds(np.asarray(result.affine), result.shape[1:])
    # away from the border, where splines deviate
    inner = (slice(None),) + tuple(slice(size // 4, -(size // 4)) for size in result.shape[1:])
    np.testing.assert_allclose(result.numpy()[inner], expected[inner], atol=0.02)


@pytest.mark.parametrize("spacing", [(1.3, 0.8, 1.45), (0.5, 4.0, 0.6), (6.0, 1.0, 1.0)])
def test_the_volume_keeps_its_extent(spacing: tuple[float, ...]):
    affine = make_affine([1.0, 1.2, 0.9], (12, -25, 40))
    image = volume(np.zeros((1, 40, 36, 44), np.float32), affine)
    result = resample(image, spacing)
    edges = [
        worlds(np.asarray(tensor.affine), (1, 1, 1)).ravel()  # centre of the first voxel
        + np.asarray(tensor.affine)[:3, :3] @ offset
        for tensor in (image, result)
        for offset in (np.full(3, -0.5), np.array(tensor.shape[1:]) - 0.5)
    ]
    np.testing.assert_allclose(edges[:2], edges[2:], atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "size", "expected"),
    [
        (1.0, 1.3, 35, 27),  # 26.9: rounded, not cut
        (1.0, 1.3, 36, 28),  # 27.7
        (1.5, 1.0, 35, 52),  # 52.5: to the even number, as numpy rounds
        (3.0, 1.0, 5, 15),
        (1.0, 9.0, 3, 1),  # 0.33: at least one
    ],
)
def test_the_new_size_is_rounded(old: float, new: float, size: int, expected: int):
    image = volume(np.zeros((1, 8, size, 8), np.float32), make_affine([1.0, old, 1.0]))
    assert resample(image, [1.0, new, 1.0]).shape == (1, 8, expected, 8)


def test_two_values_leave_the_first_axis_alone():
    array = np.zeros((1, 6, 20, 20), np.float32)
    array[0, 2] = np.random.default_rng(0).random((20, 20))
    # below and above the ratio at which the first axis is treated separately
    for thickness in (2.0, 6.0):
        affine = make_affine([thickness, 1.0, 1.2])
        result = resample(volume(array, affine), [1.5, 1.5])
        assert result.shape == (1, 6, 13, 16)
        assert np.linalg.norm(np.asarray(result.affine)[:3, 0]) == pytest.approx(thickness)
        others = np.delete(result.numpy()[0], 2, axis=0)
        np.testing.assert_allclose(others, 0, atol=1e-6)  # no slice leaks into another
        assert result.numpy()[0, 2].std() > 0.1


# --- the coarse axis


@pytest.mark.parametrize(
    ("old", "new", "axis"),
    [
        ((1, 1, 1), (2, 2, 2), None),
        ((3, 1, 1), (1, 1, 1), None),  # three times is not more than three times
        ((3.1, 1, 1), (1, 1, 1), 0),
        ((1, 4, 1), (1, 1, 1), 1),
        ((1, 1, 1), (1, 1, 3.5), 2),  # the target counts if the file is isotropic
        ((1, 1, 4), (5, 1, 1), 2),  # the file counts first
        ((4, 4, 1), (1, 1, 1), None),  # two coarse axes: neither counts
        ((4, 4, 1), (5, 1, 1), None),
        ((4, 2, 1), (1, 1, 1), 0),
        # rounding of 3, 5 and 0.7 mm by a float32 header or a rotation has no effect
        ((3.0000002, 1, 1), (1, 1, 1), None),
        ((5.0000005, 5, 1), (1, 1, 1), None),
        ((0.1, 0.70000005, 0.7), (1, 1, 1), None),
        # but the 1e-5 mm that nnU-Net's planner adds to one of two axes has
        ((1.00001, 1, 0.3), (1, 1, 1), 0),
    ],
)
def test_find_coarse_axis(old: tuple[float, ...], new: tuple[float, ...], axis: int | None):
    assert find_coarse_axis(np.array(old, float), np.array(new, float)) == axis


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (3, 3, [0, 1, 2]),
        (2, 6, [0, 0, 0, 1, 1, 1]),
        (6, 2, [1, 4]),
        (5, 1, [2]),
        (1, 3, [0, 0, 0]),
        (4, 3, [0, 2, 3]),  # centres at 0.17, 1.5 and 2.83
        # centres between two slices: the later one, as map_coordinates(order=0) decides in nnU-Net
        (2, 1, [1]),
        (4, 2, [1, 3]),
        (10, 4, [1, 3, 6, 8]),
    ],
)
def test_nearest_indices(old: int, new: int, expected: list[int]):
    assert nearest_indices(old, new).tolist() == expected


def test_nearest_indices_are_those_of_map_coordinates():
    for old, new in itertools.product(range(1, 40), repeat=2):
        centres = old / new * (np.arange(new) + 0.5) - 0.5
        expected = ndimage.map_coordinates(np.arange(old), [centres], order=0, mode="nearest")
        np.testing.assert_array_equal(nearest_indices(old, new), expected)


def in_plane(piece: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Cubic interpolation of a slice at the centres of new pixels that cover the same extent."""
    centres = [
        (np.arange(new) + 0.5) * old / new - 0.5
        for new, old in zip(shape, piece.shape, strict=True)
    ]
    grid = np.meshgrid(*centres, indexing="ij")
    return ndimage.map_coordinates(piece, grid, order=3, mode="nearest")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_a_coarse_axis_the_nearest_slice_is_taken(axis: int):
    slices = np.random.default_rng(0).random((5, 16, 18)).astype(np.float32)
    old, new = [1.0, 1.0], [1.6, 0.9]
    old.insert(axis, 6.0)
    new.insert(axis, 2.0)
    image = volume(np.moveaxis(slices, 0, axis)[None].copy(), make_affine(old))
    result = np.moveaxis(resample(image, new).numpy()[0], axis, 0)
    assert result.shape == (15, 10, 20)
    for index, piece in enumerate(result):
        source = slices[index // 3]
        expected = np.clip(in_plane(source, (10, 20)), source.min(), source.max())
        np.testing.assert_allclose(piece, expected, atol=1e-5)


def test_each_slice_keeps_its_own_range():
    edge = np.zeros((1, 3, 12, 12), np.float32)
    edge[0, 0, :, 6:], edge[0, 1, :, 6:], edge[0, 2] = 1, 10, 3
    result = resize(edge, (3, 20, 20), 3, coarse_axis=0)[0]
    # a range of all slices (0 to 10) would let the splines of the first overshoot
    assert result.min(axis=(1, 2)).tolist() == [0, 0, 3]
    assert result.max(axis=(1, 2)).tolist() == [1, 10, 3]


def test_without_a_coarse_axis_slices_are_blended():
    # the counterpart: at a ratio of 3 the values between two slices are new
    ramp = np.repeat(np.arange(8, dtype=np.float32), 36).reshape(1, 8, 6, 6)
    result = resample(volume(ramp, make_affine([3.0, 1.0, 1.0])), [1.0, 1.0, 1.0]).numpy()
    assert len(np.unique(result[0, :, 3, 3].round(3))) > 8


# --- the numbers of an image


SHAPES = [
    ((20, 24, 28), (30, 21, 33)),
    ((30, 17, 40), (9, 40, 11)),
    ((60, 50, 70), (25, 50, 90)),  # several blocks along an axis, and one unchanged axis
    ((16, 30, 30), (16, 30, 47)),
    ((1, 40, 40), (1, 62, 25)),
    ((2, 3, 1), (5, 1, 4)),
]


def zoom(channel: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    """skimage.transform.resize(mode="edge", anti_aliasing=False), in nnU-Net's float64."""
    factors = np.divide(shape, channel.shape)
    result = ndimage.zoom(
        channel.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True
    )
    return np.clip(result, channel.min(), channel.max())


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_a_volume_is_resized_as_scipy_does(old: tuple[int, ...], new: tuple[int, ...], order: int):
    array = np.random.default_rng(0).normal(size=(2, *old))
    array[1] += 5
    expected = np.stack([zoom(channel, new, order) for channel in array])
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-12)):
        result = resize(array.astype(dtype), new, order)
        assert result.dtype == dtype
        assert result.flags.c_contiguous
        np.testing.assert_allclose(result, expected, atol=tolerance)


def test_the_order_of_the_memory_does_not_matter():
    array = np.random.default_rng(0).normal(size=(1, 20, 24, 28)).astype(np.float32)
    expected = resize(array, (30, 21, 33), 3)
    fortran = np.asfortranarray(array[0])[None]
    flipped = np.ascontiguousarray(array[:, ::-1, :, ::-1])[:, ::-1, :, ::-1]
    fixed = array.copy()
    fixed.flags.writeable = False
    for same in (fortran, flipped, fixed):
        np.testing.assert_allclose(resize(same, (30, 21, 33), 3), expected, atol=1e-6)


def test_splines_do_not_overshoot():
    edge = np.zeros((2, 12, 12, 12), np.float32)
    edge[0, :, :, 6:], edge[1, :, :, 6:] = 1, 10
    result = resize(edge, (18, 12, 20), 3)
    # each channel has a different range
    assert result.min(axis=(1, 2, 3)).tolist() == [0, 0]
    assert result.max(axis=(1, 2, 3)).tolist() == [1, 10]
    assert zoom(edge[0], (18, 12, 20), 3).max() == 1  # the reference is clipped too
    raw = ndimage.zoom(edge[0], (1.5, 1, 20 / 12), order=3, mode="nearest", grid_mode=True)
    assert raw.max() > 1.01


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_lies_apart_along_an_axis_that_stays_does_not_mix(axis: int):
    array = np.random.default_rng(0).normal(size=(1, 30, 30, 30)).astype(np.float32)
    shape = [41, 22, 35]
    shape[axis] = 30
    whole = resize(array, shape, 3)
    single = np.moveaxis(whole, axis + 1, 0)
    other = array + 0
    np.moveaxis(other, axis + 1, 0)[:17] = np.moveaxis(array, axis + 1, 0)[:17] * 0.5
    changed = np.moveaxis(resize(other, shape, 3), axis + 1, 0)
    np.testing.assert_allclose(changed[17:], single[17:], atol=1e-6)
    assert not np.allclose(changed[16], single[16], atol=0.1)


@pytest.mark.parametrize("coarse_axis", [None, 0, 2])
def test_slabs_of_any_size_give_the_same(coarse_axis: int | None):
    array = np.random.default_rng(0).normal(size=(1, 50, 40, 60)).astype(np.float32)
    whole = resize(array, (37, 65, 71), 3, coarse_axis, block_size=1000)
    for block_size in (1, 7, 24):
        slabs = resize(array, (37, 65, 71), 3, coarse_axis, block_size)
        np.testing.assert_allclose(slabs, whole, atol=1e-5)


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_threads_change_no_bit(three_threads: None):
    array = np.random.default_rng(0).normal(size=(5, 20, 24, 28)).astype(np.float32)
    several = resize(array, (30, 21, 33), 3)
    torch.set_num_threads(1)
    np.testing.assert_array_equal(several, resize(array, (30, 21, 33), 3))


def test_memory_beyond_input_and_output_is_small():
    image = np.random.default_rng(0).random((1, 100, 128, 128), np.float32)
    label = (image > 0.5).astype(np.uint8)
    shape = (150, 180, 180)
    for run, itemsize in (
        (lambda: resize(image, shape, 3), 4),
        (lambda: resize_label(label, shape), 1),
    ):
        run()  # fills the cache of matrices
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # nnU-Net's float64 copies take twice the output before it is written
        assert peak < 1.6 * itemsize * np.prod(shape)


@pytest.mark.parametrize("order", [1, 3])
def test_the_own_shape_returns_the_array_itself(order: int):
    array = np.zeros((2, 4, 5, 6), np.float32)
    assert resize(array, (4, 5, 6), order, coarse_axis=0) is array
    label = np.zeros((1, 4, 5, 6), np.uint8)
    assert resize_label(label, (4, 5, 6)) is label


# --- labels


@pytest.mark.parametrize("spacing", [(1.3, 0.8, 1.45), (0.6, 0.7, 0.8), (5.0, 1.0, 1.0)])
def test_label_values_are_never_new(spacing: tuple[float, ...]):
    label = np.random.default_rng(0).choice([0, 2, 7], (1, 20, 22, 24)).astype(np.uint8)
    result = resample(volume(label, make_affine([1.0, 1.1, 0.9])), spacing, is_label=True)
    assert result.dtype == torch.uint8
    # a mean of 0 and 7, or of 2 and 7, would give another class
    assert set(result.unique().tolist()) <= {0, 2, 7}
    assert {2, 7} <= set(result.unique().tolist())


def exact_winners(label: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The rules for labels in integers: shares times ``2 * new`` along each axis, so ties are exact."""
    classes = np.unique(label)
    shares = (label == classes[:, None, None, None]).astype(np.int64)
    nearest = label
    for axis, new in enumerate(shape):
        old = label.shape[axis]
        place = np.clip((2 * np.arange(new) + 1) * old - new, 0, (old - 1) * 2 * new)
        lower, rest = place // (2 * new), place % (2 * new)
        weights = np.zeros((new, old), np.int64)
        weights[np.arange(new), lower] = 2 * new - rest
        weights[np.arange(new), np.minimum(lower + 1, old - 1)] += rest
        shares = np.moveaxis(np.tensordot(shares, weights, (axis + 1, 1)), -1, axis + 1)
        nearest = nearest.take((place + new) // (2 * new), axis)
    top = shares == shares.max(axis=0)
    nearest_is_top = np.take_along_axis(top, np.searchsorted(classes, nearest)[None], 0)[0]
    return np.where(nearest_is_top, nearest, classes[top.argmax(axis=0)])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((10, 12, 14), (20, 24, 28)),  # every share a multiple of 1/64
        ((12, 10, 14), (6, 5, 7)),  # each new voxel is in the middle of eight old ones
        ((10, 12, 14), (15, 18, 21)),  # thirds, which floating point rounds
        ((9, 30, 31), (27, 25, 35)),
        ((40, 8, 28), (40, 12, 14)),
    ],
)
@pytest.mark.parametrize("tile_size", [5, 24, 100])
def test_the_largest_share_wins_and_ties_go_to_the_nearest(
    monkeypatch: pytest.MonkeyPatch, old: tuple[int, ...], new: tuple[int, ...], tile_size: int
):
    monkeypatch.setattr(resample_label, "TILE_SIZE", tile_size)
    for num_classes in (2, 5):
        label = np.random.default_rng(0).integers(0, num_classes, old).astype(np.uint8) * 3
        result = resize_label(label[None], new)[0]
        np.testing.assert_array_equal(result, exact_winners(label, new))


@pytest.mark.parametrize(
    ("voxels", "winner"),
    [
        ([0, 0, 0, 0, 4, 4, 4, 4], 4),  # a tie that includes the nearest (in SciPy the last)
        ([4, 4, 4, 4, 0, 0, 0, 0], 0),
        ([3, 1, 1, 1, 2, 2, 2, 3], 1),  # a tie without the nearest: the smallest class
        ([1, 1, 1, 2, 2, 3, 3, 4], 1),  # no class has half of the voxel
        ([4, 4, 4, 2, 2, 3, 3, 0], 4),
    ],
)
def test_the_middle_of_eight_voxels(voxels: list[int], winner: int):
    label = np.array(voxels, np.uint8).reshape(1, 2, 2, 2)
    assert resize_label(label, (1, 1, 1)).item() == winner


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_label_takes_the_nearest_slice_along_a_coarse_axis(axis: int):
    slices = np.random.default_rng(0).integers(0, 4, (4, 12, 14)).astype(np.uint8)
    in_plane = [exact_winners(piece[None], (1, 18, 9))[0] for piece in slices]
    shape = [18, 9]
    for size in (2, 6, 4):
        expected = np.stack([in_plane[index] for index in nearest_indices(4, size)], axis)
        label = np.ascontiguousarray(np.moveaxis(slices, 0, axis))[None]
        result = resize_label(label, (*shape[:axis], size, *shape[axis:]), axis)
        np.testing.assert_array_equal(result[0], expected)


def ellipsoid(shape: Sequence[int], radii: Sequence[float], spacing: Sequence[float]) -> np.ndarray:
    """A mask around the middle; radii in mm."""
    grids = np.meshgrid(*map(np.arange, shape), indexing="ij")
    middles = (np.array(shape) - 1) / 2 + [0.7, -1.2, 0.4]
    distance = sum(
        ((grid - middle) * mm / radius) ** 2
        for grid, middle, mm, radius in zip(grids, middles, spacing, radii, strict=True)
    )
    return distance < 1


FACTORS = [
    ((1.0, 1.0, 1.0), (1.3, 0.8, 1.4)),
    ((1.0, 1.1, 0.9), (0.7, 0.7, 0.7)),
    ((1.6, 0.8, 0.8), (1.0, 1.0, 1.0)),
    ((4.0, 1.0, 1.0), (2.0, 0.8, 0.8)),
]


@pytest.mark.parametrize(("old", "new"), FACTORS)
def test_a_label_stays_in_place_and_keeps_its_volume(
    old: tuple[float, ...], new: tuple[float, ...]
):
    affine = make_affine(old, (12, -25, 40))
    shape = np.round(np.array([56, 56, 56]) / old).astype(int)
    label = volume(ellipsoid(shape, (18, 14, 16), old)[None].astype(np.uint8), affine)
    result = resample(label, new, is_label=True)
    middles, volumes = [], []
    for tensor in (label, result):
        inside = tensor.numpy()[0] > 0
        matrix = np.asarray(tensor.affine)
        middles.append(worlds(matrix, inside.shape)[:, inside].mean(axis=1))
        volumes.append(inside.sum() * abs(np.linalg.det(matrix[:3, :3])))
    np.testing.assert_allclose(middles[0], middles[1], atol=0.1)
    assert volumes[1] == pytest.approx(volumes[0], rel=0.02)


@pytest.mark.parametrize(("old", "new"), FACTORS)
def test_there_and_back_again(old: tuple[float, ...], new: tuple[float, ...]):
    affine = make_affine(old, (12, -25, 40))
    shape = np.round(np.array([56, 56, 56]) / old).astype(int)
    outer = ellipsoid(shape, (20, 16, 18), old)
    inner = ellipsoid(shape, (12, 10, 11), old)
    label = (outer.astype(np.uint8) + inner)[None]
    transform = ResampleToSpacingd("x", new, is_label=True)
    there = transform({"x": volume(label, affine)})["x"]
    assert there.shape[1:] != label.shape[1:]
    # probabilities of the network replace the label: one channel per class, same grid and trace
    one_hot = torch.nn.functional.one_hot(there.as_tensor()[0].long(), 3).movedim(-1, 0).float()
    probabilities = MetaTensor(
        one_hot, meta=there.meta, applied_operations=there.applied_operations
    )
    back = transform.inverse({"x": probabilities})["x"]
    assert back.shape == (3, *shape)
    np.testing.assert_array_equal(np.asarray(back.affine), affine)
    assert back.applied_operations == []
    restored = back.numpy().argmax(axis=0)
    for value in (1, 2):
        found, true = restored == value, label[0] == value
        assert 2 * (found & true).sum() / (found.sum() + true.sum()) >= 0.98


def test_probabilities_come_back_as_probabilities():
    # cubic splines would overshoot below 0 and above 1
    image = volume(np.zeros((1, 20, 20, 20), np.float32), make_affine([1.0, 1.0, 1.0]))
    transform = ResampleToSpacingd("x", [1.5, 1.5, 1.5])
    there = transform({"x": image})["x"]
    hard = torch.rand(2, *there.shape[1:], generator=torch.Generator().manual_seed(0)).round()
    shares = MetaTensor(hard, meta=there.meta, applied_operations=there.applied_operations)
    back = transform.inverse({"x": shares})["x"].numpy()
    assert back.min() >= 0
    assert back.max() <= 1


def test_probabilities_of_many_classes_still_add_up_to_one():
    image = volume(np.zeros((1, 15, 20, 25), np.float32), make_affine([1.0, 1.2, 0.8]))
    transform = ResampleToSpacingd("x", [1.5, 0.9, 1.1])
    there = transform({"x": image})["x"]
    random = torch.rand(30, *there.shape[1:], generator=torch.Generator().manual_seed(0))
    shares = MetaTensor(
        (random * 5).softmax(0), meta=there.meta, applied_operations=there.applied_operations
    )
    back = transform.inverse({"x": shares})["x"].numpy()
    assert back.shape == (30, 15, 20, 25)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back.sum(axis=0), 1, atol=1e-5)
    expected = zoom(shares.numpy()[17], (15, 20, 25), 1)
    np.testing.assert_allclose(back[17], expected, atol=1e-6)


@pytest.mark.parametrize(("shape", "coarse_axis"), [((14, 6, 15), None), ((5, 13, 18), 0)])
def test_what_is_ignored_is_a_class_like_the_largest(shape, coarse_axis):
    """nnU-Net's ignore value is one more than its largest class; ours is 255."""
    label = np.random.default_rng(0).integers(0, 4, (1, 9, 10, 11)).astype(np.uint8)
    expected = resize_label(label, shape, coarse_axis)
    found = resize_label(np.where(label == 3, 255, label), shape, coarse_axis)
    assert (expected == 3).any()
    assert np.array_equal(found, np.where(expected == 3, 255, expected))


# --- the transform


def test_image_and_label_of_one_case_go_through_together():
    affine = make_affine([1.0, 1.0, 1.0])
    data = {
        "image": volume(np.random.default_rng(0).random((2, 9, 8, 7)).astype(np.float32), affine),
        "label": volume(np.ones((1, 9, 8, 7), np.uint8), affine),
        "other": "kept",
    }
    transform = ResampleToSpacingd(("image", "label"), [0.5, 0.5, 0.5], is_label=(False, True))
    result = transform(data)
    assert result["image"].shape == (2, 18, 16, 14)
    assert result["image"].dtype == torch.float32
    assert result["label"].shape == (1, 18, 16, 14)
    assert result["label"].unique().tolist() == [1]
    assert result["other"] == "kept"
    assert data["image"].shape == (2, 9, 8, 7)
    np.testing.assert_array_equal(np.asarray(data["image"].affine), affine)


def test_a_case_without_label():
    image = volume(np.zeros((1, 4, 4, 4), np.float32), make_affine([1.0, 1.0, 1.0]))
    keys = ("image", "label")
    lenient = ResampleToSpacingd(keys, [2.0, 2.0, 2.0], (False, True), allow_missing_keys=True)
    assert lenient({"image": image})["image"].shape == (1, 2, 2, 2)
    with pytest.raises(KeyError, match="label"):
        ResampleToSpacingd(keys, [2.0, 2.0, 2.0], (False, True))({"image": image})

"""Resampling keeps things where they are, and comes back to the very grid it started from."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from dynunet_bundle.preprocessing.resample import (
    ResampleToSpacingd,
    find_coarse_axis,
    nearest_indices,
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
    # away from the border, where the splines have nothing to bend towards
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
        (1.0, 9.0, 3, 1),  # 0.33: never nothing
    ],
)
def test_the_new_size_is_rounded(old: float, new: float, size: int, expected: int):
    image = volume(np.zeros((1, 8, size, 8), np.float32), make_affine([1.0, old, 1.0]))
    assert resample(image, [1.0, new, 1.0]).shape == (1, 8, expected, 8)


def test_two_values_leave_the_first_axis_alone():
    array = np.zeros((1, 6, 20, 20), np.float32)
    array[0, 2] = np.random.default_rng(0).random((20, 20))
    # below and above the ratio from which the first axis is treated apart anyway
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
        ((1, 1, 1), (1, 1, 3.5), 2),  # the target counts where the file is isotropic
        ((1, 1, 4), (5, 1, 1), 2),  # the file counts first
        ((4, 4, 1), (1, 1, 1), None),  # two coarse axes are none
        ((4, 4, 1), (5, 1, 1), None),
        ((4, 2, 1), (1, 1, 1), 0),
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
    ],
)
def test_nearest_indices(old: int, new: int, expected: list[int]):
    assert nearest_indices(old, new).tolist() == expected


def in_plane(piece: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Cubic values of a slice at the centres of new pixels that cover the same extent."""
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
        expected = in_plane(slices[index // 3], (10, 20))
        np.testing.assert_allclose(piece, expected, atol=1e-4)


def test_without_a_coarse_axis_slices_are_blended():
    # the counterpart: at a ratio of 3 the values between two slices are new
    ramp = np.repeat(np.arange(8, dtype=np.float32), 36).reshape(1, 8, 6, 6)
    result = resample(volume(ramp, make_affine([3.0, 1.0, 1.0])), [1.0, 1.0, 1.0]).numpy()
    assert len(np.unique(result[0, :, 3, 3].round(3))) > 8


# --- labels


@pytest.mark.parametrize("spacing", [(1.3, 0.8, 1.45), (0.6, 0.7, 0.8), (5.0, 1.0, 1.0)])
def test_label_values_are_never_new(spacing: tuple[float, ...]):
    label = np.random.default_rng(0).choice([0, 2, 7], (1, 20, 22, 24)).astype(np.uint8)
    result = resample(volume(label, make_affine([1.0, 1.1, 0.9])), spacing, is_label=True)
    assert result.dtype == torch.uint8
    # a mean of 0 and 7, or of 2 and 7, would be another class
    assert set(result.unique().tolist()) <= {0, 2, 7}
    assert {2, 7} <= set(result.unique().tolist())


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
    # the network's probabilities stand in for the label: one channel a class, on its grid, with its trace
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
    assert back.min() >= -1e-6
    assert back.max() <= 1 + 1e-6


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

"""The result equals an independent implementation with scipy, voxel for voxel."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import BUNDLE
from monai.data import MetaTensor
from scipy import ndimage

from dynunet_bundle.configs.overlays import rules_of
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.labels.largest_component import (
    KeepLargestd,
    keep_largest,
    require_rules,
)


def kept_by_scipy(mask: np.ndarray, rules: list[list[int]]) -> np.ndarray:
    """The rules applied with scipy's components of 26 neighbours, on the whole volume."""
    mask = mask.copy()
    for values in rules:
        union = np.isin(mask, values)
        components, _ = ndimage.label(union, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        kept = np.isin(components, np.flatnonzero(sizes == sizes.max()))
        mask[union & ~kept] = 0
    return mask


def scattered(seed: int, shape: tuple[int, ...], values: tuple[int, ...]) -> np.ndarray:
    """Blobs of several labels, few enough that there are many components."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 0.8)
    labels = rng.choice(values, shape)
    return np.where(noise > np.quantile(noise, 0.85), labels, 0).astype(np.uint8)


def apply(mask: np.ndarray, rules: list[list[int]]) -> np.ndarray:
    return KeepLargestd("pred", rules)({"pred": torch.from_numpy(mask[None])})["pred"][0].numpy()


@pytest.mark.parametrize("shape", [(31, 24, 17), (40, 37, 1), (1, 9, 60), (400, 1, 1)])
@pytest.mark.parametrize("rules", [[[1, 2, 4]], [[2]], [[1, 2, 4], [4, 1], [1]], [[4], [1], [2]]])
@pytest.mark.parametrize("seed", range(3))
def test_equals_an_independent_implementation(shape, rules, seed):
    mask = scattered(seed, shape, (1, 2, 4))
    expected = kept_by_scipy(mask, rules)
    before = mask.copy()
    assert np.array_equal(apply(mask, rules), expected)
    assert (expected != before).any() and np.array_equal(mask, before)  # the input is as it was


@pytest.mark.parametrize("shape", [(11, 5, 1), (1, 20, 1), (3, 3, 3), (1, 1, 3), (21, 21, 21)])
def test_the_largest_possible_number_of_components(shape):
    """cc3d 4.1.1 fails here for booleans."""
    mask = np.zeros(shape, np.uint8)
    mask[::2, ::2, ::2] = 1
    assert np.array_equal(apply(mask, [[1]]), mask)
    for axis in range(3):
        if shape[axis] > 1:
            joined = mask.copy()
            np.moveaxis(joined, axis, 0)[1] = np.moveaxis(mask, axis, 0)[0]
            assert np.array_equal(apply(joined, [[1]]), kept_by_scipy(joined, [[1]]))


def test_corners_touch_in_volumes_and_in_slices():
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[0, 0, 0] = mask[1, 1, 1] = 1
    mask[3, 3, 3] = 1
    assert apply(mask, [[1]]).sum() == 2
    flat = np.zeros((5, 5, 1), np.uint8)
    flat[0, 0] = flat[1, 1] = flat[3, 3] = 1
    assert apply(flat, [[1]]).sum() == 2


def test_all_of_equally_large_components_are_kept():
    mask = np.zeros((9, 3, 3), np.uint8)
    mask[0:2, 0, 0] = mask[4:6, 0, 0] = 1
    mask[8, 0, 0] = 1
    expected = mask.copy()
    expected[8] = 0
    assert np.array_equal(apply(mask, [[1]]), expected)


def test_a_union_is_one_and_its_steps_are_taken_in_order():
    mask = np.zeros((12, 1, 1), np.uint8)
    mask[:, 0, 0] = [1, 1, 2, 1, 0, 2, 2, 2, 0, 1, 1, 1]
    # the union's largest component is the first four; label 2 alone has its largest component at 5 to 7
    assert apply(mask, [[1, 2]]).ravel().tolist() == [1, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert apply(mask, [[2]]).ravel().tolist() == [1, 1, 0, 1, 0, 2, 2, 2, 0, 1, 1, 1]
    assert apply(mask, [[2], [1, 2]]).ravel().tolist() == [0, 0, 0, 0, 0, 2, 2, 2, 0, 1, 1, 1]
    assert apply(mask, [[1, 2], [2]]).ravel().tolist() == [1, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_type_and_meta_data_stay(dtype):
    mask = MetaTensor(torch.zeros(1, 4, 4, 4, dtype=dtype), meta={"filename_or_obj": "a.nii.gz"})
    mask[0, 0, 0, 0:2] = 300 if dtype != torch.uint8 else 200
    mask[0, 3, 3, 3] = mask[0, 0, 0, 0]
    data = {"pred": mask, "other": 1}
    changed = KeepLargestd("pred", [[int(mask.max())]])(data)
    assert changed["pred"].dtype == dtype and changed["pred"].meta["filename_or_obj"] == "a.nii.gz"
    assert (changed["pred"] > 0).sum() == 2 and (mask > 0).sum() == 3
    assert changed["other"] == 1


def test_nothing_to_do():
    mask = torch.ones(1, 3, 3, 3, dtype=torch.uint8)
    assert KeepLargestd("pred", [])({"pred": mask})["pred"] is mask
    for rules in ([[1]], [[7]], [[7], [1]]):
        assert torch.equal(KeepLargestd("pred", rules)({"pred": mask})["pred"], mask)
    assert keep_largest(np.zeros((3, 3, 3), np.uint8), [1]) == 0
    assert KeepLargestd("pred", [[1]], allow_missing_keys=True)({"image": 1}) == {"image": 1}


def test_the_number_of_changed_voxels_is_returned():
    mask = scattered(5, (20, 20, 20), (1, 2))
    expected = kept_by_scipy(mask, [[1]])
    num_changed = (mask != expected).sum()
    assert keep_largest(mask, [1]) == num_changed > 0
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    "rules",
    ["1", [1], [[]], [[0]], [[True]], [["1"]], [[1.0]], {"1": [1]}, [[1], [-2]], None],
)
def test_other_rules_are_refused(rules):
    with pytest.raises(ConfigError, match="keep_largest"):
        KeepLargestd("pred", rules)


def test_an_unknown_value_is_named():
    require_rules([[1, 128]], [0, 1, 128])
    with pytest.raises(
        ConfigError, match=r"the value 3, which is not a label value of this task: \[0, 1, 2\]"
    ):
        require_rules([[1], [3]], [0, 1, 2])


def test_rules_of_overlays(tmp_path):
    one, two, other = (tmp_path / f"{name}.json" for name in ("one", "two", "other"))
    one.write_text(json.dumps({"keep_largest": [[1]]}))
    two.write_text(json.dumps({"keep_largest": [[2], [1]]}))
    other.write_text(json.dumps({"epochs": 3}))
    configs = BUNDLE / "configs"
    assert list(rules_of([], configs)) == []
    assert rules_of([str(one), str(two), str(other)], configs) == [[2], [1]]
    other.write_text(json.dumps({"keep_larget": [[1]]}))
    with pytest.raises(ConfigError, match='did you mean "keep_largest"'):
        rules_of([str(other)], configs)
    with pytest.raises(ConfigError, match="does not exist"):
        rules_of([str(tmp_path / "none.json")], configs)


def test_large_volumes_need_few_bytes_per_voxel():
    """skimage's labels and the counts of their sizes need 16 and more."""
    mask = np.zeros((160, 160, 160), np.uint8)
    mask[5:150, 5:150, 5:150] = 1
    mask[159, 159, 159] = mask[0, 0, 0] = 1
    tracemalloc.start()
    try:
        assert keep_largest(mask, [1]) == 2
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / mask.size < 8


@pytest.mark.parametrize("order", ["C", "F", "view"])
def test_any_layout_in_memory(order):
    """cc3d 4.1.1 reads the wrong voxels of a non-contiguous view."""
    mask = scattered(7, (9, 8, 1), (1, 2))
    expected = kept_by_scipy(mask, [[1, 2]])
    wide = np.zeros((9, 8, 3), np.uint8)
    wide[..., 1:2] = mask
    given = wide[..., 1:2] if order == "view" else np.array(mask, order=order)
    keep_largest(given, [1, 2])
    assert np.array_equal(given, expected)

"""The bounding box of a mask."""

import numpy as np
import pytest
from monai.transforms.utils import generate_spatial_bounding_box

from dynunet_bundle.images.boxes import bounding_box


def test_the_box_contains_all_set_voxels():
    mask = np.zeros((5, 6, 7), bool)
    assert bounding_box(mask) is None
    mask[0, 2, 6] = mask[3, 1, 6] = True
    assert bounding_box(mask) == (slice(0, 4), slice(1, 3), slice(6, 7))
    assert bounding_box(mask, 1) == (slice(0, 5), slice(0, 4), slice(5, 7))


@pytest.mark.parametrize("margin", [0, 3])
@pytest.mark.parametrize("shape", [(9,), (9, 8), (9, 8, 7)])
def test_the_box_is_that_of_monai(shape: tuple[int, ...], margin: int):
    for seed in range(20):
        mask = np.random.default_rng(seed).random(shape) > 0.95
        start, end = generate_spatial_bounding_box(
            mask[np.newaxis], lambda image: image, margin=margin, allow_smaller=True
        )
        expected = tuple(map(slice, start, end)) if any(end) else None
        assert bounding_box(mask, margin) == expected

"""Planes that are resized a few at a time equal those of the whole volume."""

import numpy as np
import pytest
import torch

from dynunet_bundle.inference.planes import resized_planes
from dynunet_bundle.preprocessing.resample import resize


def whole(volume, shape, coarse_axis=None, chunk_bytes=None):
    result = torch.full((len(volume), *shape), torch.nan)
    for planes, chunk in resized_planes(volume, shape, coarse_axis, chunk_bytes):
        result[:, planes] = chunk
    return result


@pytest.mark.parametrize("coarse_axis", [None, 0, 1, 2])
@pytest.mark.parametrize("shape", [(9, 14, 11), (17, 8, 23), (4, 30, 6), (9, 20, 11), (1, 14, 5)])
@pytest.mark.parametrize("chunk_bytes", [1, 5000, None])
def test_they_are_what_the_preprocessing_resizes_linearly(shape, coarse_axis, chunk_bytes):
    volume = torch.randn(3, 9, 14, 11, generator=torch.Generator().manual_seed(0))
    expected = resize(volume.numpy(), shape, 1, coarse_axis)
    ours = whole(volume, shape, coarse_axis, chunk_bytes).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_half_precision_volumes_are_interpolated_in_full():
    volume = torch.randn(2, 6, 7, 8).half()
    expected = resize(volume.float().numpy(), (9, 9, 9), 1)
    np.testing.assert_allclose(whole(volume, (9, 9, 9)).numpy(), expected, atol=1e-5)


def test_few_planes_exist_at_once():
    volume = torch.zeros(4, 10, 10, 10)
    sizes = [
        chunk.shape[1] for _, chunk in resized_planes(volume, (50, 20, 20), None, 4 * 4 * 400 * 3)
    ]
    assert max(sizes) == 3 and sum(sizes) == 50

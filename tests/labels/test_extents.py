"""Volumes and components of classes."""

import numpy as np
import pytest

from dynunet_bundle.labels.extents import class_extents


def test_volumes_follow_the_affine_and_pieces_touch_at_corners():
    mask = np.zeros((6, 6, 6), np.int32)
    mask[0, 0, 0] = mask[1, 1, 1] = 1
    mask[4:, 4:, 4:] = 7
    mask[0, 5, 5] = 7
    oblique = np.array([[0, -2.0, 0, 3], [1.5, 0, 0, 1], [0, 0.5, 3, 0], [0, 0, 0, 1]])
    found = class_extents(mask, oblique, [1, 3, 7])
    assert found.volumes_ml == pytest.approx([2 * 9 / 1000, 0, 9 * 9 / 1000])
    assert found.components == [1, 0, 2]


def test_touching_classes_are_separate_components():
    mask = np.zeros((4, 4, 1), np.uint8)
    mask[0], mask[1], mask[2] = 1, 2, 1
    assert class_extents(mask, np.eye(4), [1, 2]).components == [2, 1]

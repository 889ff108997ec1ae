"""Facts of one case do not depend on how its axes are stored, and survive being saved."""

from pathlib import Path

import numpy as np
import pytest
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from dynunet_bundle.images.read import Volume
from dynunet_bundle.survey.case_facts import CaseFacts, nonzero_box

SHAPE = (12, 9, 7)
SPACING = (1.5, 0.8, 3.0)


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Two channels ``[C, X, Y, Z]`` and a label ``[1, X, Y, Z]``; axes right, anterior, superior."""
    rng = np.random.default_rng(0)
    image = np.zeros((2, *SHAPE), np.float32)
    image[0, 2:9, 1:8, 0:5] = rng.integers(1, 1000, (7, 7, 5))
    image[1, 2:9, 1:8, 5] = -3  # negative, and in another channel: one slice further
    label = np.zeros((1, *SHAPE), np.float32)
    label[0, 3:6, 2:5, 1:4] = 1
    label[0, 4, 3, 2] = 255
    return image, label


def stored(array: np.ndarray, axcodes: str = "RAS", affine: np.ndarray | None = None) -> Volume:
    """The array with its axes permuted and flipped to ``axcodes``, at the same position in space."""
    affine = np.diag([*SPACING, 1.0]) if affine is None else affine
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(axcodes))
    turned = [apply_orientation(channel, turn) for channel in array]
    place = affine @ inv_ornt_aff(turn, array.shape[1:])
    return Volume(np.stack(turned), place)


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PSR", "SAR", "ILP", "PIL"])
@pytest.mark.parametrize("angle", [0, 20])
def test_facts_do_not_depend_on_the_storage(axcodes: str, angle: float):
    turn = np.deg2rad(angle)
    affine = np.eye(4)
    rotation = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    affine[:3, :3] = np.array(rotation) @ np.diag(SPACING)
    image, label = arrays()
    facts = CaseFacts.of(stored(image, axcodes, affine), stored(label, axcodes, affine))
    assert facts.shape == SHAPE
    assert facts.shape_after_crop == (7, 7, 6)
    assert facts.spacing_mm == pytest.approx(SPACING)
    assert facts.relative_size == pytest.approx(7 * 7 * 6 / np.prod(SHAPE))
    assert facts.label_voxels == {0: np.prod(SHAPE) - 27, 1: 26, 255: 1}
    first, second = facts.intensities
    inside = image[0][label[0] > 0]
    assert first.statistics()["mean"] == pytest.approx(inside.mean(dtype=np.float64))
    assert first.statistics()["max"] == inside.max()
    assert len(first.values) == len(np.unique(inside))
    assert second.values.tolist() == [0]


def test_a_case_without_foreground():
    image, label = arrays()
    facts = CaseFacts.of(stored(image), stored(np.zeros_like(label)))
    assert facts.label_voxels == {0: np.prod(SHAPE)}
    assert [len(one.values) for one in facts.intensities] == [0, 0]


def test_foreground_outside_the_nonzero_box_does_not_count():
    # as in nnU-Net, whose intensities are those after the crop
    image, label = arrays()
    inside = CaseFacts.of(stored(image), stored(label)).intensities[0]
    label[0, 11, 8, 6] = 1
    facts = CaseFacts.of(stored(image), stored(label))
    assert facts.label_voxels[1] == 27
    np.testing.assert_array_equal(facts.intensities[0].values, inside.values)
    np.testing.assert_array_equal(facts.intensities[0].weights, inside.weights)


def test_label_values_are_rounded():
    image, label = arrays()
    facts = CaseFacts.of(stored(image), stored(label * np.float32(0.99999)))
    assert facts.label_voxels == {0: np.prod(SHAPE) - 27, 1: 26, 255: 1}


@pytest.mark.parametrize("empty", [False, True], ids=["foreground", "no foreground"])
def test_facts_are_saved_and_read_back(tmp_path: Path, empty: bool):
    image, label = arrays()
    facts = CaseFacts.of(stored(image, "PSR"), stored(label * (not empty), "PSR"))
    notes = {"digest": "abc", "findings": [{"case": "a"}]}
    with (tmp_path / "facts.npz").open("wb") as file:
        facts.save(file, notes)
    again, read_notes = CaseFacts.load(tmp_path / "facts.npz")
    assert read_notes == notes
    for name in ("shape", "shape_after_crop", "spacing_mm", "label_voxels", "relative_size"):
        assert getattr(again, name) == getattr(facts, name)
    assert len(again.intensities) == 2
    for one, other in zip(again.intensities, facts.intensities, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.weights, other.weights)
        assert (one.lowest, one.highest) == (other.lowest, other.highest)


# --- the box


def test_the_box_around_single_voxels():
    volume = np.zeros((2, 6, 5, 4))
    volume[0, 1, 2, 3] = 5
    assert nonzero_box(volume) == (slice(1, 2), slice(2, 3), slice(3, 4))
    volume[1, 4, 0, 3] = -1
    assert nonzero_box(volume) == (slice(1, 5), slice(0, 3), slice(3, 4))


def test_the_box_of_a_volume_full_or_empty_is_the_volume():
    whole = (slice(0, 6), slice(0, 5), slice(0, 4))
    assert nonzero_box(np.ones((1, 6, 5, 4))) == whole
    assert nonzero_box(np.zeros((1, 6, 5, 4))) == whole


def test_ignored_voxels_are_not_foreground():
    image, label = arrays()
    label[0, 3] = 1  # a whole plane of the image's box
    ignoring = label.copy()
    ignoring[0, 6:8] = 9
    facts = CaseFacts.of(stored(image), stored(ignoring), 9)
    assert facts.label_voxels == {
        0: int((ignoring == 0).sum()),
        1: int((ignoring == 1).sum()),
        255: 1,
    }
    expected = CaseFacts.of(stored(image), stored(np.where(ignoring == 9, 0, ignoring)))
    for one, other in zip(facts.intensities, expected.intensities, strict=True):
        assert one.statistics() == other.statistics()

"""All problems of a case are found; the tests of ``CheckCased`` show that preprocessing refuses them."""

import re
from collections.abc import Sequence

import numpy as np
import pytest

from dynunet_bundle.images.read import Volume
from dynunet_bundle.survey.problems import find_problems

SHAPE = (12, 10, 8)


def problems_of(
    image: np.ndarray,
    label: np.ndarray | None,
    num_channels: int | None,
    label_values: Sequence[int] | None,
    affine: np.ndarray | None = None,
) -> list[str]:
    place = np.eye(4) if affine is None else affine
    volumes = Volume(image, place), None if label is None else Volume(label, place)
    return [problem for problem, _ in find_problems(*volumes, num_channels, label_values)]


def good_image() -> np.ndarray:
    return np.random.default_rng(0).random((1, *SHAPE)).astype(np.float32)


def good_label() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, (1, *SHAPE)).astype(np.float32)


def test_all_problems_of_a_case_are_listed_at_once():
    image, label = good_image(), good_label()
    image[0, 0, 0, 0] = np.nan
    label[0, 0, 0, 0] = 9
    flat = np.diag([1.0, 1.0, 0.0, 1.0])
    problems = problems_of(image, label, 2, [0, 1, 2], flat)
    words = ("affine of its image", "1 channel", "1 NaN", "affine of its label", "9 (1 voxel)")
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_arrays_of_any_type(dtype: type):
    image = (good_image() * 100).astype(dtype)
    assert problems_of(image, good_label().astype(dtype), 1, [0, 1, 2]) == []
    (problem,) = problems_of(image, good_label().astype(dtype), 1, [0, 1])
    assert re.fullmatch(r"its label .*listed: 2 \(\d+ voxels\); expected: 0 to 1", problem)


def unnamed(label: np.ndarray) -> list[str]:
    """Problems of a label if channels and labels are unknown."""
    return problems_of(good_image(), label, None, None)


def test_any_few_whole_numbers_may_be_labels():
    assert unnamed(good_label() * 100) == []
    assert unnamed(np.zeros((1, *SHAPE), np.float32)) == []


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1, "different values from -1 to 2"),
        (1.4, "not whole numbers"),
        (np.nan, r"nan \(1 voxel\); expected: 0 to 2"),
        (np.inf, r"inf \(1 voxel\); expected: 0 to 2"),
    ],
)
def test_what_cannot_be_a_label(value: float, words: str):
    label = good_label()
    label[0, 0, 0, 0] = value
    (problem,) = unnamed(label)
    assert re.search(words, problem)


def test_too_many_values_for_labels():
    label = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(1, *SHAPE) % 65
    assert unnamed(label) == ["its label has 65 different values from 0 to 64"]
    assert unnamed(np.minimum(label, 63)) == []

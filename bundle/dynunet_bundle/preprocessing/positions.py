"""Voxel positions to centre patches on, drawn once when a case is prepared."""

import hashlib
import os

import numpy as np

from dynunet_bundle.labels.scheme import IGNORE_CLASS

POSITIONS_PER_CLASS = 4096
"""Number of positions drawn per class and case: 24 KiB per class on disk."""


def sample_positions(
    label: np.ndarray, num_classes: int, name: str
) -> tuple[np.ndarray, list[int]]:
    """Draw voxels of each class to centre patches on; every preparation draws the same ones.

    Args:
        label: ``[1, D, H, W]``; ``IGNORE_CLASS`` does not count as a class.
        num_classes: labels including the background.
        name: case name, the seed of the draw.

    Returns:
        ``[num_classes - 1, K, 3]`` int16 voxel indices, drawn with replacement (zeros for an absent class), and the
        foreground classes that are present.
    """
    rng = _generator(name)
    flat, shape = label.reshape(-1), label.shape[1:]
    foreground = np.flatnonzero((flat > 0) & (flat != IGNORE_CLASS))
    classes = flat[foreground]
    positions = np.zeros((num_classes - 1, POSITIONS_PER_CLASS, len(shape)), np.int16)
    present = []
    for value in range(1, num_classes):
        voxels = foreground[classes == value]
        if len(voxels):
            present.append(value)
            positions[value - 1] = _draw(voxels, shape, rng)
    return positions, present


def sample_labelled(label: np.ndarray, name: str) -> np.ndarray | None:
    """Draw labelled voxels, background included.

    nnU-Net centres its random patches on them (``data_loader.py``), so that no patch consists of ignored voxels only.

    Args:
        label: ``[1, D, H, W]``; unlabelled voxels are ``IGNORE_CLASS``.
        name: case name, the seed of the draw.

    Returns:
        ``[1, K, 3]`` int16 voxel indices, or None if all voxels or no voxels are ignored.
    """
    labelled = np.flatnonzero(label != IGNORE_CLASS)
    if len(labelled) in (0, label.size):
        return None
    return _draw(labelled, label.shape[1:], _generator(name))[np.newaxis]


def _generator(name: str) -> np.random.Generator:
    seed = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "little")
    return np.random.Generator(np.random.Philox(key=seed))


def _draw(voxels: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw from voxels given by flat indices; the result is ``[K, 3]`` int16 indices."""
    drawn = voxels[rng.integers(len(voxels), size=POSITIONS_PER_CLASS)]
    return np.stack(np.unravel_index(drawn, shape), axis=1).astype(np.int16)

"""Interpolation and blur on a CPU, axis by axis, in numpy and torch; faster than DALI's CPU kernels.

A tap is a pair of arrays with, for each output voxel of an axis, the index of an input voxel and its weight.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

Taps = list[tuple[np.ndarray, np.ndarray]]


def linear_taps(positions: np.ndarray, length: int) -> Taps:
    """Two taps for linear interpolation at positions ``[n]`` on an axis of at least two voxels."""
    # rounding may move a position on the border outside
    first = np.floor(positions).clip(0, length - 2)
    after = (positions - first).astype(np.float32)
    index = first.astype(np.intp)
    return [(index, 1 - after), (index + 1, after)]


def cubic_taps(positions: np.ndarray, length: int) -> Taps:
    """Four taps of cubic convolution (Keys 1981, a = -0.5; as DALI's ``INTERP_CUBIC``); at least four voxels."""
    first = np.floor(positions).clip(1, length - 3)
    index = first.astype(np.intp)
    taps = []
    for step in (-1, 0, 1, 2):
        t = np.abs(positions - first - step)
        near = (1.5 * t - 2.5) * t**2 + 1
        far = ((-0.5 * t + 2.5) * t - 4) * t + 2
        taps.append((index + step, np.where(t <= 1, near, far).astype(np.float32)))
    return taps


@lru_cache(maxsize=1024)
def low_resolution_taps(length: int, low: int) -> Taps:
    """Two taps that reduce an axis to fewer voxels (nearest) and restore its length (linear) in one step.

    The voxel centres of the two grids are aligned as in DALI's ``resize`` and torch's ``nearest-exact``.
    """
    # floor((j + 0.5) * length / low) in integers; of two equally near voxels the upper one
    nearest = (2 * np.arange(low) + 1) * length // (2 * low)
    positions = ((np.arange(length) + 0.5) * low / length - 0.5).clip(0, low - 1)
    (below, less), (above, more) = linear_taps(positions, low + 1)
    return [(nearest[below], less), (nearest[np.minimum(above, low - 1)], more)]


def resampled(image: np.ndarray, taps: Sequence[Taps | None]) -> np.ndarray:
    """Apply taps along the last axes of an image.

    Args:
        image: float32.
        taps: taps of each of the last axes; None leaves an axis unchanged.

    Returns:
        A new array, unless all taps are None.
    """
    for axis, of_axis in enumerate(taps, start=image.ndim - len(taps)):
        if of_axis is None:
            continue
        shape = (-1, *(1,) * (image.ndim - 1 - axis))
        result = None
        for index, weight in of_axis:
            part = taken(image, index, axis)
            part *= weight.reshape(shape)
            result = part if result is None else np.add(result, part, out=result)
        assert result is not None  # noqa: S101 - an axis has taps
        image = result
    return image


def taken(array: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """Like ``array.take(index, axis)``; on the last axis of float32 it uses torch, which is faster."""
    if axis < array.ndim - 1 or array.dtype != np.float32:
        return array.take(index, axis)
    writeable = np.require(array, requirements="W")
    return torch.index_select(torch.from_numpy(writeable), axis, torch.from_numpy(index)).numpy()


@lru_cache(maxsize=64)
def mirrored_index(length: int, radius: int) -> np.ndarray:
    """Indices of an axis extended by ``radius`` voxels on both sides, mirrored about the outermost voxel centres."""
    period = max(2 * (length - 1), 1)
    index = np.abs(np.arange(-radius, length + radius)) % period
    return np.where(index > length - 1, period - index, index)


def blurred(channel: np.ndarray, sigma: Sequence[float]) -> np.ndarray:
    """Blur with a normalised Gaussian truncated at three sigmas, mirrored at the borders, like DALI's.

    Args:
        channel: ``[*spatial]`` float32.
        sigma: standard deviation along each axis, in voxels.

    Returns:
        A new array.
    """
    for axis, deviation in enumerate(sigma):
        radius = math.ceil(np.float32(3) * np.float32(deviation))
        length = channel.shape[axis]
        weights = np.exp(-0.5 * (np.arange(radius + 1) / deviation) ** 2)
        weights = (weights / (weights[0] + 2 * weights[1:].sum())).astype(np.float32)
        wide = taken(channel, mirrored_index(length, radius), axis)
        views = np.moveaxis(wide, axis, 0)
        result = np.empty_like(channel)
        target = np.moveaxis(result, axis, 0)
        np.multiply(views[radius : radius + length], weights[0], out=target)
        pair = np.empty_like(channel)
        both = np.moveaxis(pair, axis, 0)
        for step in range(1, radius + 1):
            before = views[radius - step : radius - step + length]
            np.add(before, views[radius + step : radius + step + length], out=both)
            pair *= weights[step]
            result += pair
        channel = result
    return channel

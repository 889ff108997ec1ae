"""Reference implementation of each augmentation in numpy, scipy and torch, in float64, channel by channel.

Sources: nnU-Net v2 as installed (batchgeneratorsv2 0.3.6) for contrast, low resolution and gamma, NVIDIA's DALI
documentation for the blur's radius and for ``brightness_contrast``, Keys 1981 (a = -0.5) for the cubic kernel.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch.nn.functional import interpolate


def positions(matrix: np.ndarray, start: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """``[3, *size]``: coordinates in the volume of each voxel of a patch."""
    half = (np.array(size) - 1) / 2
    offsets = np.indices(tuple(size)).reshape(3, -1) - half[:, np.newaxis]
    return (matrix @ offsets + (start + half)[:, np.newaxis]).reshape(3, *size)


def linear(volume: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Linear interpolation of ``[C, D, H, W]``, zero outside."""
    return np.stack(
        [map_coordinates(c, where, order=1, mode="grid-constant") for c in volume.astype(float)]
    )


def cubic(volume: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Cubic convolution along the axes, zero outside; ``where`` must not be rotated."""
    result = volume.astype(float)
    for axis, size in enumerate(volume.shape[1:]):
        along = np.moveaxis(where[axis], axis, 0)
        assert np.ptp(along.reshape(len(along), -1), axis=1).max() < 1e-9
        t = np.abs(along.reshape(len(along), -1)[:, :1] - np.arange(size))
        near = 1.5 * t**3 - 2.5 * t**2 + 1
        far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        weights = np.where(t <= 1, near, np.where(t < 2, far, 0))
        result = np.moveaxis(np.tensordot(weights, result, (1, axis + 1)), 0, axis + 1)
    return result


def nearest(label: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The label of the nearest voxel, 0 outside, -1 if two distances differ by less than 0.01."""
    found = np.stack([map_coordinates(c, where, order=0, mode="grid-constant") for c in label])
    tie = (np.abs(where - np.floor(where) - 0.5) < 0.01).any(axis=0)
    return np.where(tie, -1, found.astype(int))


def noise(image: np.ndarray, drawn: SimpleNamespace) -> np.ndarray:
    return image + drawn.noise


def blur(image: np.ndarray, drawn: SimpleNamespace) -> np.ndarray:
    return np.stack(
        [
            gaussian_filter(c, sigma, mode="mirror", radius=np.ceil(3 * sigma).astype(int).tolist())
            if wanted
            else c
            for c, wanted, sigma in zip(image, drawn.blur_channels, drawn.blur_sigma, strict=True)
        ]
    )


def brightness(image: np.ndarray, drawn: SimpleNamespace) -> np.ndarray:
    return np.stack(
        [
            c * float(factor) + float(summand)
            for c, factor, summand in zip(
                image, drawn.scale.ravel(), drawn.shift.ravel(), strict=True
            )
        ]
    )


def contrast(image: np.ndarray, drawn: SimpleNamespace) -> np.ndarray:
    return np.stack(
        [
            np.clip((c - c.mean()) * float(factor) + c.mean(), c.min(), c.max())
            for c, factor in zip(image, drawn.contrast.ravel(), strict=True)
        ]
    )


def low_resolution(image: np.ndarray, drawn: SimpleNamespace) -> np.ndarray:
    mode = {2: "bilinear", 3: "trilinear"}[image.ndim - 1]

    def lowered(channel: np.ndarray, size: np.ndarray) -> np.ndarray:
        whole = torch.from_numpy(channel)[None, None]
        small = interpolate(whole, size.astype(int).tolist(), mode="nearest-exact")
        return interpolate(small, channel.shape, mode=mode, align_corners=False)[0, 0].numpy()

    wanted = zip(image, drawn.low_channels, drawn.low_size, strict=True)
    return np.stack([lowered(c, size) if low else c for c, low, size in wanted])


def _gamma(image: np.ndarray, exponents: np.ndarray, inverted: bool) -> np.ndarray:
    sign = -1.0 if inverted else 1.0
    result = []
    for channel, exponent in zip(image, exponents.ravel(), strict=True):
        x = sign * torch.from_numpy(channel)
        mean, deviation = x.mean(), x.std()
        low, span = x.min(), x.max() - x.min()
        y = ((x - low) / span.clamp(min=1e-7)) ** float(exponent) * span + low
        y = (y - y.mean()) * (deviation / y.std().clamp(min=1e-7)) + mean
        result.append((sign * y).numpy())
    return np.stack(result)


def gamma_inverted(image: np.ndarray, drawn: SimpleNamespace) -> np.ndarray:
    return _gamma(image, drawn.gamma_inverted, True)


def gamma(image: np.ndarray, drawn: SimpleNamespace) -> np.ndarray:
    return _gamma(image, drawn.gamma, False)


STEPS: dict[str, Callable[[np.ndarray, SimpleNamespace], np.ndarray]] = {
    "has_noise": noise,
    "has_blur": blur,
    "has_linear": brightness,
    "has_contrast": contrast,
    "has_low_resolution": low_resolution,
    "has_gamma_inverted": gamma_inverted,
    "has_gamma": gamma,
}
"""In nnU-Net's order, by the flag that asks for them."""


def recoloured(image: np.ndarray, drawn: SimpleNamespace) -> np.ndarray:
    """Apply all drawn intensity augmentations."""
    result = image.astype(float)
    for flag, step in STEPS.items():
        if getattr(drawn, flag):
            result = step(result, drawn)
    return result


def mirrored(volume: np.ndarray, drawn: SimpleNamespace) -> np.ndarray:
    return np.flip(volume, [1 + axis for axis, flip in enumerate(drawn.flips) if flip])

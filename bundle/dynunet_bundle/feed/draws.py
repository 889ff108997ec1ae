"""What is drawn for one sample: all numbers, in numpy, so that the graph only applies them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynunet_bundle.feed.augmentation import Augmentation


@dataclass(frozen=True)
class Draw:
    """Intensities and mirroring of one sample, as arrays that DALI takes; ``C`` channels, ``d`` spatial axes.

    The fields are the outputs of the source in this order, after image, label and map.

    Attributes:
        has_noise: bool.
        noise: values to add, shape of the patch float32; one zero where not drawn.
        has_blur: bool.
        blur_channels: ``[C]`` bool, which are blurred.
        blur_sigma: ``[C, d]`` float32, voxels.
        has_linear: bool: brightness, or NVIDIA's brightness and contrast.
        scale: factors, ``[C, 1, ...]`` float32.
        shift: summands, likewise.
        has_contrast: bool.
        contrast: factors, likewise.
        has_low_resolution: bool.
        low_channels: ``[C]`` bool, which lose resolution.
        low_size: ``[C, d]`` float32, whole voxels.
        has_gamma_inverted: bool.
        gamma_inverted: exponents, ``[C, 1, ...]`` float32.
        has_gamma: bool.
        gamma: exponents, likewise.
        flips: ``[d]`` int32, 1 where the axis is mirrored.
    """

    has_noise: np.ndarray
    noise: np.ndarray
    has_blur: np.ndarray
    blur_channels: np.ndarray
    blur_sigma: np.ndarray
    has_linear: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    has_contrast: np.ndarray
    contrast: np.ndarray
    has_low_resolution: np.ndarray
    low_channels: np.ndarray
    low_size: np.ndarray
    has_gamma_inverted: np.ndarray
    gamma_inverted: np.ndarray
    has_gamma: np.ndarray
    gamma: np.ndarray
    flips: np.ndarray


class _Numbers:
    """Uniform numbers from 0 to 1, drawn at once: numpy's calls cost more than its numbers."""

    def __init__(self, rng: np.random.Generator, channels: int, dims: int) -> None:
        self._values = rng.random(16 + channels * (12 + dims) + dims)
        self._place = 0

    def take(self, count: int) -> np.ndarray:
        """The next ones, whether they are used or not: what is drawn later does not depend on what came before."""
        self._place += count
        assert self._place <= len(self._values)  # noqa: S101 - cannot happen
        return self._values[self._place - count : self._place]

    def hit(self, probability: float) -> bool:
        """Whether something of this probability happens."""
        return bool(self.take(1)[0] < probability)

    def between(self, limits: tuple[float, float]) -> float:
        """A number from a range."""
        return float(_stretched(self.take(1), limits)[0])


def draw(
    augmentation: Augmentation,
    patch_shape: Sequence[int],
    in_plane: bool,
    rng: np.random.Generator,
    noise_rng: np.random.Generator | None = None,
) -> Draw:
    """Draw intensities and mirroring of one sample.

    Args:
        augmentation: the declaration.
        patch_shape: ``(C, *spatial)``.
        in_plane: whether the patch is anisotropic: then it keeps its resolution along the first of three axes.
        rng: the sample's own generator.
        noise_rng: generator of the noise, where samples share all the rest.
    """
    channels, spatial = patch_shape[0], patch_shape[1:]
    dims = len(spatial)
    numbers = _Numbers(rng, channels, dims)
    has_noise = numbers.hit(augmentation.prob("noise"))
    std = numbers.between(augmentation.setting("noise", "std", (0, 0)))
    has_blur, blurred, sigma = _blur(augmentation, channels, dims, numbers)
    has_linear, scale, shift = _linear(augmentation, channels, numbers)
    has_contrast, contrast = _factors(augmentation, "contrast", "factor", channels, numbers)
    has_low, lowered, low_size = _low_resolution(augmentation, channels, spatial, in_plane, numbers)
    has_inverted, inverted = _factors(augmentation, "gamma_inverted", "gamma", channels, numbers)
    has_gamma, gamma = _factors(augmentation, "gamma", "gamma", channels, numbers)
    mirrored = numbers.take(dims) < augmentation.prob("mirror")
    axes = augmentation.setting("mirror", "axes", ())
    flips = [int(mirrored[axis] and axis in axes) for axis in range(dims)]
    noise = np.zeros((1,) * (dims + 1), np.float32)
    if has_noise:
        noise = (noise_rng or rng).standard_normal(tuple(patch_shape), dtype=np.float32)
        noise *= np.float32(std)
    flat = (channels, *(1,) * dims)
    return Draw(
        np.array(has_noise),
        noise,
        np.array(has_blur),
        blurred,
        sigma,
        np.array(has_linear),
        scale.reshape(flat),
        shift.reshape(flat),
        np.array(has_contrast),
        contrast.reshape(flat),
        np.array(has_low),
        lowered,
        low_size,
        np.array(has_inverted),
        inverted.reshape(flat),
        np.array(has_gamma),
        gamma.reshape(flat),
        np.array(flips, np.int32),
    )


def _stretched(numbers: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    low, high = limits
    return low + (high - low) * numbers


def _blur(
    augmentation: Augmentation, channels: int, dims: int, numbers: _Numbers
) -> tuple[bool, np.ndarray, np.ndarray]:
    drawn = numbers.hit(augmentation.prob("blur"))
    blurred = numbers.take(channels) < augmentation.setting("blur", "channel_prob", 0)
    places = numbers.take(channels * dims).reshape(channels, dims)
    if not (drawn and blurred.any()):
        return False, np.zeros(channels, bool), np.ones((channels, dims), np.float32)
    sigma = _stretched(places, augmentation.kinds["blur"]["sigma"])
    if not augmentation.kinds["blur"]["per_axis"]:
        sigma[:] = sigma[0, 0]
    return True, blurred, sigma.astype(np.float32)


def _linear(
    augmentation: Augmentation, channels: int, numbers: _Numbers
) -> tuple[bool, np.ndarray, np.ndarray]:
    """``x * scale + shift`` of brightness, then of NVIDIA's brightness and contrast."""
    bright, scale = _factors(augmentation, "brightness", "factor", channels, numbers)
    shift = np.zeros(channels, np.float32)
    both = numbers.hit(augmentation.prob("brightness_contrast"))
    brightness = numbers.between(augmentation.setting("brightness_contrast", "brightness", (1, 1)))
    contrast = numbers.between(augmentation.setting("brightness_contrast", "contrast", (1, 1)))
    if both:
        center = augmentation.kinds["brightness_contrast"]["center"]
        scale = scale * np.float32(brightness * contrast)
        shift = shift + np.float32(brightness * center * (1 - contrast))
    return bright or both, scale, shift


def _low_resolution(
    augmentation: Augmentation,
    channels: int,
    spatial: Sequence[int],
    in_plane: bool,
    numbers: _Numbers,
) -> tuple[bool, np.ndarray, np.ndarray]:
    drawn = numbers.hit(augmentation.prob("low_resolution"))
    lowered = numbers.take(channels) < augmentation.setting("low_resolution", "channel_prob", 0)
    places = numbers.take(channels)
    if not (drawn and lowered.any()):
        whole = np.tile(np.array(spatial, np.float32), (channels, 1))
        return False, np.zeros(channels, bool), whole
    zoom = _stretched(places, augmentation.kinds["low_resolution"]["zoom"])
    size = np.maximum(np.rint(zoom[:, np.newaxis] * np.array(spatial)), 1)
    if in_plane and len(spatial) == 3:  # noqa: PLR2004 - a 2D patch is all plane
        size[:, 0] = spatial[0]
    return True, lowered, size.astype(np.float32)


def _factors(
    augmentation: Augmentation, kind: str, setting: str, channels: int, numbers: _Numbers
) -> tuple[bool, np.ndarray]:
    """One factor a channel: as often below 1 as above, wherever 1 lies in the range (nnU-Net's BGContrast).

    Returns:
        Whether the kind was drawn, and factors ``[C]`` float32, all 1 where it was not.
    """
    drawn = numbers.hit(augmentation.prob(kind))
    sides, places = numbers.take(channels), numbers.take(channels)
    if not drawn:
        return False, np.ones(channels, np.float32)
    low, high = augmentation.kinds[kind][setting]
    middle = min(max(low, 1.0), high)
    shrink = sides < (0.5 if low < middle < high else middle == high)
    below, above = _stretched(places, (low, middle)), _stretched(places, (middle, high))
    return True, np.where(shrink, below, above).astype(np.float32)

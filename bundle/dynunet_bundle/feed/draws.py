"""Random parameters of one sample. All numbers are drawn here; the code that computes only applies them.

The numbers of a sample come from its own generator, in blocks of fixed length, and are scaled in plain Python: for a
few numbers, numpy's call overhead exceeds the arithmetic.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dynunet_bundle.feed.augmentation import Augmentation

Normal = Callable[[tuple[int, ...]], np.ndarray]
"""Function that returns standard normal values, float32, of a given shape."""

YES, NO = np.array(True), np.array(False)


@dataclass(frozen=True)
class Draw:
    """Intensity parameters and mirroring of one sample, as arrays for DALI; ``C`` channels, ``d`` spatial axes.

    The fields are outputs of the source in this order, after image, label, kind and window. Samples share the arrays
    of parameters that were not drawn.

    Attributes:
        has_noise: bool.
        noise: values to add, float32, shape of the patch; a single zero if not drawn.
        has_blur: bool.
        blur_channels: ``[C]`` bool, the channels to blur.
        blur_sigma: ``[C, d]`` float32, voxels.
        has_linear: bool: brightness, or NVIDIA's brightness and contrast.
        scale: factors, ``[C, 1, ...]`` float32.
        shift: values to add, ``[C, 1, ...]`` float32.
        has_contrast: bool.
        contrast: factors, ``[C, 1, ...]`` float32.
        has_low_resolution: bool.
        low_channels: ``[C]`` bool, the channels to reduce.
        low_size: ``[C, d]`` float32, whole voxels.
        has_gamma_inverted: bool.
        gamma_inverted: exponents, ``[C, 1, ...]`` float32.
        has_gamma: bool.
        gamma: exponents, ``[C, 1, ...]`` float32.
        flips: ``[d]`` int32, 1 for each mirrored axis.
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


class Numbers:
    """Uniform numbers from 0 to 1, drawn at once and used one after another.

    Each caller takes a fixed number of them, needed or not, so that later draws do not depend on earlier ones.

    Args:
        rng: random generator.
        count: how many numbers to draw.
    """

    def __init__(self, rng: np.random.Generator, count: int) -> None:
        self._values = rng.random(count).tolist()
        self._place = 0

    def take(self, count: int) -> list[float]:
        """The next ``count`` numbers."""
        self._place += count
        assert self._place <= len(self._values)  # noqa: S101 - cannot happen
        return self._values[self._place - count : self._place]

    def next(self) -> float:
        """The next number."""
        self._place += 1
        return self._values[self._place - 1]

    def hit(self, probability: float) -> bool:
        """True with this probability."""
        return self.next() < probability

    def between(self, limits: tuple[float, float]) -> float:
        """A uniform number from a range."""
        return stretched(self.next(), limits)

    def index(self, count: int) -> int:
        """An integer below ``count``; with 53 random bits the bias is negligible for a few thousand."""
        return int(self.next() * count)


def stretched(number: float, limits: tuple[float, float]) -> float:
    """Map a number from [0, 1] to a range."""
    low, high = limits
    return low + (high - low) * number


def draw(
    augmentation: Augmentation,
    patch_shape: tuple[int, ...],
    in_plane: bool,
    rng: np.random.Generator,
    normal: Normal,
) -> Draw:
    """Draw intensity parameters and mirroring of one sample.

    Args:
        augmentation: the declaration.
        patch_shape: ``(C, *spatial)``.
        in_plane: whether the patch is anisotropic; it then keeps its resolution along the first of three axes.
        rng: the sample's own generator.
        normal: source of the noise.
    """
    channels, spatial = patch_shape[0], patch_shape[1:]
    dims = len(spatial)
    numbers = Numbers(rng, 16 + channels * (12 + dims) + dims)
    drawn = dict(_nothing(channels, spatial))
    has_noise = numbers.hit(augmentation.prob("noise"))
    std = numbers.next()
    if has_noise:
        noise = normal(patch_shape)
        noise *= np.float32(stretched(std, augmentation.kinds["noise"]["std"]))
        drawn.update(has_noise=YES, noise=noise)
    drawn |= _blur(augmentation, channels, dims, numbers)
    drawn |= _linear(augmentation, channels, dims, numbers)
    drawn |= _factors(augmentation, "contrast", "factor", channels, dims, numbers)
    drawn |= _low_resolution(augmentation, channels, spatial, in_plane, numbers)
    drawn |= _factors(augmentation, "gamma_inverted", "gamma", channels, dims, numbers)
    drawn |= _factors(augmentation, "gamma", "gamma", channels, dims, numbers)
    mirrored = numbers.take(dims)
    if "mirror" in augmentation.kinds:
        prob, axes = augmentation.prob("mirror"), augmentation.kinds["mirror"]["axes"]
        flips = [number < prob and axis in axes for axis, number in enumerate(mirrored)]
        drawn["flips"] = np.array(flips, np.int32)
    return Draw(**drawn)


@lru_cache(maxsize=16)
def _nothing(channels: int, spatial: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The fields of a sample without any augmentation."""
    dims = len(spatial)
    flat = (channels, *(1,) * dims)
    none, ones = np.zeros(channels, bool), np.ones(flat, np.float32)
    return {
        "has_noise": NO,
        "noise": np.zeros((1,) * (dims + 1), np.float32),
        "has_blur": NO,
        "blur_channels": none,
        "blur_sigma": np.ones((channels, dims), np.float32),
        "has_linear": NO,
        "scale": ones,
        "shift": np.zeros(flat, np.float32),
        "has_contrast": NO,
        "contrast": ones,
        "has_low_resolution": NO,
        "low_channels": none,
        "low_size": np.tile(np.array(spatial, np.float32), (channels, 1)),
        "has_gamma_inverted": NO,
        "gamma_inverted": ones,
        "has_gamma": NO,
        "gamma": ones,
        "flips": np.zeros(dims, np.int32),
    }


def _blur(
    augmentation: Augmentation, channels: int, dims: int, numbers: Numbers
) -> dict[str, np.ndarray]:
    drawn = numbers.hit(augmentation.prob("blur"))
    coins, places = numbers.take(channels), numbers.take(channels * dims)
    if not drawn:
        return {}
    settings = augmentation.kinds["blur"]
    blurred = [coin < settings["channel_prob"] for coin in coins]
    if not any(blurred):
        return {}
    sigma = [stretched(place, settings["sigma"]) for place in places]
    if not settings["per_axis"]:
        sigma = sigma[:1] * len(sigma)
    return {
        "has_blur": YES,
        "blur_channels": np.array(blurred),
        "blur_sigma": np.array(sigma, np.float32).reshape(channels, dims),
    }


def _linear(
    augmentation: Augmentation, channels: int, dims: int, numbers: Numbers
) -> dict[str, np.ndarray]:
    """``x * scale + shift`` of brightness, then of NVIDIA's brightness and contrast."""
    bright = _factors(augmentation, "brightness", "factor", channels, dims, numbers)
    both = numbers.hit(augmentation.prob("brightness_contrast"))
    places = numbers.take(2)
    drawn = {"has_linear": YES, "scale": bright["brightness"]} if bright else {}
    if both:
        settings = augmentation.kinds["brightness_contrast"]
        brightness = stretched(places[0], settings["brightness"])
        contrast = stretched(places[1], settings["contrast"])
        before = drawn.get("scale", np.ones((channels, *(1,) * dims), np.float32))
        shift = np.float32(brightness * settings["center"] * (1 - contrast))
        drawn = {
            "has_linear": YES,
            "scale": before * np.float32(brightness * contrast),
            "shift": np.full_like(before, shift),
        }
    return drawn


def _low_resolution(
    augmentation: Augmentation,
    channels: int,
    spatial: Sequence[int],
    in_plane: bool,
    numbers: Numbers,
) -> dict[str, np.ndarray]:
    drawn = numbers.hit(augmentation.prob("low_resolution"))
    coins, places = numbers.take(channels), numbers.take(channels)
    if not drawn:
        return {}
    settings = augmentation.kinds["low_resolution"]
    lowered = [coin < settings["channel_prob"] for coin in coins]
    if not any(lowered):
        return {}
    zooms = [stretched(place, settings["zoom"]) for place in places]
    size = np.array([[max(round(zoom * voxels), 1) for voxels in spatial] for zoom in zooms])
    if in_plane and len(spatial) == 3:
        size[:, 0] = spatial[0]
    return {
        "has_low_resolution": YES,
        "low_channels": np.array(lowered),
        "low_size": size.astype(np.float32),
    }


def _factors(
    augmentation: Augmentation,
    kind: str,
    setting: str,
    channels: int,
    dims: int,
    numbers: Numbers,
) -> dict[str, np.ndarray]:
    """One factor per channel: below 1 and above 1 equally often, if 1 is in the range (nnU-Net's BGContrast).

    Returns:
        The flag and the factors ``[C, 1, ...]`` float32, under the name of the kind; empty if not drawn.
    """
    drawn = numbers.hit(augmentation.prob(kind))
    sides, places = numbers.take(channels), numbers.take(channels)
    if not drawn:
        return {}
    low, high = augmentation.kinds[kind][setting]
    middle = min(max(low, 1.0), high)
    share_below = 0.5 if low < middle < high else float(middle == high)
    below, above = (low, middle), (middle, high)
    factors = [
        stretched(place, below if side < share_below else above)
        for side, place in zip(sides, places, strict=True)
    ]
    return {
        f"has_{kind}": YES,
        kind: np.array(factors, np.float32).reshape(channels, *(1,) * dims),
    }

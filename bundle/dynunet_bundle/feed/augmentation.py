"""The declared augmentation, and the parameters drawn from it for one sample.

Which augmentations there are, their order and their ranges follow nnU-Net v2 (batchgeneratorsv2): noise,
brightness, contrast, mirror. All numbers are drawn here, in numpy; the DALI graph only applies them.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynunet_bundle.errors import ConfigError

SETTINGS = {
    "noise": ("prob", "std"),
    "brightness": ("prob", "factor"),
    "contrast": ("prob", "factor"),
    "mirror": ("prob", "axes"),
}


@dataclass(frozen=True)
class Augmentation:
    """What train.json declares under ``augmentation``; an absent entry is switched off.

    Attributes:
        noise_prob: share of samples with Gaussian noise.
        noise_std: range of its standard deviation, in units of the normalised image.
        brightness_prob: share of samples whose channels are multiplied.
        brightness_factor: range of the factor, drawn for each channel.
        contrast_prob: share of samples whose channels are stretched about their mean, within their old range.
        contrast_factor: range of the factor, drawn for each channel.
        mirror_prob: probability of a flip, for each of the axes.
        mirror_axes: spatial axes that may be flipped, 0 the first.
    """

    noise_prob: float = 0.0
    noise_std: tuple[float, float] = (0.0, 0.0)
    brightness_prob: float = 0.0
    brightness_factor: tuple[float, float] = (1.0, 1.0)
    contrast_prob: float = 0.0
    contrast_factor: tuple[float, float] = (1.0, 1.0)
    mirror_prob: float = 0.0
    mirror_axes: tuple[int, ...] = ()

    @classmethod
    def from_config(
        cls, config: Mapping[str, Mapping[str, Any]], spatial_dims: int
    ) -> "Augmentation":
        """Read the declaration ``{name: {"prob": p, setting: value}}``.

        Raises:
            ConfigError: for an unknown name or setting, a probability outside 0..1, a range that is no pair, or an
                axis that does not exist.
        """
        values: dict[str, Any] = {}
        for name, settings in config.items():
            _require_known(name, tuple(SETTINGS), "augmentation")
            if not isinstance(settings, Mapping):
                raise ConfigError(f"augmentation {name} is {settings!r}, not named settings.")
            for setting, value in settings.items():
                _require_known(setting, SETTINGS[name], f"setting of augmentation {name}")
                values[f"{name}_{setting}"] = _checked(name, setting, value, spatial_dims)
        return cls(**values)


@dataclass(frozen=True)
class Draw:
    """Parameters of one sample, as arrays that DALI takes; ``C`` channels, ``d`` spatial axes.

    Attributes:
        noise: standard normal values times their standard deviation, shape of the patch; one zero where not drawn.
        has_noise: whether noise was drawn.
        brightness: factors, ``[C, 1, ...]`` float32.
        has_brightness: whether they were drawn.
        contrast: factors, ``[C, 1, ...]`` float32.
        has_contrast: whether they were drawn.
        flips: ``[d]`` int32, 1 where the axis is mirrored.
    """

    noise: np.ndarray
    has_noise: np.ndarray
    brightness: np.ndarray
    has_brightness: np.ndarray
    contrast: np.ndarray
    has_contrast: np.ndarray
    flips: np.ndarray


def draw(augmentation: Augmentation, patch_shape: Sequence[int], rng: np.random.Generator) -> Draw:
    """Draw the parameters of one sample.

    Args:
        augmentation: the declaration.
        patch_shape: ``(C, *spatial)``.
        rng: the sample's own generator.
    """
    channels, dims = patch_shape[0], len(patch_shape) - 1
    has_noise = rng.random() < augmentation.noise_prob
    std = rng.uniform(*augmentation.noise_std)
    has_brightness = rng.random() < augmentation.brightness_prob
    brightness = _factors(augmentation.brightness_factor, channels, dims, rng)
    has_contrast = rng.random() < augmentation.contrast_prob
    contrast = _factors(augmentation.contrast_factor, channels, dims, rng)
    wanted = rng.random(dims) < augmentation.mirror_prob
    flips = [int(wanted[axis] and axis in augmentation.mirror_axes) for axis in range(dims)]
    noise = np.zeros((1,) * (dims + 1), np.float32)
    if has_noise:
        noise = rng.standard_normal(patch_shape, dtype=np.float32) * np.float32(std)
    return Draw(
        noise,
        np.array(has_noise),
        brightness,
        np.array(has_brightness),
        contrast,
        np.array(has_contrast),
        np.array(flips, np.int32),
    )


def _factors(
    limits: tuple[float, float], channels: int, dims: int, rng: np.random.Generator
) -> np.ndarray:
    """One factor a channel: as often below 1 as above, wherever 1 lies in the range (nnU-Net's BGContrast)."""
    low, high = limits
    middle = min(max(low, 1.0), high)
    shrink = rng.random(channels) < (0.5 if low < middle < high else middle == high)
    chosen = np.where(
        shrink, rng.uniform(low, middle, channels), rng.uniform(middle, high, channels)
    )
    return chosen.astype(np.float32).reshape(channels, *(1,) * dims)


def _require_known(name: str, known: Sequence[str], what: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else f" Known: {', '.join(known)}."
        raise ConfigError(f'"{name}" is no {what}.{hint}')


def _checked(name: str, setting: str, value: Any, spatial_dims: int) -> Any:
    if setting == "prob":
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ConfigError(f"augmentation {name}: prob is {value!r}, not a number from 0 to 1.")
        return float(value)
    items: Sequence[Any] = value if isinstance(value, (list, tuple)) else [None]
    if setting == "axes":
        if any(axis not in (0, 1, 2) for axis in items):
            raise ConfigError(f"augmentation {name}: axes are {value!r}, not from 0, 1, 2.")
        return tuple(axis for axis in items if axis < spatial_dims)
    numbers = all(isinstance(item, (int, float)) for item in items)
    if not numbers or len(items) != 2 or items[0] > items[1]:  # noqa: PLR2004 - a pair
        raise ConfigError(f"augmentation {name}: {setting} is {value!r}, not a pair low, high.")
    return (float(value[0]), float(value[1]))

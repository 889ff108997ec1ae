"""Declaration of the augmentation: kinds, settings, and their checks.

Kinds and order are those of nnU-Net v2 (nnunetv2 2.8.1 ``nnUNetTrainer.get_training_transforms`` and batchgeneratorsv2
0.3.6), and ``brightness_contrast`` of NVIDIA's nnU-Net example. The order of a declaration does not matter: a sample is
first rotated and scaled, then the intensity kinds follow as listed here, then it is mirrored. Changes of the previous
stage's mask are declared separately, so that a recipe can replace the augmentation without them.

Stored on disk: the names of kinds and settings, in configs, and hashes of declarations, in checkpoints.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynunet_bundle.errors import ConfigError

INTERPOLATIONS = ("linear", "cubic")
AXIS_NUMBERS = (0, 1, 2)
MAX_ANISOTROPY = 3
"""Largest ratio of in-plane to through-plane size of a patch that nnU-Net rotates in 3D; above, only in the plane."""
MAX_ELONGATION = 1.5
"""Largest ratio of the sides of a 2D patch that nnU-Net rotates fully; above, by at most 15 degrees."""


EPSILON = 1e-7
"""Smallest divisor of contrast and gamma; the same on GPU and CPU."""


@dataclass(frozen=True)
class Augmentation:
    """The ``augmentation`` of train.json; a kind that is absent is off.

    Attributes:
        kinds: settings by kind, complete and checked.
    """

    kinds: Mapping[str, Mapping[str, Any]]

    @classmethod
    def from_config(cls, config: Mapping[str, Mapping[str, Any]]) -> "Augmentation":
        """Read the declaration ``{kind: {"prob": p, setting: value}}``.

        Raises:
            ConfigError: for an unknown kind or setting, a missing setting, or an invalid value.
        """
        return cls._read(config, SETTINGS)

    @classmethod
    def of_masks(cls, config: Mapping[str, Mapping[str, Any]]) -> "Augmentation":
        """Read the declaration ``mask_augmentation``, in the same form."""
        return cls._read(config, MASK_SETTINGS)

    @classmethod
    def _read(
        cls, config: Mapping[str, Mapping[str, Any]], known: Mapping[str, Mapping[str, "Check"]]
    ) -> "Augmentation":
        kinds = {}
        for kind, settings in config.items():
            _require_known(kind, tuple(known), "augmentation")
            if not isinstance(settings, Mapping):
                raise ConfigError(
                    f'augmentation {kind} is {settings!r}. Give its settings by name, like {{"prob": 0.1}}.'
                )
            for setting in settings:
                _require_known(setting, tuple(known[kind]), f"setting of augmentation {kind}")
            complete = {**DEFAULTS.get(kind, {}), **settings}
            missing = [setting for setting in known[kind] if setting not in complete]
            if missing:
                raise ConfigError(f"augmentation {kind} lacks {', '.join(missing)}. Add it.")
            kinds[kind] = {
                setting: check(kind, setting, complete[setting])
                for setting, check in known[kind].items()
            }
        return cls(kinds)

    def prob(self, kind: str) -> float:
        """Probability that a sample gets an augmentation of this kind."""
        return float(self.kinds[kind]["prob"]) if kind in self.kinds else 0.0

    def setting(self, kind: str, name: str, absent: Any) -> Any:
        """A setting of a kind, or ``absent`` if the kind is not declared."""
        return self.kinds[kind][name] if kind in self.kinds else absent


def rotates_in_plane(patch_size: Sequence[int]) -> bool:
    """Whether rotation and scaling exclude the first axis: in 2D, and for anisotropic patches ("dummy 2D").

    Source: nnunetv2 ``configure_rotation_dummyDA_mirroring_and_inital_patch_size``.
    """
    flat = len(patch_size) == 2
    return flat or max(patch_size) / patch_size[0] > MAX_ANISOTROPY


def default_degrees(patch_size: Sequence[int]) -> tuple[float, float]:
    """Default range of rotation for a patch, in degrees; same source."""
    if not rotates_in_plane(patch_size):
        return -30.0, 30.0
    flat = len(patch_size) == 2
    if flat and max(patch_size) / min(patch_size) > MAX_ELONGATION:
        return -15.0, 15.0
    return -180.0, 180.0


def _require_known(name: str, known: Sequence[str], what: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else f" Known: {', '.join(known)}."
        if what == "augmentation":
            hint += " A transform of your own belongs in own_augmentation (docs/extending.md)."
        raise ConfigError(f'"{name}" is not a known {what}.{hint}')


Check = Callable[[str, str, Any], Any]


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number; Python's JSON parser also accepts NaN and Infinity."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _share(kind: str, setting: str, value: Any) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ConfigError(
            f"augmentation {kind}: {setting} is {value!r}. Give a number from 0 to 1."
        )
    return float(value)


def _range(lowest: float, highest: float, open_at_lowest: bool = False) -> Check:
    """A check for a pair [low, high] within limits."""

    def check(kind: str, setting: str, value: Any) -> tuple[float, float]:
        pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))
        if not pair or not value[0] <= value[1]:
            raise ConfigError(
                f"augmentation {kind}: {setting} is {value!r}. Give a pair [low, high]."
            )
        if value[0] < lowest or value[1] > highest or (open_at_lowest and value[0] == lowest):
            limits = f"{'above' if open_at_lowest else 'from'} {lowest:g}" + (
                "" if highest == float("inf") else f" to {highest:g}"
            )
            raise ConfigError(f"augmentation {kind}: {setting} is {value!r}. It must be {limits}.")
        return float(value[0]), float(value[1])

    return check


def _degrees(kind: str, setting: str, value: Any) -> tuple[float, float] | None:
    """A range in degrees, or None for nnU-Net's range for the patch."""
    return None if value is None else _range(-180, 180)(kind, setting, value)


def _axes(kind: str, setting: str, value: Any) -> tuple[int, ...]:
    items = value if isinstance(value, (list, tuple)) else [None]
    if any(axis not in AXIS_NUMBERS or isinstance(axis, bool) for axis in items):
        raise ConfigError(f"augmentation {kind}: {setting} is {value!r}. Give a list of 0, 1, 2.")
    return tuple(items)


def _one_of(*choices: Any) -> Check:
    def check(kind: str, setting: str, value: Any) -> Any:
        if value not in choices or type(value) is not type(choices[0]):
            names = " or ".join(map(repr, choices))
            raise ConfigError(f"augmentation {kind}: {setting} is {value!r}. Choose {names}.")
        return value

    return check


def _number(kind: str, setting: str, value: Any) -> float:
    if not _is_number(value):
        raise ConfigError(f"augmentation {kind}: {setting} is {value!r}. Give a number.")
    return float(value)


ANY_POSITIVE = _range(0, float("inf"), open_at_lowest=True)

SETTINGS: dict[str, dict[str, Check]] = {
    # degrees about each axis; null means nnU-Net's range for the patch
    "rotation": {"prob": _share, "degrees": _degrees},
    # above 1 objects get smaller; cubic applies to images that are scaled but not rotated
    "scaling": {"prob": _share, "factor": ANY_POSITIVE, "interpolation": _one_of(*INTERPOLATIONS)},
    # standard deviation, in units of the normalised image
    "noise": {"prob": _share, "std": _range(0, float("inf"))},
    # sigma in voxels, per axis or one for all; each channel is blurred with probability channel_prob
    "blur": {
        "prob": _share,
        "sigma": ANY_POSITIVE,
        "channel_prob": _share,
        "per_axis": _one_of(True, False),
    },
    # one factor per channel, below 1 and above 1 equally often
    "brightness": {"prob": _share, "factor": ANY_POSITIVE},
    # NVIDIA's example: per sample one factor for brightness and one for contrast, about a fixed center; uniform
    "brightness_contrast": {
        "prob": _share,
        "brightness": ANY_POSITIVE,
        "contrast": ANY_POSITIVE,
        "center": _number,
    },
    # about the mean of the channel, clipped to its old range; factors as for brightness
    "contrast": {"prob": _share, "factor": ANY_POSITIVE},
    # reduce each axis to this share of its voxels (nearest), then restore its size (linear)
    "low_resolution": {
        "prob": _share,
        "zoom": _range(0, 1, open_at_lowest=True),
        "channel_prob": _share,
    },
    # gamma of the inverted image; keeps mean and deviation of the channel; exponents drawn like brightness factors
    "gamma_inverted": {"prob": _share, "gamma": ANY_POSITIVE},
    "gamma": {"prob": _share, "gamma": ANY_POSITIVE},
    # each axis independently; 0 is the first
    "mirror": {"prob": _share, "axes": _axes},
}

MAX_RADIUS = 64.0
"""Largest radius of morphology, in voxels; its cost grows with the radius."""

MASK_SETTINGS: dict[str, dict[str, Check]] = {
    # dilation, erosion, closing or opening with a ball of this radius in voxels; each class with class_prob
    "morphology": {
        "prob": _share,
        "radius": _range(0, MAX_RADIUS, open_at_lowest=True),
        "class_prob": _share,
    },
    # one component of a class, below max_share of the patch, becomes background, or another class with refill_prob
    "removal": {
        "prob": _share,
        "max_share": _share,
        "class_prob": _share,
        "refill_prob": _share,
    },
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "rotation": {"degrees": None},
    "scaling": {"interpolation": "linear"},
    "blur": {"channel_prob": 1.0, "per_axis": True},
    "low_resolution": {"channel_prob": 1.0},
    "morphology": {"class_prob": 1.0},
    "removal": {"class_prob": 1.0, "refill_prob": 0.0},
}

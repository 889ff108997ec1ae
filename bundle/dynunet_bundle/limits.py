"""How large an image may be, and how far away: checked by its header, before memory is taken."""

import math
import os
from collections.abc import Sequence

import numpy as np

from dynunet_bundle.errors import CaseError, ConfigError

GIB = 1 << 30
MAX_GIB = 2.0
MAX_GIB_VARIABLE = "DYNUNET_MAX_IMAGE_GIB"

MAX_MM = 1e12
"""No voxel and no place is further than that, whatever unit a header takes for a millimetre."""

MAX_AXIS = 32767
"""Most voxels along an axis: MONAI's crops count them in int16."""

RESAMPLED_FACTOR = 8
"""How many times larger an image may become at the spacing of the plan: a header may claim voxels of a metre."""


def max_image_bytes() -> int:
    """Largest image that is read: 2 GiB, or what DYNUNET_MAX_IMAGE_GIB says.

    Raises:
        ConfigError: if that is no positive number.
    """
    text = os.environ.get(MAX_GIB_VARIABLE, str(MAX_GIB))
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise ConfigError(f'{MAX_GIB_VARIABLE}="{text}" is no positive number of GiB.')
    return int(min(limit, float(1 << 30)) * GIB)


def require_room(
    case: str,
    shape: Sequence[int],
    itemsize: int,
    max_bytes: int | None = None,
    promise: str = "its headers promise",
) -> None:
    """Refuse an image that is too large.

    Args:
        case: name of the case.
        shape: of the array, components of a voxel with it; of any signs.
        itemsize: bytes of a number.
        max_bytes: the limit; by default ``max_image_bytes``.
        promise: who says so.

    Raises:
        CaseError: with the sizes.
    """
    allowed = max_image_bytes() if max_bytes is None else max_bytes
    # integers of Python do not overflow
    size = abs(math.prod(map(int, shape))) * itemsize
    if size > allowed:
        raise CaseError(
            case,
            f"{promise} {'x'.join(map(str, shape))} voxels, {size / GIB:.3g} GiB; "
            f"{allowed / GIB:.3g} GiB are allowed",
            f"Set {MAX_GIB_VARIABLE} if it really is that large.",
        )


def require_axes(case: str, shape: Sequence[int]) -> None:
    """Refuse an image that is too long.

    Args:
        case: name of the case.
        shape: voxels by axis.

    Raises:
        CaseError: if an axis has more than ``MAX_AXIS`` voxels.
    """
    if max(shape) > MAX_AXIS:
        raise CaseError(
            case,
            f"it has {max(shape)} voxels along an axis; {MAX_AXIS} are possible",
            "Cut it into pieces.",
        )


def require_place(case: str, affine: np.ndarray) -> None:
    """Refuse a place that is none; whether its axes span a volume is for ``problems.py``.

    Args:
        case: name of the case.
        affine: ``[4, 4]``, from voxel indices to millimetres.

    Raises:
        CaseError: if a number is NaN, infinite or beyond ``MAX_MM``.
    """
    # NaN compares as false
    if not (np.abs(affine) <= MAX_MM).all():
        raise CaseError(
            case,
            f"its affine holds numbers that are no place: NaN, infinite or beyond {MAX_MM:g} mm",
            "Correct spacing, directions and origin in its header.",
        )

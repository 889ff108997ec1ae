"""Limits of image size and position, checked before memory is allocated."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from dynunet_bundle.errors import CaseError, ConfigError

GIB = 1 << 30
MAX_GIB = 2.0
MAX_GIB_VARIABLE = "DYNUNET_MAX_IMAGE_GIB"

MAX_MM = 1e12
"""Largest coordinate and voxel size in millimetres: beyond any unit that a header could have meant."""

MAX_AXIS = 32767
"""Maximum number of voxels along an axis: MONAI's crops count them in int16."""

RESAMPLED_FACTOR = 8
"""Largest growth of an image by resampling: a header may claim voxels of a metre."""


GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", ""),
    "memory": (
        *("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        "total_",
    ),
}
"""Control groups of version 2 and 1: their folder, the files of the limit and of what is taken, and what the names in
``memory.stat`` begin with."""


def max_image_bytes() -> int:
    """Size of the largest image that is read: 2 GiB, or the value of DYNUNET_MAX_IMAGE_GIB.

    Raises:
        ConfigError: if the value is not a positive number.
    """
    text = os.environ.get(MAX_GIB_VARIABLE, str(MAX_GIB))
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise ConfigError(f'{MAX_GIB_VARIABLE} is "{text}". Set it to a positive number of GiB.')
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
        shape: of the array, with the components of a voxel; signs are ignored.
        itemsize: bytes per number.
        max_bytes: the limit; by default ``max_image_bytes``.
        promise: start of the message, which says where the size comes from.

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


def require_memory(num_bytes: int, what: str) -> None:
    """Refuse to allocate more memory than is available, unless DYNUNET_MAX_IMAGE_GIB is set.

    Linux grants any amount, and kills the process when it uses it.

    Args:
        num_bytes: size of the allocation.
        what: its purpose, the subject of the message.

    Raises:
        MemoryError: with both sizes.
    """
    available = None if MAX_GIB_VARIABLE in os.environ else available_bytes()
    if available is not None and num_bytes > available:
        raise MemoryError(
            f"{what} takes {num_bytes / GIB:.3g} GiB; {available / GIB:.3g} GiB are available"
        )


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process can still allocate, by the machine, its control groups and its own limit.

    Args:
        root: folder of ``proc`` and ``sys``.

    Returns:
        The smallest of the three in bytes; None if the system reports none of them, as macOS.
    """
    found = [*_of_machine(root), *_of_groups(root), *_of_process(root)]
    return max(min(found), 0) if found else None


def _of_machine(root: Path) -> Iterator[int]:
    with suppress(OSError, KeyError, ValueError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        kib = {name: int(value.split()[0]) for name, _, value in (x.partition(":") for x in lines)}
        yield (kib["MemAvailable"] + kib["SwapFree"]) << 10


def _of_groups(root: Path) -> Iterator[int]:
    """Free memory of the control groups of this process; their file caches count as free."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controller, name = line.split(":", 2)
            if controller in GROUPS:
                top = root / GROUPS[controller][0]
                group = top / name.lstrip("/")
                for folder in (group, *group.parents):
                    if folder.is_relative_to(top):
                        yield from _of_group(folder, *GROUPS[controller][1:])


def _of_group(folder: Path, limit: str, taken: str, prefix: str) -> Iterator[int]:
    with suppress(OSError, ValueError):  # "max" is not a number
        left = int((folder / limit).read_text()) - int((folder / taken).read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        stat = {name: int(value) for name, value in map(str.split, lines)}
        yield left + sum(stat.get(f"{prefix}{name}_file", 0) for name in ("active", "inactive"))


def _of_process(root: Path) -> Iterator[int]:
    with suppress(ImportError, OSError):
        import resource  # Unix only

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int((root / "proc/self/statm").read_text().split()[0])
            yield limit - pages * resource.getpagesize()


def require_axes(case: str, shape: Sequence[int]) -> None:
    """Refuse an image with too many voxels along an axis.

    Args:
        case: name of the case.
        shape: voxels per axis.

    Raises:
        CaseError: if an axis has more than ``MAX_AXIS`` voxels.
    """
    if max(shape) > MAX_AXIS:
        raise CaseError(
            case,
            f"it has {max(shape)} voxels along an axis; the maximum is {MAX_AXIS}",
            "Cut it into pieces.",
        )


def require_place(case: str, affine: np.ndarray) -> None:
    """Refuse an affine with NaN, infinite or absurdly large numbers. ``problems.py`` checks for degenerate axes.

    Args:
        case: name of the case.
        affine: ``[4, 4]``, from voxel indices to millimetres.

    Raises:
        CaseError: if a number is NaN, infinite or larger than ``MAX_MM``.
    """
    # NaN compares as false
    if not (np.abs(affine) <= MAX_MM).all():
        raise CaseError(
            case,
            f"its affine has numbers that are NaN, infinite or larger than {MAX_MM:g} mm",
            "Correct spacing, directions and origin in its header.",
        )

"""Resize a volume of all classes, a few planes at a time.

All classes at the resolution of the file are the largest array of a prediction, tens of gigabytes for many classes.
Here only a few planes of it exist at a time, until the classes of their voxels are decided.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from dynunet_bundle.preprocessing.axis_matrix import nearest_indices

CHUNK_BYTES = {"cpu": 2**23, "cuda": 2**28}
"""Size in bytes of the planes that exist at a time: small enough for a CPU's cache, large enough to keep a GPU busy."""


def resized_planes(
    volume: torch.Tensor,
    shape: Sequence[int],
    coarse_axis: int | None = None,
    chunk_bytes: int | None = None,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Resize a volume linearly with its extent unchanged, a few planes at a time.

    The outer voxel edges of both grids coincide, not the centres; beyond the outer centres, values are constant. The
    result equals nnU-Net's export and ``preprocessing.resample.resize`` of order 1, whose matrices take four times as
    long for many classes.

    Args:
        volume: ``[C, D, H, W]``, any floating-point type, on any device.
        shape: target ``(D, H, W)``.
        coarse_axis: axis along which the nearest slice is taken, or None.
        chunk_bytes: largest size of a chunk, but at least one plane; None for the default of the device.

    Yields:
        The range of planes along the first axis, and their values ``[C, planes, H, W]`` float32.
    """
    depth, height, width = (int(size) for size in shape)
    limit = chunk_bytes or CHUNK_BYTES.get(volume.device.type, CHUNK_BYTES["cpu"])
    # a plane may be larger before it is resized
    area = max(height * width, volume.shape[2] * volume.shape[3])
    step = max(limit // (4 * len(volume) * area), 1)
    for start in range(0, depth, step):
        planes = slice(start, min(start + step, depth))
        chunk = _along_first(volume, depth, planes, nearest=coarse_axis == 0)
        yield planes, _in_plane(chunk, (height, width), coarse_axis)


def _along_first(volume: torch.Tensor, size: int, planes: slice, nearest: bool) -> torch.Tensor:
    """Planes ``[C, planes, h, w]`` float32 at the new positions along the first axis."""
    old = volume.shape[1]
    if old == size:
        return volume[:, planes].float()
    if nearest:
        return volume[:, _nearest(old, size, volume.device)[planes]].float()
    place = torch.arange(planes.start, planes.stop, dtype=torch.float64)
    place = ((place + 0.5) * (old / size) - 0.5).clamp(0, old - 1)
    below = place.floor().long()
    above = (below + 1).clamp_max(old - 1)
    share = (place - below).float().to(volume.device).view(1, -1, 1, 1)
    return torch.lerp(volume[:, below].float(), volume[:, above].float(), share)


def _in_plane(chunk: torch.Tensor, size: tuple[int, int], coarse_axis: int | None) -> torch.Tensor:
    """Resize each plane of ``[C, planes, h, w]``."""
    for axis in (1, 2):
        if coarse_axis == axis and chunk.shape[axis + 1] != size[axis - 1]:
            picked = _nearest(chunk.shape[axis + 1], size[axis - 1], chunk.device)
            chunk = chunk.index_select(axis + 1, picked)
    if chunk.shape[2:] == size:
        return chunk
    resized = F.interpolate(chunk.transpose(0, 1), size=size, mode="bilinear", align_corners=False)
    return resized.transpose(0, 1)


def _nearest(old: int, new: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(nearest_indices(old, new)).to(device)

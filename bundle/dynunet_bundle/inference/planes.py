"""A volume of all classes on another grid, a few planes at a time.

All classes at the resolution of the file are the largest array of a prediction, tens of gigabytes for many classes.
Here only some planes of it exist at once, as long as it takes to decide the class of their voxels.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from dynunet_bundle.preprocessing.axis_matrix import nearest_indices

CHUNK_BYTES = {"cpu": 2**23, "cuda": 2**28}
"""Size of the planes that exist at once: on a CPU they stay in its cache, on a GPU they keep it busy."""


def resized_planes(
    volume: torch.Tensor,
    shape: Sequence[int],
    coarse_axis: int | None = None,
    chunk_bytes: int | None = None,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Resize a volume linearly so that its extent stays in place, some planes at a time.

    Voxel edges coincide, not centres; beyond the outer centres values stay as they are. So it is the same as
    ``preprocessing.resample.resize`` of order 1, whose matrices take four times as long for many classes, and as
    nnU-Net's export.

    Args:
        volume: ``[C, D, H, W]``, any floating-point type, on any device.
        shape: wanted ``(D, H, W)``.
        coarse_axis: axis along which the nearest slice is taken, or None.
        chunk_bytes: least size of what is given at once, if there are so many planes.

    Yields:
        Planes along the first axis, and ``[C, planes, H, W]`` float32 of them.
    """
    depth, height, width = (int(size) for size in shape)
    limit = chunk_bytes or CHUNK_BYTES.get(volume.device.type, CHUNK_BYTES["cpu"])
    # before the plane is resized it may be the larger one
    area = max(height * width, volume.shape[2] * volume.shape[3])
    step = max(limit // (4 * len(volume) * area), 1)
    for start in range(0, depth, step):
        planes = slice(start, min(start + step, depth))
        chunk = _along_first(volume, depth, planes, nearest=coarse_axis == 0)
        yield planes, _in_plane(chunk, (height, width), coarse_axis)


def _along_first(volume: torch.Tensor, size: int, planes: slice, nearest: bool) -> torch.Tensor:
    """Planes ``[C, planes, h, w]`` float32 at the new places along the first axis."""
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

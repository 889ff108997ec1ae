"""Resampling to the target spacing and back, by nnU-Net's rules.

Arrays are ``[C, D, H, W]``. MONAI's ``Spacingd`` neither treats a coarse axis separately, nor resamples labels class
by class, nor keeps the extent (instead of the first voxel's centre) in place.

An image is resized slab by slab, along all axes (``axis_matrix.py``): memory beyond input and output is that of one
slab. Labels are resized in ``resample_label.py``.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils.enums import TraceKeys

from dynunet_bundle.dataset.cases import IMAGE, name_of
from dynunet_bundle.errors import CaseError
from dynunet_bundle.machine.limits import (
    RESAMPLED_FACTOR,
    max_image_bytes,
    require_memory,
    require_room,
)
from dynunet_bundle.preprocessing.axis_matrix import (
    LINEAR,
    axis_blocks,
    axis_order,
    multiply,
    nearest_indices,
)
from dynunet_bundle.preprocessing.resample_label import resize_label

ANISOTROPY_RATIO = 3
"""Ratio of the longest to the shortest voxel side above which nnU-Net resamples the longest axis separately."""

SPACING_TOLERANCE = 1e-6
"""Relative difference below which spacings are equal: ten times the rounding of a float32 header, and a tenth of the
1e-5 mm by which nnU-Net's planner deliberately makes one axis the coarsest."""

MAX_GROWTH = 1000
"""Times that an image may have more voxels at the plan's spacing. Slices of 10 mm with pixels of 1 mm have 370 times
more at 0.3 mm; a header in micrometres for millimetres, 1e9 times."""

MAX_FINENESS = 500
"""Times that voxels may be shorter than the plan's: 0.08 mm of a dental CT, 125 times for slices of 10 mm; a header in
metres for millimetres, 1000 times."""

IMAGE_ORDER = 3
"""Spline order for images: cubic."""

BLOCK_SIZE = 24
"""New voxels along an axis that are computed at once; 16 to 32 are equally fast, other sizes are slower."""


class ResampleToSpacingd(MapTransform, InvertibleTransform):
    """Resample to ``spacing`` and back to the exact grid: ``preprocessing`` of train.json and inference.json.

    Images are interpolated with cubic splines and keep their range of values; a voxel of a label gets the class with
    the largest share of it, interpolated linearly. Along a coarse axis (voxels more than three times longer than the
    shortest side) the nearest slice is taken. The inverse is always linear, because it resamples probabilities. The
    rules are nnU-Net's (Isensee et al. 2021; nnunetv2 2.8.1 ``preprocessing/resampling/default_resampling.py``).

    Args:
        keys: keys to resample, MetaTensors ``[C, D, H, W]``.
        spacing: mm per array axis; two values leave the first axis unchanged.
        is_label: for each key whether it holds labels.
        allow_missing_keys: as in MONAI.

    Raises:
        CaseError: if the voxels do not fit the spacing, or the result would be too large.
        MemoryError: if there is less memory than it takes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: Sequence[float],
        is_label: Sequence[bool] | bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing = tuple(float(value) for value in spacing)
        flags = [is_label] * len(self.keys) if isinstance(is_label, bool) else is_label
        self.is_label = tuple(flags)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample one case."""
        resampled = dict(data)
        for key, is_label in self.key_iterator(resampled, self.is_label):
            case = name_of({**resampled, IMAGE: resampled[key]})
            resampled[key] = self._forward(resampled[key], is_label, case)
        return resampled

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample one case from the resampled grid back to the original one."""
        restored = dict(data)
        for key in self.key_iterator(restored):
            info = self.pop_transform(restored[key])[TraceKeys.EXTRA_INFO]
            array = restored[key].as_tensor().cpu().numpy().astype(np.float32, copy=False)
            array = resize(array, info["shape"], LINEAR, info["coarse_axis"])
            restored[key] = _like(restored[key], array, np.array(info["affine"]))
        return restored

    def _forward(self, tensor: MetaTensor, is_label: bool, case: str) -> MetaTensor:
        affine = np.asarray(tensor.affine, dtype=np.float64)
        old_spacing = np.linalg.norm(affine[:3, :3], axis=0)
        new_spacing = old_spacing.copy()
        new_spacing[-len(self.spacing) :] = self.spacing
        old_shape = np.array(tensor.shape[1:])
        # nnU-Net's order of operations, which decides how a half is rounded
        new_shape = np.maximum(np.round(old_spacing / new_spacing * old_shape), 1)
        self._require_room(tensor, old_spacing, new_shape, case)
        new_shape = new_shape.astype(int)
        coarse_axis = find_coarse_axis(old_spacing, new_spacing)
        array = tensor.as_tensor().numpy()
        if is_label:
            array = resize_label(array, new_shape, coarse_axis)
        else:
            array = resize(
                array.astype(np.float32, copy=False), new_shape, IMAGE_ORDER, coarse_axis
            )
        result = _like(tensor, array, _resized_affine(affine, old_shape, new_shape))
        self.push_transform(
            result,
            extra_info={
                "shape": old_shape.tolist(),
                "affine": affine.tolist(),
                # on the way back nnU-Net decides anew: the plan's axis, if the plan has a coarse one
                "coarse_axis": find_coarse_axis(new_spacing, old_spacing),
            },
        )
        return result

    def _require_room(
        self, tensor: MetaTensor, old_spacing: np.ndarray, new_shape: np.ndarray, case: str
    ) -> None:
        """Refuse what the plan cannot mean, and what would be too large."""
        plan = " x ".join(f"{mm:g}" for mm in self.spacing)
        old, shape = tensor.shape[1:], tuple(map(int, new_shape))
        factors = old_spacing[-len(self.spacing) :] / self.spacing
        longer = [size > 1 for size in old[-len(self.spacing) :]]
        growth = math.prod(shape) / math.prod(old)
        if growth > MAX_GROWTH or (factors[longer] < 1 / MAX_FINENESS).any():
            raise CaseError(
                case,
                f"its voxels of {' x '.join(f'{mm:g}' for mm in old_spacing)} mm do not fit the plan's spacing, "
                f"{plan} mm: {' x '.join(map(str, old))} voxels would become {' x '.join(map(str, shape))}",
                "Correct the spacing in its header (millimetres), or use a model for such images.",
            )
        require_room(
            case,
            (len(tensor), *shape),
            np.dtype(np.float32).itemsize,
            RESAMPLED_FACTOR * max_image_bytes(),
            f"at the spacing of the plan, {plan} mm, it has",
        )
        if shape != tuple(old):
            require_memory(
                len(tensor) * math.prod(shape) * np.dtype(np.float32).itemsize,
                f"resampling it to {' x '.join(map(str, shape))} voxels",
            )


def _like(tensor: MetaTensor, array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    """``array`` with the metadata and the trace of ``tensor``, but another affine."""
    result = MetaTensor(
        torch.from_numpy(array), meta=tensor.meta, applied_operations=tensor.applied_operations
    )
    result.affine = torch.from_numpy(affine)
    return result


def find_coarse_axis(old_spacing: np.ndarray, new_spacing: np.ndarray) -> int | None:
    """The coarse axis, which is resampled separately, or None.

    An axis is coarse if the old (otherwise the new) voxels are more than three times longer along it than along the
    shortest axis, and no other axis is equally long. nnU-Net compares exactly; here the rounding of a header has no
    effect: 5.0000005, 5 and 1 mm have two longest axes, not one.

    Args:
        old_spacing: mm per axis before.
        new_spacing: mm per axis after.
    """
    for spacing in (old_spacing, new_spacing):
        if spacing.max() / spacing.min() > ANISOTROPY_RATIO * (1 + SPACING_TOLERANCE):
            longest = np.flatnonzero(spacing >= spacing.max() * (1 - SPACING_TOLERANCE))
            return int(longest[0]) if len(longest) == 1 else None
    return None


def resize(
    array: np.ndarray,
    shape: Sequence[int],
    order: int,
    coarse_axis: int | None = None,
    block_size: int = BLOCK_SIZE,
) -> np.ndarray:
    """Resize each channel so that its extent stays in place (voxel edges, not centres, coincide).

    Channels are distributed over torch's number of threads; the result is bitwise equal for any number. Values are
    clipped to the range of the channel, or with a coarse axis of the slice, because splines overshoot at edges.

    Args:
        array: ``[C, D, H, W]``, floating point.
        shape: target ``(D, H, W)``.
        order: spline order in the plane, or in all axes without a coarse one.
        coarse_axis: spatial axis along which the nearest slice is taken, or None.
        block_size: new voxels along an axis that are computed at once; fewer need less memory.

    Returns:
        ``[C, *shape]`` of the same type; ``array`` itself if it already has that shape.
    """
    shape = tuple(int(size) for size in shape)
    if array.shape[1:] == shape:
        return array
    result = np.empty((len(array), *shape), array.dtype)

    def resize_channel(index: int) -> None:
        if coarse_axis is None:
            _resize_volume(array[index], result[index], order, block_size)
        else:
            slices, target = (np.moveaxis(part[index], coarse_axis, 0) for part in (array, result))
            _resize_slices(slices, target, order, block_size)

    with ThreadPoolExecutor(min(len(array), torch.get_num_threads())) as pool:
        list(pool.map(resize_channel, range(len(array))))
    return result


def _resize_slices(slices: np.ndarray, target: np.ndarray, order: int, block_size: int) -> None:
    """Resize slice by slice in the plane; each slice of ``target`` is the nearest one, without interpolation."""
    picked = nearest_indices(len(slices), len(target))
    plane = np.empty((1, *target.shape[1:]), target.dtype)
    for index in np.unique(picked):
        _resize_volume(slices[index : index + 1], plane, order, block_size)
        target[picked == index] = plane


def _resize_volume(volume: np.ndarray, target: np.ndarray, order: int, block_size: int) -> None:
    """Fill ``target`` with the resized volume, slab by slab along the first axis of ``axis_order``."""
    dtype = np.result_type(volume, np.float32)
    low, high = np.fmin.reduce(volume, axis=None), np.fmax.reduce(volume, axis=None)
    blocks = [
        axis_blocks(old, new, order, dtype, block_size)
        for old, new in zip(volume.shape, target.shape, strict=True)
    ]
    first, *others = axis_order(volume.shape, target.shape)
    before = (slice(None),) * first
    for block in blocks[first]:
        slab = volume[*before, block.source]
        if slab.dtype != dtype or slab.strides[-1] != slab.itemsize:
            slab = slab.astype(dtype, order="C")  # required by BLAS
        slab = multiply(slab, first, (block.alone(),))
        for axis in others:
            slab = multiply(slab, axis, blocks[axis])
        np.clip(slab, low, high, out=target[*before, block.target], casting="same_kind")


def _resized_affine(affine: np.ndarray, old_shape: np.ndarray, new_shape: np.ndarray) -> np.ndarray:
    """Affine of the resized grid: with equal extent, the first voxel's centre moves by half the change of size."""
    scale = old_shape / new_shape
    resized = affine.copy()
    resized[:3, :3] = affine[:3, :3] * scale
    resized[:3, 3] = affine[:3, 3] + affine[:3, :3] @ ((scale - 1) / 2)
    return resized

"""Resampling to the target spacing and back, by nnU-Net's rules.

Arrays are ``[C, D, H, W]``. What MONAI's ``Spacingd`` lacks: a coarse axis treated apart, labels resampled class by
class, and the extent (not the first voxel's centre) kept in place.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils.enums import TraceKeys
from scipy import ndimage

ANISOTROPY_RATIO = 3
"""nnU-Net resamples the coarse axis apart when voxels are more than this much longer along it."""

IMAGE_ORDER = 3
LINEAR = 1
NEAREST = 0


class ResampleToSpacingd(MapTransform, InvertibleTransform):
    """Resample to ``spacing``, and back to the very grid it came from through ``Invertd``.

    Images are interpolated with cubic splines, labels linearly class by class (a voxel takes a class where that has
    more than half). Along a coarse axis (voxels more than three times longer than
    the shortest) the values are those of the nearest slice. Back, everything is interpolated linearly: what comes
    back are probabilities. The rules are nnU-Net's (Isensee et al. 2021; nnunetv2
    ``preprocessing/resampling/default_resampling.py``).

    Args:
        keys: keys to resample, MetaTensors ``[C, D, H, W]``.
        spacing: mm by array axis; two values leave the first axis as it is.
        is_label: for each key whether it holds labels.
        allow_missing_keys: as in MONAI.
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
            resampled[key] = self._forward(resampled[key], is_label)
        return resampled

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring back whatever lies on the resampled grid to the grid before."""
        restored = dict(data)
        for key in self.key_iterator(restored):
            info = self.pop_transform(restored[key])[TraceKeys.EXTRA_INFO]
            array = restored[key].as_tensor().cpu().numpy().astype(np.float32, copy=False)
            array = resize(array, info["shape"], LINEAR, info["coarse_axis"])
            restored[key] = _like(restored[key], array, np.array(info["affine"]))
        return restored

    def _forward(self, tensor: MetaTensor, is_label: bool) -> MetaTensor:
        affine = np.asarray(tensor.affine, dtype=np.float64)
        old_spacing = np.linalg.norm(affine[:3, :3], axis=0)
        new_spacing = old_spacing.copy()
        new_spacing[-len(self.spacing) :] = self.spacing
        old_shape = np.array(tensor.shape[1:])
        new_shape = np.maximum(np.round(old_shape * old_spacing / new_spacing), 1).astype(int)
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
                "coarse_axis": coarse_axis,
            },
        )
        return result


def _like(tensor: MetaTensor, array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    """``array`` with the meta data and the trace of ``tensor``, but an affine of its own."""
    result = MetaTensor(
        torch.from_numpy(array), meta=tensor.meta, applied_operations=tensor.applied_operations
    )
    result.affine = torch.from_numpy(affine)
    return result


def find_coarse_axis(old_spacing: np.ndarray, new_spacing: np.ndarray) -> int | None:
    """The axis to be treated apart, or None.

    It exists if the voxels before (else after) are more than three times longer along one axis than along the
    shortest, and only that axis is the longest.

    Args:
        old_spacing: mm by axis before.
        new_spacing: mm by axis after.
    """
    for spacing in (old_spacing, new_spacing):
        if spacing.max() / spacing.min() > ANISOTROPY_RATIO:
            longest = np.flatnonzero(np.isclose(spacing, spacing.max()))
            return int(longest[0]) if len(longest) == 1 else None
    return None


def resize(
    array: np.ndarray, shape: Sequence[int], order: int, coarse_axis: int | None = None
) -> np.ndarray:
    """Resize each channel so that its extent stays in place (voxel edges, not centres, coincide).

    Args:
        array: ``[C, D, H, W]``, floating point.
        shape: wanted ``(D, H, W)``.
        order: spline order in the plane, or in all axes without a coarse one.
        coarse_axis: spatial axis along which the nearest slice is taken, or None.

    Returns:
        ``[C, *shape]`` of the same type.
    """
    shape = tuple(int(size) for size in shape)
    if array.shape[1:] == shape:
        return array
    if coarse_axis is None:
        return np.stack([_zoom(channel, shape, order) for channel in array])
    # slice by slice in the plane, then whole slices along the coarse axis: never a value from between two slices
    plane = tuple(size for axis, size in enumerate(shape) if axis != coarse_axis)
    slices = np.moveaxis(array, coarse_axis + 1, 1)
    picked = nearest_indices(slices.shape[1], shape[coarse_axis])
    needed, position = np.unique(picked, return_inverse=True)
    resized = np.stack(
        [np.stack([_zoom(channel[index], plane, order) for index in needed]) for channel in slices]
    )
    return np.ascontiguousarray(np.moveaxis(resized[:, position], 1, coarse_axis + 1))


def resize_label(
    label: np.ndarray, shape: Sequence[int], coarse_axis: int | None = None
) -> np.ndarray:
    """Resize a label class by class, linearly; a voxel takes a class where that has more than half.

    Args:
        label: ``[1, D, H, W]``, whole numbers.
        shape: wanted ``(D, H, W)``.
        coarse_axis: as in ``resize``.

    Returns:
        ``[1, *shape]`` uint8; values occur in ``label``.
    """
    shape = tuple(int(size) for size in shape)
    if label.shape[1:] == shape:
        return label.astype(np.uint8, copy=False)
    result = np.zeros((1, *shape), np.uint8)
    for value in np.unique(label):
        if value:
            share = resize((label == value).astype(np.float32), shape, LINEAR, coarse_axis)
            result[share > 0.5] = value  # noqa: PLR2004 - more than half
    return result


def nearest_indices(old_size: int, new_size: int) -> np.ndarray:
    """For each new slice the old slice whose extent holds its centre, ``[new_size]`` int."""
    centres = (np.arange(new_size) + 0.5) * old_size / new_size - 0.5
    return np.clip(np.rint(centres), 0, old_size - 1).astype(int)


def _zoom(channel: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    if channel.shape == tuple(shape):
        return channel
    factors = [new / old for new, old in zip(shape, channel.shape, strict=True)]
    # grid_mode with "nearest" borders is what skimage.transform.resize(mode="edge") calls
    return ndimage.zoom(channel, factors, order=order, mode="nearest", grid_mode=True)


def _resized_affine(affine: np.ndarray, old_shape: np.ndarray, new_shape: np.ndarray) -> np.ndarray:
    """Affine of the resized grid: same extent, so the first voxel's centre moves by half the change of a voxel."""
    scale = old_shape / new_shape
    resized = affine.copy()
    resized[:3, :3] = affine[:3, :3] * scale
    resized[:3, 3] = affine[:3, 3] + affine[:3, :3] @ ((scale - 1) / 2)
    return resized

"""From facts to a plan: spacing, patch, network.

Tasks of the Medical Segmentation Decathlon take the seed's tables (``presets.py``). Other data sets get the seed's
spacing rule (median; 10th percentile on the coarsest axis of anisotropic sets) and nnU-Net's start patch (the
physical aspect of a cube, at most the median image).
"""

from collections.abc import Sequence

import numpy as np

from dynunet_bundle.dataset import MsdDataset
from dynunet_bundle.errors import PlanError
from dynunet_bundle.planning.fingerprint import CANONICAL_AXES, Fingerprint
from dynunet_bundle.planning.plan import Plan
from dynunet_bundle.planning.presets import BATCH_SIZE, Preset, preset_for

MIN_SIZE_TO_POOL = 8
MAX_SPACING_RATIO = 2
MAX_DOWNSAMPLINGS = 5
BASE_FILTERS = 32
MAX_FILTERS = {2: 512, 3: 320}
ANISOTROPY_RATIO = 3
MAX_PATCH_VOXELS = {2: 512**2, 3: 128**3}
MIN_LEVELS = 3  # DynUNet's own limit

_AXCODES = ("SAR", "ASR", "RSA")
"""Coarsest axis first: superior, anterior or right. Ties go to the superior axis, so isotropic sets read (z, y, x)."""


def topology(
    spacing: Sequence[float], patch_size: Sequence[int]
) -> tuple[list[list[int]], list[list[int]]]:
    """Kernels and strides of a U-Net, by the seed's rule (``get_unet_params``).

    An axis is halved while it has at least 8 voxels and its spacing is at most twice the finest; its kernel is 1
    while its spacing is more than twice the finest, else 3. At most five downsamplings.

    Args:
        spacing: mm, one value an axis.
        patch_size: voxels, one value an axis.

    Returns:
        ``(kernel_sizes, strides)``, one list a level from top to bottom.
    """
    current_spacing = np.array(spacing, dtype=float)
    size = np.array(patch_size, dtype=float)
    kernels: list[list[int]] = []
    strides = [[1] * len(size)]
    while len(strides) <= MAX_DOWNSAMPLINGS:
        near_finest = current_spacing / current_spacing.min() <= MAX_SPACING_RATIO
        stride = np.where(near_finest & (size >= MIN_SIZE_TO_POOL), 2, 1)
        if (stride == 1).all():
            break
        kernels.append(np.where(near_finest, 3, 1).tolist())
        strides.append(stride.tolist())
        size, current_spacing = size / stride, current_spacing * stride
    kernels.append([3] * len(size))
    return kernels, strides


def make_plan(
    dataset: MsdDataset, spatial_dims: int = 3, fingerprint: Fingerprint | None = None
) -> Plan:
    """Plan one task.

    Args:
        dataset: the data set.
        spatial_dims: 3 or 2.
        fingerprint: facts of the data set; may be None for a task that has a preset.

    Raises:
        PlanError: if no network of at least three levels fits, or facts are needed and absent.
    """
    preset = preset_for(dataset.name)
    if preset is not None:
        axcodes = _AXCODES[0]
        spacing, patch, statistics = _from_preset(preset, spatial_dims, len(dataset.channel_names))
    elif fingerprint is not None:
        axcodes, spacing, patch = _from_fingerprint(fingerprint, spatial_dims)
        statistics = fingerprint.intensity_statistics
    else:
        raise PlanError(f"{dataset.name} has no preset: its fingerprint is needed to plan it.")
    kernels, strides = topology(spacing, patch)
    if len(strides) < MIN_LEVELS:
        raise PlanError(
            f"images of about {patch} voxels are too small for a U-Net of {MIN_LEVELS} levels. "
            "Resample them to a finer spacing."
        )
    return Plan(
        task_name=dataset.name,
        spatial_dims=spatial_dims,
        axcodes=axcodes,
        channel_names=list(dataset.channel_names),
        label_names=list(dataset.label_names),
        spacing=spacing,
        patch_size=_divisible(patch, strides),
        batch_size=BATCH_SIZE[spatial_dims],
        kernel_sizes=kernels,
        strides=strides,
        filters=[
            min(BASE_FILTERS * 2**level, MAX_FILTERS[spatial_dims]) for level in range(len(strides))
        ],
        normalization=["zscore" if one is None else "ct" for one in statistics],
        intensity_statistics=statistics,
    )


def _from_preset(
    preset: Preset, spatial_dims: int, num_channels: int
) -> tuple[list[float], list[int], list[dict[str, float] | None]]:
    in_3d = spatial_dims == 3  # noqa: PLR2004
    spacing = list(preset.spacing_3d if in_3d else preset.spacing_2d)
    patch = list(preset.patch_3d if in_3d else preset.patch_2d)
    one = None
    if preset.ct is not None:
        one = dict(zip(("lower", "upper", "mean", "std"), map(float, preset.ct), strict=True))
    # the seed decides by the first channel for all of them
    return spacing, patch, [None if one is None else dict(one) for _ in range(num_channels)]


def _from_fingerprint(
    fingerprint: Fingerprint, spatial_dims: int
) -> tuple[str, list[float], list[int]]:
    median = np.median(fingerprint.spacings_mm, axis=0)
    axcodes = _AXCODES[int(np.argmax(median[[2, 1, 0]]))]
    order = [CANONICAL_AXES.index(code) for code in axcodes]
    spacings = fingerprint.spacings_mm[:, order]
    target = np.median(spacings, axis=0)
    if target[0] >= ANISOTROPY_RATIO * target.min():
        target[0] = max(np.percentile(spacings[:, 0], 10), target[1:].max())
    shapes = np.round(fingerprint.shapes[:, order] * spacings / target)
    shape = np.median(shapes, axis=0)
    target, shape = target[-spatial_dims:], shape[-spatial_dims:]
    # a box with the aspect of a physical cube, as many voxels as allowed, nowhere larger than the median image
    box = 1 / target * (MAX_PATCH_VOXELS[spatial_dims] * target.prod()) ** (1 / spatial_dims)
    patch = np.maximum(1, np.minimum(np.round(box), shape)).astype(int)
    return axcodes, [round(float(value), 6) for value in target], patch.tolist()


def _divisible(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """Round the patch up to what all strides together divide, so that skip connections meet."""
    divisor = np.prod(np.array(strides), axis=0)
    return (np.ceil(np.array(patch_size) / divisor).astype(int) * divisor).tolist()


def summary(plan: Plan, dataset: MsdDataset) -> str:
    """The plan in words, for a terminal."""
    preset = "the seed's preset" if preset_for(dataset.name) else "medians of the training cases"
    schemes = ", ".join(
        f"{name} {scheme}"
        for name, scheme in zip(plan.channel_names, plan.normalization, strict=True)
    )
    rows = (
        ("task", f"{plan.task_name}, {len(dataset.training)} training cases"),
        ("labels", ", ".join(plan.label_names[1:])),
        ("source", preset),
        ("array axes", plan.axcodes),
        ("spacing", " x ".join(f"{value:g}" for value in plan.spacing) + " mm"),
        ("patch", " x ".join(map(str, plan.patch_size)) + f" voxels, batch {plan.batch_size}"),
        ("normalization", schemes),
        ("levels", f"{len(plan.strides)}, filters {'-'.join(map(str, plan.filters))}"),
    )
    return "\n".join(f"{name:<14}{text}" for name, text in rows)

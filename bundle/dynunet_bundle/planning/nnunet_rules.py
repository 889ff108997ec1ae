"""nnU-Net v2's planning rules: target spacing, patch, batch, network, low resolution.

Source of all constants and steps: nnunetv2 2.8.1, ``experiment_planning/experiment_planners``; Isensee et al., Nature
Methods 18 (2021), and Isensee et al., "nnU-Net Revisited" (2024) for the residual-encoder planners. Lists are in the
order of the array axes, the coarsest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynunet_bundle.planning.topology import Topology, nnunet_topology

BASE_FEATURES = 32  # channels of the top level
MAX_FEATURES = {2: 512, 3: 320}  # channel limit of the lower levels, by dimension
START_VOXELS = {2: 2048**2, 3: 256**3}  # voxels of the cube that is shrunk to a patch, by dimension
REFERENCE_BATCH = {2: 12, 3: 2}  # batch size that Planner.reference belongs to, by dimension
MIN_BATCH = 2  # smallest batch size
RESENC_BLOCKS = (1, 3, 4, 6, 6, 6)  # residual blocks of the encoder, by level
ANISOTROPY = 3  # ratio of spacings, and of axis lengths in voxels, above which a set is anisotropic
LOWRES_VOXEL_SHARE = 0.25  # share of the median case in a patch below which 3d_lowres is planned
LOWRES_STEP = 1.03  # factor by which 3d_lowres coarsens the spacing per step
LOWRES_MIN_REDUCTION = 2
"""3d_lowres needs this many times fewer voxels; axes finer than the coarsest by more than this are coarsened first."""

SPACING_EPSILON = 1e-5  # mm by which the coarse axis stays coarsest


@dataclass(frozen=True)
class Planner:
    """Settings in which nnU-Net's planners differ.

    Attributes:
        residual: whether the encoder is residual.
        memory_gb: GPU memory that ``reference`` belongs to.
        reference: activation values that fit, by dimension.
        max_voxels_share: largest share of the data set's voxels in one batch.
    """

    residual: bool
    memory_gb: float
    reference: dict[int, float]
    max_voxels_share: float


PLANNERS = {
    "plain": Planner(False, 8, {2: 85e6, 3: 560e6}, 0.05),
    "resenc_m": Planner(True, 8, {2: 135e6, 3: 680e6}, 1.0),
    "resenc_l": Planner(True, 24, {2: 380e6, 3: 2100e6}, 1.0),
    "resenc_xl": Planner(True, 40, {2: 560e6, 3: 3600e6}, 1.0),
}


@dataclass(frozen=True)
class PlannedConfiguration:
    """Patch, batch and network of one configuration.

    Attributes:
        spacing: target spacing in mm.
        median_shape: voxels of the median case at that spacing.
        topology: kernels, strides, patch.
        batch_size: patches per step.
        features: channels of each level.
        batch_dice: whether Dice is computed over the batch instead of each patch.
        batch_limit: what decided the batch: ``"memory"``, ``"data"`` (its share of all voxels) or ``"minimum"``.
    """

    spacing: list[float]
    median_shape: list[float]
    topology: Topology
    batch_size: int
    features: list[int]
    batch_dice: bool
    batch_limit: str


def target_spacing(spacings: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Median spacing; along the coarse axis of an anisotropic set, the 10th percentile.

    Args:
        spacings: mm, ``[cases, 3]``.
        shapes: voxels after the nonzero crop, ``[cases, 3]``.
    """
    target = np.median(spacings, axis=0)
    size = np.median(shapes, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(len(target)) if axis != worst]
    finest_others = max(target[others])
    if target[worst] > ANISOTROPY * finest_others and size[worst] * ANISOTROPY < min(size[others]):
        low = np.percentile(spacings[:, worst], 10)
        target[worst] = low if low >= finest_others else finest_others + SPACING_EPSILON
    return target


def resampled_shapes(spacings: np.ndarray, shapes: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Voxels of each case at the target spacing, ``[cases, 3]``."""
    return np.round(spacings / target * shapes)


def plan_configurations(
    target: np.ndarray,
    median_shape: np.ndarray,
    num_training: int,
    num_classes: int,
    planner: str = "plain",
    gpu_memory_gb: float | None = None,
) -> dict[str, PlannedConfiguration]:
    """All configurations that nnU-Net would plan: ``2d``; for volumes also ``3d_fullres`` and maybe ``3d_lowres``.

    Args:
        target: target spacing in mm, the coarsest axis first.
        median_shape: median voxels at that spacing.
        num_training: number of training cases.
        num_classes: labels including the background.
        planner: key of ``PLANNERS``.
        gpu_memory_gb: memory to plan for; the planner's own if None.
    """
    sizes = _Sizes(PLANNERS[planner], num_classes, num_training, gpu_memory_gb)
    voxels = float(np.prod(median_shape))
    plans = {"2d": sizes.configuration(target[1:], median_shape[1:], voxels, batch_dice=True)}
    if median_shape[0] == 1:
        return plans
    lowres = _lowres(sizes, target, median_shape)
    plans["3d_fullres"] = sizes.configuration(
        target, median_shape, voxels, batch_dice=lowres is not None
    )
    if lowres is not None:
        plans["3d_lowres"] = lowres
    return plans


def _lowres(
    sizes: "_Sizes", target: np.ndarray, median_shape: np.ndarray
) -> PlannedConfiguration | None:
    """The low-resolution configuration; None unless a full-resolution patch covers under a quarter of a case."""
    full = sizes.configuration(target, median_shape, float(np.prod(median_shape)), batch_dice=False)
    patch_voxels = np.prod(full.topology.patch_size)
    voxels = float(np.prod(median_shape))
    spacing = np.array(target, dtype=float)
    lowres: PlannedConfiguration | None = None
    while patch_voxels / voxels < LOWRES_VOXEL_SHARE:
        finer = spacing.max() / spacing > LOWRES_MIN_REDUCTION
        spacing = spacing * np.where(finer | ~finer.any(), LOWRES_STEP, 1)
        shape = target / spacing * median_shape
        voxels = float(np.prod(shape))
        lowres = sizes.configuration(spacing, np.round(shape), voxels, batch_dice=False)
        patch_voxels = np.prod(lowres.topology.patch_size)
    if lowres is not None and np.prod(median_shape) / voxels < LOWRES_MIN_REDUCTION:
        return None
    return lowres


@dataclass(frozen=True)
class _Sizes:
    """Patch and batch under a memory budget."""

    planner: Planner
    num_classes: int
    num_training: int
    gpu_memory_gb: float | None

    def configuration(
        self, spacing: np.ndarray, median_shape: np.ndarray, voxels: float, batch_dice: bool
    ) -> PlannedConfiguration:
        dims = len(spacing)
        memory = self.gpu_memory_gb or self.planner.memory_gb
        budget = self.planner.reference[dims] * memory / self.planner.memory_gb
        topology = self._shrunk(spacing, median_shape, budget)
        estimate = self._activations(topology)
        batch = round(budget / estimate * REFERENCE_BATCH[dims])
        share = self.planner.max_voxels_share
        cap = round(voxels * self.num_training * share / float(np.prod(topology.patch_size)))
        limits = {"memory": batch, "data": cap}
        limit = min(limits, key=lambda name: limits[name])
        return PlannedConfiguration(
            [float(value) for value in spacing],
            [float(value) for value in median_shape],
            topology,
            max(min(batch, cap), MIN_BATCH),
            features_of(len(topology.strides), dims),
            batch_dice,
            limit if limits[limit] >= MIN_BATCH else "minimum",
        )

    def _shrunk(self, spacing: np.ndarray, median_shape: np.ndarray, budget: float) -> Topology:
        """The largest patch within the budget: from a physical cube, shrink the axis that covers most of the case."""
        dims = len(spacing)
        inverse = 1 / np.array(spacing)
        cube = inverse * (START_VOXELS[dims] / np.prod(inverse)) ** (1 / dims)
        topology = nnunet_topology(
            spacing, np.minimum(np.round(cube), median_shape).astype(int).tolist()
        )
        scale = 1.0 if self.planner.residual else 2 / REFERENCE_BATCH[dims]
        while self._activations(topology) * scale > budget:
            patch = np.array(topology.patch_size)
            axis = int(np.argsort(patch / median_shape)[-1])
            # the divisor may drop with the size, so a trial step with the old divisor finds the new one
            trial = patch.copy()
            trial[axis] -= topology.divisor[axis]
            patch[axis] -= nnunet_topology(spacing, trial.tolist()).divisor[axis]
            topology = nnunet_topology(spacing, patch.tolist())
        return topology

    def _activations(self, topology: Topology) -> float:
        """Number of values in all feature maps of one sample, nnU-Net's measure of memory."""
        dims = len(topology.patch_size)
        features = features_of(len(topology.strides), dims)
        size = np.array(topology.patch_size)
        voxels = []
        for stride in topology.strides:
            size = size // stride
            voxels.append(float(np.prod(size)))
        total = self.num_classes * voxels[0]
        if self.planner.residual:
            total += features[0] * voxels[0]
        decoder_maps = 2 if self.planner.residual else 3
        for level, (feature, count) in enumerate(zip(features, voxels, strict=True)):
            total += self._encoder_maps(level, features, topology) * feature * count
            if level < len(features) - 1:
                total += decoder_maps * feature * count
        return total

    def _encoder_maps(self, level: int, features: Sequence[int], topology: Topology) -> int:
        if not self.planner.residual:
            return 2
        blocks = RESENC_BLOCKS[min(level, len(RESENC_BLOCKS) - 1)]
        changes = level > 0 and (
            features[level] != features[level - 1] or max(topology.strides[level]) > 1
        )
        return 2 * blocks + int(changes)


def features_of(num_levels: int, dims: int) -> list[int]:
    """Channels of each level: 32, doubled at each level up to a limit (320 in 3D, 512 in 2D)."""
    return [min(BASE_FEATURES * 2**level, MAX_FEATURES[dims]) for level in range(num_levels)]

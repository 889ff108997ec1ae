"""From facts to a plan, by nnU-Net's rules or from the seed's tables."""

from collections.abc import Sequence

import numpy as np

from dynunet_bundle.dataset import MsdDataset
from dynunet_bundle.errors import PlanError
from dynunet_bundle.planning.fingerprint import AXCODES, Fingerprint, is_ct
from dynunet_bundle.planning.nnunet_rules import (
    features_of,
    plan_configurations,
    resampled_shapes,
    target_spacing,
)
from dynunet_bundle.planning.plan import Plan
from dynunet_bundle.planning.presets import BATCH_SIZE, Preset, preset_for
from dynunet_bundle.planning.topology import Topology, seed_topology

MIN_LEVELS = 3  # DynUNet's own limit
CONFIGURATIONS = ("3d_fullres", "2d", "3d_lowres")
SPACING_DECIMALS = 6
MASK_BELOW_RELATIVE_SIZE = 0.75
"""nnU-Net takes z-score statistics inside the nonzero mask where the crop removes at least a quarter."""


def make_plan(
    dataset: MsdDataset,
    fingerprint: Fingerprint,
    configuration: str = "3d_fullres",
    gpu_memory_gb: float | None = None,
) -> Plan:
    """Plan one configuration of a data set, as nnU-Net's default planner does.

    Args:
        dataset: names of the data set, its channels and labels.
        fingerprint: its facts.
        configuration: one of ``CONFIGURATIONS``.
        gpu_memory_gb: memory to plan for; nnU-Net's 8 where None.

    Raises:
        PlanError: if the configuration does not exist for these data, or no network of three levels fits.
    """
    spacings, shapes = fingerprint.spacings_mm, fingerprint.shapes_after_crop
    target = target_spacing(spacings, shapes)
    median_shape = np.median(resampled_shapes(spacings, shapes, target), axis=0)
    layouts = plan_configurations(
        target,
        median_shape,
        len(shapes),
        len(dataset.label_names),
        gpu_memory_gb=gpu_memory_gb,
    )
    if configuration not in layouts:
        raise PlanError(
            f"there is no {configuration} for cases of about {_product(median_shape)} voxels; "
            f"these fit: {', '.join(layouts)}. Pass one of them as --configuration."
        )
    layout = layouts[configuration]
    return _plan(
        dataset,
        axcodes=fingerprint.axcodes,
        spacing=[round(value, SPACING_DECIMALS) for value in layout.spacing],
        topology=layout.topology,
        batch_size=layout.batch_size,
        batch_dice=layout.batch_dice,
        normalization=normalization_of(dataset.channel_names, fingerprint.median_relative_size),
        statistics=fingerprint.intensity_statistics,
    )


def seed_plan(dataset: MsdDataset, spatial_dims: int = 3) -> Plan:
    """The seed's table of one of the ten tasks of the Medical Segmentation Decathlon, with the seed's topology.

    Args:
        dataset: a data set called ``TaskNN_...``.
        spatial_dims: 3 or 2.

    Raises:
        PlanError: if the seed has no table for it.
    """
    preset = preset_for(dataset.name)
    if preset is None:
        raise PlanError(
            f"the seed has no table for {dataset.name}. Leave --preset out to plan it from its data."
        )
    in_3d = spatial_dims == 3  # noqa: PLR2004
    spacing = list(preset.spacing_3d if in_3d else preset.spacing_2d)
    statistics = None
    if preset.ct is not None:
        names = ("lower", "upper", "mean", "std")
        statistics = dict(zip(names, map(float, preset.ct), strict=True))
    num_channels = len(dataset.channel_names)
    return _plan(
        dataset,
        axcodes=AXCODES[0],
        spacing=spacing,
        topology=seed_topology(spacing, preset.patch_3d if in_3d else preset.patch_2d),
        batch_size=BATCH_SIZE[spatial_dims],
        batch_dice=not in_3d,
        # the seed decides by the first channel for all of them
        normalization=[_seed_scheme(preset)] * num_channels,
        statistics=[None if statistics is None else dict(statistics) for _ in range(num_channels)],
    )


def _seed_scheme(preset: Preset) -> str:
    if preset.ct is not None:
        return "ct"
    return "zscore_nonzero" if preset.mostly_empty else "zscore"


def normalization_of(channel_names: Sequence[str], median_relative_size: float) -> list[str]:
    """Scheme of each channel, by its name; inside the nonzero mask where most of the volume is empty.

    Args:
        channel_names: names of the channels.
        median_relative_size: share of a volume that the nonzero crop keeps.
    """
    masked = median_relative_size < MASK_BELOW_RELATIVE_SIZE
    zscore = "zscore_nonzero" if masked else "zscore"
    return ["ct" if is_ct(name) else zscore for name in channel_names]


def _plan(
    dataset: MsdDataset,
    axcodes: str,
    spacing: list[float],
    topology: Topology,
    batch_size: int,
    batch_dice: bool,
    normalization: list[str],
    statistics: list[dict[str, float] | None],
) -> Plan:
    if len(topology.strides) < MIN_LEVELS:
        raise PlanError(
            f"images of about {_product(topology.patch_size)} voxels are too small for a U-Net of "
            f"{MIN_LEVELS} levels. Resample them to a finer spacing."
        )
    return Plan(
        task_name=dataset.name,
        spatial_dims=len(spacing),
        axcodes=axcodes,
        channel_names=list(dataset.channel_names),
        label_names=list(dataset.label_names),
        spacing=spacing,
        patch_size=topology.patch_size,
        batch_size=batch_size,
        batch_dice=batch_dice,
        kernel_sizes=topology.kernel_sizes,
        strides=topology.strides,
        filters=features_of(len(topology.strides), len(spacing)),
        normalization=normalization,
        intensity_statistics=statistics,
    )


def summary(plan: Plan, source: str) -> str:
    """The plan in words, for a terminal.

    Args:
        plan: the plan.
        source: where it comes from, e.g. ``"200 training cases"``.
    """
    schemes = ", ".join(
        f"{name} {scheme}"
        for name, scheme in zip(plan.channel_names, plan.normalization, strict=True)
    )
    rows = (
        ("task", plan.task_name),
        ("source", source),
        ("labels", ", ".join(plan.label_names[1:])),
        ("array axes", f"{plan.axcodes}, the coarsest first"),
        ("spacing", f"{_product(plan.spacing)} mm"),
        ("normalization", schemes),
        ("patch", f"{_product(plan.patch_size)} voxels"),
        ("batch", f"{plan.batch_size}, Dice over the {'batch' if plan.batch_dice else 'patch'}"),
        ("levels", f"{len(plan.strides)}, filters {'-'.join(map(str, plan.filters))}"),
        ("strides", " ".join(_product(stride) for stride in plan.strides)),
        ("kernels", " ".join(_product(kernel) for kernel in plan.kernel_sizes)),
    )
    return "\n".join(f"{name:<15}{text}" for name, text in rows)


def _product(values: Sequence[float] | np.ndarray) -> str:
    return "x".join(f"{value:g}" for value in values)

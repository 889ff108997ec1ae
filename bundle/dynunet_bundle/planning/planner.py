"""From facts to a plan, by nnU-Net's rules or from the seed's tables (NVIDIA's nnU-Net example)."""

from collections.abc import Mapping, Sequence

import numpy as np

from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.errors import PlanError, counted
from dynunet_bundle.planning.fingerprint import AXCODES, Fingerprint
from dynunet_bundle.planning.nnunet_rules import (
    PLANNERS,
    PlannedConfiguration,
    Planner,
    features_of,
    plan_configurations,
    resampled_shapes,
    target_spacing,
)
from dynunet_bundle.planning.plan import Plan
from dynunet_bundle.planning.presets import BATCH_SIZE, Preset, preset_for
from dynunet_bundle.planning.topology import Topology, seed_topology

MIN_LEVELS = 3  # DynUNet's own limit
PREVIOUS_STAGE = "3d_lowres"
CASCADE, CASCADE_BASIS = "3d_cascade_fullres", "3d_fullres"
"""nnU-Net's cascade, and the configuration whose network it takes; it also gets the mask of the low resolution."""

CONFIGURATIONS = ("3d_fullres", "2d", PREVIOUS_STAGE, CASCADE)
SPACING_DECIMALS = 6  # of the spacing in a plan, mm
STATISTICS_DECIMALS = 4  # of CT statistics in a plan, Hounsfield units
MASK_BELOW_RELATIVE_SIZE = 0.75
"""Median relative size below which z-score statistics are taken inside the nonzero mask, as in nnU-Net."""

SCHEME_BY_CHANNEL = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
}
"""Normalization by lower-case channel name, as in nnU-Net (``map_channel_name_to_normalization.py``)."""

DYNUNET, PLAIN_CONV_UNET, RESIDUAL = "DynUNet", "PlainConvUNet", "ResidualEncoderUNet"
"""Names of the networks; ``networks/architectures.py`` has the classes."""


def make_plan(
    dataset: DatasetDescription,
    fingerprint: Fingerprint,
    configuration: str = "3d_fullres",
    gpu_memory_gb: float | None = None,
    planner: str = "plain",
) -> Plan:
    """Plan one configuration of a data set, as nnU-Net's planners do.

    Args:
        dataset: the data set with the names of its channels and labels.
        fingerprint: its facts.
        configuration: one of ``CONFIGURATIONS``.
        gpu_memory_gb: memory to plan for; the planner's own if None.
        planner: key of ``PLANNERS``.

    Raises:
        PlanError: if the configuration does not exist for these data, or the images are too small for three levels.
    """
    planned = planned_configurations(fingerprint, dataset.num_entries, gpu_memory_gb, planner)
    chosen = configuration_of(configuration, planned)
    if fingerprint.intensities and len(fingerprint.intensities) != len(dataset.channel_names):
        raise PlanError(
            f"the channel names are {', '.join(dataset.channel_names)}, but the images have "
            f"{counted(len(fingerprint.intensities), 'channel')}. Give one name per channel."
        )
    statistics: list[dict[str, float] | None] = [None] * len(dataset.channel_names)
    for channel, intensities in enumerate(fingerprint.intensities):
        if scheme_of(dataset.channel_names[channel]) == "ct":
            statistics[channel] = _ct_statistics(intensities)
    return _plan(
        dataset,
        axcodes=fingerprint.axcodes,
        spacing=[round(value, SPACING_DECIMALS) for value in chosen.spacing],
        topology=chosen.topology,
        batch_size=chosen.batch_size,
        batch_dice=chosen.batch_dice,
        normalization=normalization_of(dataset.channel_names, fingerprint.median_relative_size),
        statistics=statistics,
        architecture=architecture_of(PLANNERS[planner], chosen.topology),
        cascade=configuration == CASCADE,
    )


def architecture_of(planner: Planner, topology: Topology) -> str:
    """The network that equals nnU-Net's: MONAI's DynUNet, unless the kernels of the levels differ."""
    if planner.residual:
        return RESIDUAL
    first = topology.kernel_sizes[0]
    return DYNUNET if all(kernel == first for kernel in topology.kernel_sizes) else PLAIN_CONV_UNET


def configuration_of(
    configuration: str, planned: Mapping[str, PlannedConfiguration]
) -> PlannedConfiguration:
    """Patch, batch and network of a configuration.

    Args:
        configuration: one of ``CONFIGURATIONS``.
        planned: those that exist for the data, see ``planned_configurations``.

    Raises:
        PlanError: if it does not exist for these data. A cascade exists where ``3d_lowres``, its previous stage, does.
    """
    names = [*planned, *([CASCADE] if PREVIOUS_STAGE in planned else [])]
    if configuration not in names:
        raise PlanError(
            f"there is no {configuration} for cases of about {product_text(planned['2d'].median_shape)} voxels per "
            f"slice; these fit: {', '.join(names)}. Pass one of them as --configuration."
        )
    return planned[CASCADE_BASIS if configuration == CASCADE else configuration]


def planned_configurations(
    fingerprint: Fingerprint,
    num_classes: int,
    gpu_memory_gb: float | None = None,
    planner: str = "plain",
) -> dict[str, PlannedConfiguration]:
    """All configurations of a data set: ``2d``; for volumes also ``3d_fullres`` and maybe ``3d_lowres``.

    Args:
        fingerprint: facts of the data set.
        num_classes: labels including the background, ``DatasetDescription.num_entries``.
        gpu_memory_gb: as in ``make_plan``.
        planner: as in ``make_plan``.
    """
    spacings, shapes = fingerprint.spacings_mm, fingerprint.shapes_after_crop
    given = fingerprint.target_mm
    target = target_spacing(spacings, shapes) if given is None else np.array(given)
    median_shape = np.median(resampled_shapes(spacings, shapes, target), axis=0)
    return plan_configurations(
        target, median_shape, len(shapes), num_classes, planner, gpu_memory_gb
    )


def seed_plan(dataset: DatasetDescription, spatial_dims: int = 3) -> Plan:
    """The seed's plan of one of the ten tasks of the Medical Segmentation Decathlon: its table and its topology rule.

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
    in_3d = spatial_dims == 3
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
        # the seed normalizes all channels as the first one
        normalization=[_seed_scheme(preset)] * num_channels,
        statistics=[None if statistics is None else dict(statistics) for _ in range(num_channels)],
    )


def _seed_scheme(preset: Preset) -> str:
    if preset.ct is not None:
        return "ct"
    return "zscore_nonzero" if preset.mostly_empty else "zscore"


def normalization_of(channel_names: Sequence[str], median_relative_size: float) -> list[str]:
    """Normalization of each channel by its name; z-score is inside the nonzero mask if much of a volume is empty.

    Args:
        channel_names: names of the channels.
        median_relative_size: median share of a volume that the nonzero crop keeps.
    """
    masked = median_relative_size < MASK_BELOW_RELATIVE_SIZE
    schemes = [scheme_of(name) for name in channel_names]
    return ["zscore_nonzero" if masked and scheme == "zscore" else scheme for scheme in schemes]


def scheme_of(channel_name: str) -> str:
    """Normalization by a channel's name; z-score for names that are not in ``SCHEME_BY_CHANNEL``."""
    return SCHEME_BY_CHANNEL.get(channel_name.strip().casefold(), "zscore")


def _ct_statistics(intensities: Mapping[str, float]) -> dict[str, float]:
    """Foreground statistics of a CT for ``NormalizeChannelsd``, in Hounsfield units."""
    return {
        "lower": round(intensities["percentile_00_5"], STATISTICS_DECIMALS),
        "upper": round(intensities["percentile_99_5"], STATISTICS_DECIMALS),
        "mean": round(intensities["mean"], STATISTICS_DECIMALS),
        "std": round(intensities["std"], STATISTICS_DECIMALS),
    }


def _plan(
    dataset: DatasetDescription,
    axcodes: str,
    spacing: list[float],
    topology: Topology,
    batch_size: int,
    batch_dice: bool,
    normalization: list[str],
    statistics: list[dict[str, float] | None],
    architecture: str = DYNUNET,
    cascade: bool = False,
) -> Plan:
    if len(topology.strides) < MIN_LEVELS:
        raise PlanError(
            f"images of about {product_text(topology.patch_size)} voxels are too small for a U-Net of "
            f"{MIN_LEVELS} levels. Resample them to a finer spacing."
        )
    return Plan(
        task_name=dataset.name,
        spatial_dims=len(spacing),
        axcodes=axcodes,
        channel_names=list(dataset.channel_names),
        **dataset.labels.ids(),
        spacing=spacing,
        patch_size=topology.patch_size,
        batch_size=batch_size,
        batch_dice=batch_dice,
        architecture=architecture,
        kernel_sizes=topology.kernel_sizes,
        strides=topology.strides,
        filters=features_of(len(topology.strides), len(spacing)),
        normalization=normalization,
        intensity_statistics=statistics,
        cascade=cascade,
    )


def product_text(values: Sequence[float] | np.ndarray) -> str:
    """``[40, 56, 40]`` as ``"40x56x40"``."""
    return "x".join(f"{value:g}" for value in values)

"""From facts to a plan.

Tasks of the Medical Segmentation Decathlon take the seed's tables and its topology (``presets.py``). Other data sets
are planned by nnU-Net's rules (``nnunet_rules.py``).
"""

import numpy as np

from dynunet_bundle.dataset import MsdDataset
from dynunet_bundle.errors import PlanError
from dynunet_bundle.planning.fingerprint import CANONICAL_AXES, Fingerprint
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
CONFIGURATIONS = {2: "2d", 3: "3d_fullres"}
SPACING_DECIMALS = 6

_AXCODES = ("SAR", "ASR", "RSA")
"""Coarsest axis first: superior, anterior or right. Ties go to the superior axis, so isotropic sets read (z, y, x)."""


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
        spacing, topology, statistics = _from_preset(
            preset, spatial_dims, len(dataset.channel_names)
        )
        batch_size = BATCH_SIZE[spatial_dims]
    elif fingerprint is not None:
        axcodes, spacing, topology, batch_size = _from_fingerprint(
            fingerprint, spatial_dims, len(dataset.label_names)
        )
        statistics = fingerprint.intensity_statistics
    else:
        raise PlanError(f"{dataset.name} has no preset: its fingerprint is needed to plan it.")
    if len(topology.strides) < MIN_LEVELS:
        raise PlanError(
            f"images of about {topology.patch_size} voxels are too small for a U-Net of {MIN_LEVELS} "
            "levels. Resample them to a finer spacing."
        )
    return Plan(
        task_name=dataset.name,
        spatial_dims=spatial_dims,
        axcodes=axcodes,
        channel_names=list(dataset.channel_names),
        label_names=list(dataset.label_names),
        spacing=spacing,
        patch_size=topology.patch_size,
        batch_size=batch_size,
        kernel_sizes=topology.kernel_sizes,
        strides=topology.strides,
        filters=features_of(len(topology.strides), spatial_dims),
        normalization=["zscore" if one is None else "ct" for one in statistics],
        intensity_statistics=statistics,
    )


def _from_preset(
    preset: Preset, spatial_dims: int, num_channels: int
) -> tuple[list[float], Topology, list[dict[str, float] | None]]:
    in_3d = spatial_dims == 3  # noqa: PLR2004
    spacing = list(preset.spacing_3d if in_3d else preset.spacing_2d)
    topology = seed_topology(spacing, preset.patch_3d if in_3d else preset.patch_2d)
    one = None
    if preset.ct is not None:
        one = dict(zip(("lower", "upper", "mean", "std"), map(float, preset.ct), strict=True))
    # the seed decides by the first channel for all of them
    return spacing, topology, [None if one is None else dict(one) for _ in range(num_channels)]


def _from_fingerprint(
    fingerprint: Fingerprint, spatial_dims: int, num_classes: int
) -> tuple[str, list[float], Topology, int]:
    median = np.median(fingerprint.spacings_mm, axis=0)
    superior_first = median[[CANONICAL_AXES.index(code) for code in "SAR"]]
    axcodes = _AXCODES[int(np.argmax(superior_first))]
    order = [CANONICAL_AXES.index(code) for code in axcodes]
    spacings, shapes = fingerprint.spacings_mm[:, order], fingerprint.shapes[:, order]
    target = target_spacing(spacings, shapes)
    median_shape = np.median(resampled_shapes(spacings, shapes, target), axis=0)
    plans = plan_configurations(target, median_shape, len(shapes), num_classes)
    name = CONFIGURATIONS[spatial_dims]
    if name not in plans:
        raise PlanError("the images are single slices: only --configuration 2d fits them.")
    layout = plans[name]
    spacing = [round(value, SPACING_DECIMALS) for value in layout.spacing]
    return axcodes, spacing, layout.topology, layout.batch_size


def summary(plan: Plan, dataset: MsdDataset) -> str:
    """The plan in words, for a terminal."""
    preset = "the seed's preset" if preset_for(dataset.name) else "nnU-Net's rules on the headers"
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

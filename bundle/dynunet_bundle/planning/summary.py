"""A plan in words: facts of the data, decisions, and the rule behind each."""

from collections.abc import Iterable, Sequence

import numpy as np

from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.drawing.text_table import text_table
from dynunet_bundle.errors import counted
from dynunet_bundle.planning.channels import default_channel_names, normalization_text
from dynunet_bundle.planning.fingerprint import Fingerprint, are_pictures
from dynunet_bundle.planning.like import SourceModel
from dynunet_bundle.planning.nnunet_rules import ANISOTROPY, PLANNERS, PlannedConfiguration
from dynunet_bundle.planning.plan import Plan
from dynunet_bundle.planning.planner import (
    MASK_BELOW_RELATIVE_SIZE,
    RESIDUAL,
    product_text,
)
from dynunet_bundle.terminal import printable

PlanRow = tuple[str, str, str]
"""Subject, value, and the rule behind the value (may be empty)."""

AXES = "array axes"
"""Subject of the row on the orientation, which plain pictures do not have."""

MAX_VALUE_WIDTH = 48  # characters of a value with its rule on the same line


def found_rows(dataset: DatasetDescription, fingerprint: Fingerprint) -> list[PlanRow]:
    """Facts of the data."""
    shapes, spacings = fingerprint.shapes_after_crop, fingerprint.spacings_mm
    in_pixels = are_pictures(dataset, fingerprint)
    unit = "pixel" if in_pixels else "voxel"
    if in_pixels:
        shapes = shapes[:, 1:]
    rows = [
        ("cases", str(len(spacings)), ""),
        (
            "shape",
            f"{_median(shapes)} {unit}s ({_range(shapes)})",
            f"median (range) after the nonzero crop, which keeps {fingerprint.median_relative_size:.0%}",
        ),
    ]
    if not in_pixels:
        rows.append(("spacing", f"{_median(spacings)} mm ({_range(spacings)})", "median (range)"))
    names = dataset.channel_names
    for index, values in enumerate(fingerprint.intensities[: len(names)]):
        is_once = names.count(names[index]) == 1
        name = names[index].removeprefix("channel_") if is_once else f"{index}, {names[index]}"
        rows.append(
            (
                f"channel {name}",
                f"{values['percentile_00_5']:.6g} to {values['percentile_99_5']:.6g}, "
                f"mean {values['mean']:.6g}, std {values['std']:.6g}",
                "foreground, 0.5 to 99.5 percentile, equal weight per case",
            )
        )
    total = sum(fingerprint.label_voxels.values())
    for value, name in zip(dataset.labels.values, dataset.labels.names, strict=True):
        if total:
            count = fingerprint.label_voxels.get(value, 0)
            rows.append((f"label {value}", name, f"{counted(count, unit)}, {count / total:.2%}"))
    if dataset.labels.ignore_value is not None:
        rows.append((f"label {dataset.labels.ignore_value}", "ignored", "not trained, not scored"))
    for name, parts in (dataset.labels.regions or {}).items():
        rows.append((f"region {name}", ", ".join(map(str, parts)), "has its own output"))
    return rows


def decided_rows(
    plan: Plan,
    chosen: PlannedConfiguration,
    planned: Iterable[str],
    planner: str,
    unit: str = "voxels",
) -> list[PlanRow]:
    """Decisions of nnU-Net's rules.

    Args:
        plan: the plan.
        chosen: the configuration of the plan.
        planned: names of all configurations that exist for the data.
        planner: key of ``PLANNERS``.
        unit: ``"voxels"``, or ``"pixels"`` of plain pictures.
    """
    names = ", ".join(planned)
    cascade = ", and 3d_cascade_fullres after 3d_lowres" if "3d_lowres" in names else ""
    batch_rules = {
        "memory": "as many as fit into memory",
        "data": f"at most {PLANNERS[planner].max_voxels_share:.0%} of all {unit} per batch",
        "minimum": "at least two",
    }
    return [
        (
            "configurations",
            names + cascade,
            "3d_lowres if a patch covers less than a quarter of a case",
        ),
        *(row for row in _common_rows(plan) if unit == "voxels" or row[0] != AXES),
        ("patch", f"{product_text(plan.patch_size)} {unit}", "the largest whose activations fit"),
        ("batch", str(plan.batch_size), batch_rules[chosen.batch_limit]),
        *_network_rows(plan),
    ]


def preset_rows(plan: Plan) -> list[PlanRow]:
    """Decisions of the seed's tables."""
    return [
        ("spacing", f"{product_text(plan.spacing)} mm", "the seed's table"),
        *_common_rows(plan),
        ("patch", f"{product_text(plan.patch_size)} voxels", "the seed's table"),
        ("batch", str(plan.batch_size), "the seed's training script"),
        *_network_rows(plan),
    ]


def like_rows(plan: Plan, source: SourceModel) -> list[PlanRow]:
    """Decisions that a model has made, and how to start a training from it."""
    stored = "as the files store them: store all images as those of the model"
    rules = {AXES: stored if plan.axcodes.islower() else ""}
    rows = [
        ("spacing", f"{product_text(plan.spacing)} mm", ""),
        *_common_rows(plan),
        ("patch", f"{product_text(plan.patch_size)} voxels", ""),
        ("batch", str(plan.batch_size), ""),
        *_network_rows(plan),
    ]
    kept = [(subject, value, rules.get(subject, "")) for subject, value, _ in rows]
    kept.append(("labels", ", ".join(plan.regions or plan.label_names[1:]), "of the new data"))
    kept.append(("start", f"--pretrained {source.path}", "option of the training"))
    axes = source.mirror_axes
    if axes is not None and len(axes) < plan.spatial_dims:
        rule = "option of the training: the model was not mirrored over other axes"
        kept.append(("mirroring", f'--augmentation#mirror#axes "{axes}"', rule))
    return kept


def spacing_rule(fingerprint: Fingerprint, spacing: Sequence[float], configuration: str) -> str:
    """The rule that gave the target spacing."""
    if fingerprint.target_mm is not None and configuration != "3d_lowres":
        return "--overwrite_target_spacing"
    if configuration == "3d_lowres":
        return "coarsened until a patch covers a quarter of a case"
    median = np.median(fingerprint.spacings_mm, axis=0)[-len(spacing) :]
    if np.allclose(median, spacing):
        return "median of the cases"
    return f"median; 10th percentile along an axis with few slices, over {ANISOTROPY} times coarser"


def format_rows(heading: str, rows: Iterable[PlanRow]) -> str:
    """Rows as a table for a terminal; the rule of a long value goes to the next line."""
    cells = []
    for subject, value, rule in rows:
        if len(value) > MAX_VALUE_WIDTH and rule:
            cells += [(subject, value, ""), ("", "", rule)]
        else:
            cells.append((subject, value, rule))
    lines = text_table(cells, left=range(3), max_width=MAX_VALUE_WIDTH)
    return "\n".join([printable(heading), *(f"  {line}" for line in lines)])


def _common_rows(plan: Plan) -> list[PlanRow]:
    masked = "zscore_nonzero" in plan.normalization
    schemes = normalization_text(plan.channel_names, plan.normalization)
    unnamed = plan.channel_names == default_channel_names(len(plan.channel_names))
    rule = "the default, as the channels have no names" if unnamed else "by the channel's name"
    if masked:
        rule += (
            f"; inside the nonzero mask, as the crop keeps less than {MASK_BELOW_RELATIVE_SIZE:.0%}"
        )
    return [
        (AXES, plan.axcodes, "coarsest first"),
        ("normalization", schemes, rule),
    ]


def _network_rows(plan: Plan) -> list[PlanRow]:
    return [
        *_cascade_rows(plan),
        ("Dice", "over the batch" if plan.batch_dice else "over each patch", ""),
        ("network", _network_text(plan), "features double at each level up to a limit"),
        (
            "strides",
            " ".join(product_text(stride) for stride in plan.strides),
            "an axis is halved while its spacing is near the finest and it has 8 voxels",
        ),
        (
            "kernels",
            " ".join(product_text(kernel) for kernel in plan.kernel_sizes),
            "1 along an axis until its spacing is near the finest, then 3",
        ),
    ]


def _cascade_rows(plan: Plan) -> list[PlanRow]:
    if not plan.cascade:
        return []
    rule = "masks of the previous stage, 3d_lowres; see --previous_dir"
    return [("more channels", ", ".join(plan.label_names[1:]), rule)]


def _network_text(plan: Plan) -> str:
    kind = "residual encoder" if plan.architecture == RESIDUAL else "plain"
    return f"{kind}, {len(plan.strides)} levels {'-'.join(map(str, plan.filters))}"


def _median(values: np.ndarray) -> str:
    return product_text(np.round(np.median(values, axis=0), 4))


def _range(values: np.ndarray) -> str:
    low, high = values.min(axis=0), values.max(axis=0)
    if np.allclose(low, high):
        return "all"
    return f"{product_text(np.round(low, 4))} to {product_text(np.round(high, 4))}"

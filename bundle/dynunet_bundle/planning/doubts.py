"""What in a data set makes a plan doubtful, although it can be planned: told while it can still be mended."""

import math
from collections.abc import Iterator, Mapping

from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.planning.fingerprint import Fingerprint
from dynunet_bundle.planning.plan import Plan

HOUNSFIELD_RANGE = (-1100, 4100)
"""Range of stored CT values, in HU: air is -1000, 12 bits of a scanner end at 3071 to 4095."""

AIR_OR_FAT = -50
"""Values below it, in HU, occur in CT: fat begins at about -50. Images of other kinds have no such values."""

COLOURS = 3
MAX_COLOUR = 255


def plan_doubts(dataset: DatasetDescription, fingerprint: Fingerprint, plan: Plan) -> list[str]:
    """Doubts about a plan, one line each.

    Args:
        dataset: names of channels and labels.
        fingerprint: facts of the training cases.
        plan: what was planned.

    Returns:
        Lines that say what is odd, and what to do.
    """
    return [
        *_unnamed_ct(dataset, fingerprint, plan),
        *_unnamed_colours(dataset, fingerprint, plan),
        *_missing_classes(dataset, fingerprint),
    ]


def _unnamed_ct(dataset: DatasetDescription, fingerprint: Fingerprint, plan: Plan) -> Iterator[str]:
    lowest, highest = HOUNSFIELD_RANGE
    rows = zip(dataset.channel_names, fingerprint.intensities, plan.normalization, strict=False)
    for name, values, normalization in rows:
        darkest, brightest = _extremes(values)
        looks_ct = lowest <= darkest < AIR_OR_FAT and -AIR_OR_FAT < brightest <= highest
        if looks_ct and normalization != "ct":
            yield (
                f'channel "{name}" has values from {darkest:g} to {brightest:g}, which look like Hounsfield '
                f"units, but is normalized by {normalization}. If it is CT, name the channel CT in dataset.json or "
                "with --channel_names."
            )


def _unnamed_colours(
    dataset: DatasetDescription, fingerprint: Fingerprint, plan: Plan
) -> Iterator[str]:
    values = fingerprint.intensities
    looks_coloured = len(values) == COLOURS and all(
        0 <= darkest and 1 < brightest <= MAX_COLOUR
        for darkest, brightest in map(_extremes, values)
    )
    if looks_coloured and plan.spatial_dims == 2 and "rgb_to_0_1" not in plan.normalization:
        yield (
            f"the channels {', '.join(dataset.channel_names)} have values from 0 to 255, as colours have, but are "
            "normalized by "
            + ", ".join(dict.fromkeys(plan.normalization))
            + ". If they are colours, name each of them rgb_to_0_1 in dataset.json or with --channel_names."
        )


def _extremes(values: Mapping[str, float]) -> tuple[float, float]:
    """Smallest and largest value of a channel; NaN, which is in no range, if a saved fingerprint lacks them."""
    return values.get("min", math.nan), values.get("max", math.nan)


def _missing_classes(dataset: DatasetDescription, fingerprint: Fingerprint) -> Iterator[str]:
    found = fingerprint.label_voxels
    labels = dataset.labels
    for value, name in list(zip(labels.values, labels.names, strict=True))[1:]:
        if found and not found.get(value):
            yield (
                f'no training label has the class "{name}" ({value}), so the model cannot learn it. Correct the labels '
                "or dataset.json."
            )

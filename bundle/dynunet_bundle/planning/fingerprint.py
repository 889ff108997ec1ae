"""Facts of a data set: shapes after the nonzero crop, spacings, foreground intensities, voxels per label.

Stored on disk: the keys of ``to_json``, in ``configs/tasks/fingerprints/*.json``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.errors import DatasetError, PlanError
from dynunet_bundle.files import versions
from dynunet_bundle.survey.case_facts import CaseFacts
from dynunet_bundle.survey.findings import require_usable
from dynunet_bundle.survey.histogram import merged
from dynunet_bundle.survey.survey import all_findings, survey_dataset

CANONICAL_AXES = "RAS"

AXCODES = ("SAR", "ASR", "RSA")
"""Possible axis orders, by coarsest axis: superior, anterior, right. Isotropic sets take the first, (z, y, x)."""


@dataclass(frozen=True)
class Fingerprint:
    """Facts of all training cases; axes in the order of ``axcodes``, the one with the coarsest median first.

    Attributes:
        axcodes: orientation of the array axes.
        spacings_mm: voxel sizes, ``[cases, 3]``.
        shapes_after_crop: voxels of the box around all nonzero voxels, ``[cases, 3]``.
        median_relative_size: median of (box volume / image volume).
        intensities: per channel, statistics of the foreground over all cases, equal weight per case: ``mean``,
            ``std``, ``min``, ``max``, ``median``, ``percentile_00_5``, ``percentile_99_5``; empty if unknown.
        label_voxels: number of voxels in all cases by label value; empty if unknown.
    """

    axcodes: str
    spacings_mm: np.ndarray
    shapes_after_crop: np.ndarray
    median_relative_size: float
    intensities: list[dict[str, float]]
    label_voxels: dict[int, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON data, see ``from_json``."""
        return {
            "axcodes": self.axcodes,
            "num_training": len(self.spacings_mm),
            "spacings_mm": self.spacings_mm.tolist(),
            "shapes_after_crop": self.shapes_after_crop.tolist(),
            "median_relative_size_after_cropping": self.median_relative_size,
            "intensities": self.intensities,
            "label_voxels": {str(value): count for value, count in self.label_voxels.items()},
            "versions": versions("nibabel", "numpy"),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Fingerprint":
        """Read saved facts. nnU-Net's fingerprints have no ``axcodes``; their axes are taken as (z, y, x).

        Raises:
            PlanError: if facts are missing or contradict each other.
        """
        try:
            spacings = np.array(content["spacings_mm"], dtype=float)
            shapes = np.array(content["shapes_after_crop"])
            relative_size = float(content["median_relative_size_after_cropping"])
            intensities = [dict(statistics) for statistics in content.get("intensities") or ()]
            label_voxels = dict(content.get("label_voxels") or {})
            voxels = {int(value): int(count) for value, count in label_voxels.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"the fingerprint is incomplete or malformed ({error!r}).") from error
        if spacings.shape != shapes.shape or spacings.ndim != 2 or spacings.shape[1] != 3:
            raise PlanError(
                f"the fingerprint has spacings of shape {spacings.shape} and shapes of shape {shapes.shape}; "
                "both must be [cases, 3]."
            )
        if not (np.isfinite(spacings).all() and (spacings > 0).all() and (shapes >= 1).all()):
            raise PlanError("the fingerprint has spacings or shapes that are not positive numbers.")
        axcodes = content.get("axcodes", AXCODES[0])
        if axcodes not in AXCODES:
            raise PlanError(
                f"the fingerprint has axcodes {axcodes}, not one of {', '.join(AXCODES)}."
            )
        return cls(axcodes, spacings, shapes, relative_size, intensities, voxels)

    @classmethod
    def of(cls, cases: Sequence[CaseFacts]) -> "Fingerprint":
        """Facts of a set of cases.

        Raises:
            DatasetError: if cases differ in their number of channels, or no case has foreground.
        """
        channels = sorted({len(case.intensities) for case in cases})
        if len(channels) > 1:
            raise DatasetError(
                f"the images have {' or '.join(map(str, channels))} channels. Give all images the same channels."
            )
        spacings = np.array([case.spacing_mm for case in cases])
        shapes = np.array([case.shape_after_crop for case in cases])
        axcodes = _axcodes_for(spacings, np.array([case.shape for case in cases]))
        order = [CANONICAL_AXES.index(code) for code in axcodes]
        return cls(
            axcodes,
            spacings[:, order],
            shapes[:, order],
            float(np.median([case.relative_size for case in cases])),
            [_statistics(cases, channel) for channel in range(channels[0])],
            dict(sorted(sum((Counter(case.label_voxels) for case in cases), Counter()).items())),
        )


def extract_fingerprint(
    dataset: DatasetDescription, num_workers: int = 2, cache_dir: str | Path | None = None
) -> Fingerprint:
    """Survey all cases and take the facts of the training cases.

    Args:
        dataset: the data set.
        num_workers: number of reading threads.
        cache_dir: cache of the results, see ``survey_dataset``.

    Raises:
        CaseError: for the first unusable case, after all findings were logged.
        DatasetError: if cases differ in their number of channels, or no case has foreground.
    """
    surveys = survey_dataset(dataset, num_workers, cache_dir)
    require_usable(all_findings(surveys), len(surveys))
    return Fingerprint.of([survey.facts for survey in surveys if survey.facts is not None])


def _axcodes_for(spacings: np.ndarray, shapes: np.ndarray) -> str:
    """Axis order for spacings and shapes in canonical order; if all cases are single slices, that axis comes first."""
    superior_first = [CANONICAL_AXES.index(code) for code in "SAR"]
    coarseness = np.median(spacings, axis=0)
    coarseness = np.where((shapes == 1).all(axis=0), np.inf, coarseness)
    return AXCODES[int(np.argmax(coarseness[superior_first]))]


def _statistics(cases: Sequence[CaseFacts], channel: int) -> dict[str, float]:
    total = merged(case.intensities[channel] for case in cases)
    if not len(total.values):
        raise DatasetError(
            "no label has any foreground, so there is nothing to learn. Check the label files."
        )
    return total.statistics()

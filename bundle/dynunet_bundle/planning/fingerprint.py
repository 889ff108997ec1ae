"""What a data set looks like: shapes after the nonzero crop, spacings, intensities and sizes of the foreground."""

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
"""Coarsest axis first: superior, anterior or right. Ties go to the superior axis, so isotropic sets read (z, y, x)."""


@dataclass(frozen=True)
class Fingerprint:
    """Facts about all training cases; axes in the order of ``axcodes``, the one with the coarsest median first.

    Attributes:
        axcodes: orientation of the array axes.
        spacings_mm: voxel sizes by case and axis, ``[cases, 3]``.
        shapes_after_crop: voxels of the box around all nonzero voxels, likewise.
        median_relative_size: median of the share of a volume that this box takes.
        intensities: for each channel the statistics of the foreground over the whole set, each case weighing the
            same: ``mean``, ``std``, ``min``, ``max``, ``median``, ``percentile_00_5``, ``percentile_99_5``; empty
            where not known.
        label_voxels: number of voxels in all cases by label value; empty where not known.
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
        """Read saved facts; nnU-Net's own, without ``axcodes`` and intensities, are taken as (z, y, x).

        Raises:
            PlanError: if facts are missing or do not belong together.
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
            raise PlanError("the fingerprint has spacings or shapes that are not positive.")
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
            DatasetError: if the cases differ in their number of channels, or none has any foreground.
        """
        channels = sorted({len(case.intensities) for case in cases})
        if len(channels) > 1:
            raise DatasetError(
                f"the images have {' or '.join(map(str, channels))} channels. Give all of them the same."
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
    """Look at all training cases, and refuse the data set if some cannot be used.

    Args:
        dataset: the data set.
        num_workers: threads that read at the same time.
        cache_dir: where what was found is kept, see ``survey_dataset``.

    Raises:
        CaseError: for the first case that cannot be used; all findings are in the log before it.
        DatasetError: if the cases do not go together.
    """
    surveys = survey_dataset(dataset, num_workers, cache_dir)
    require_usable(all_findings(surveys), len(surveys))
    return Fingerprint.of([survey.facts for survey in surveys if survey.facts is not None])


def _axcodes_for(spacings: np.ndarray, shapes: np.ndarray) -> str:
    """Order of the axes from values in canonical order: a set of single slices is cut along those slices."""
    superior_first = [CANONICAL_AXES.index(code) for code in "SAR"]
    coarseness = np.median(spacings, axis=0)
    coarseness = np.where((shapes == 1).all(axis=0), np.inf, coarseness)
    return AXCODES[int(np.argmax(coarseness[superior_first]))]


def _statistics(cases: Sequence[CaseFacts], channel: int) -> dict[str, float]:
    total = merged(case.intensities[channel] for case in cases)
    if not len(total.values):
        raise DatasetError(
            "no label has any foreground. There is nothing to learn from these cases."
        )
    return total.statistics()

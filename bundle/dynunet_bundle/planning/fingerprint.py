"""Facts of a data set: shapes after the nonzero crop, spacings, foreground intensities, voxels per label.

Stored on disk: the keys of ``to_json``, in ``configs/tasks/fingerprints/*.json``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.dataset.cases import image_files
from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.errors import DatasetError, PlanError
from dynunet_bundle.files import versions
from dynunet_bundle.images.grid import counts_pixels
from dynunet_bundle.planning.plan import PLAN_SCHEMA
from dynunet_bundle.shapes import COUNT, TEXT, by_name, list_of, object_with
from dynunet_bundle.survey.case_facts import CaseFacts
from dynunet_bundle.survey.findings import dataset_findings, require_usable
from dynunet_bundle.survey.histogram import merged
from dynunet_bundle.survey.survey import all_findings, survey_dataset

CANONICAL_AXES = "RAS"

AXCODES = ("SAR", "ASR", "RSA")
"""Possible axis orders, by coarsest axis: superior, anterior, right. Isotropic sets take the first, (z, y, x)."""

NAMES = {**list_of(TEXT), "type": ["array", "null"]}

FINGERPRINT_SCHEMA = object_with(
    {
        "axcodes": {"enum": list(AXCODES)},
        "spacings_mm": list_of(
            list_of({"type": "number", "minimum": 1e-7, "maximum": 1e4}, minItems=3, maxItems=3),
            minItems=1,
        ),
        "shapes_after_crop": list_of(
            list_of({"type": "number", "minimum": 1, "maximum": 2**15}, minItems=3, maxItems=3),
            minItems=1,
        ),
        "median_relative_size_after_cropping": {"type": "number", "minimum": 0, "maximum": 1},
        "intensities": {
            **list_of(
                by_name(
                    {"type": "number"},
                    required=["mean", "std", "percentile_00_5", "percentile_99_5"],
                )
            ),
            "type": ["array", "null"],
        },
        "label_voxels": {
            **by_name(COUNT, propertyNames={"pattern": r"^-?[0-9]{1,9}$"}),
            "type": ["object", "null"],
        },
        "channel_names": NAMES,
        "label_names": NAMES,
        **{
            name: PLAN_SCHEMA["properties"][name]
            for name in ("label_values", "ignore_value", "regions", "regions_class_order")
        },
        "modality": {"type": ["string", "number"]},
        "num_channels": {"type": "integer", "minimum": 1, "maximum": 1000},
        "num_classes_with_background": {"type": "integer", "minimum": 1, "maximum": 255},
    },
    ("spacings_mm", "shapes_after_crop", "median_relative_size_after_cropping"),
    description="Give the fingerprint that dynunet-bundle plan wrote, or nnU-Net's.",
)
"""Schema of a fingerprint file: ours, or nnU-Net's, which has no axcodes, intensities or names."""


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
        target_mm: target spacing that the user chose, or None.
    """

    axcodes: str
    spacings_mm: np.ndarray
    shapes_after_crop: np.ndarray
    median_relative_size: float
    intensities: list[dict[str, float]]
    label_voxels: dict[int, int] = field(default_factory=dict)
    target_mm: tuple[float, ...] | None = None

    def aimed_at(self, spacing_mm: Sequence[float]) -> "Fingerprint":
        """The same facts with a target spacing; its coarsest axis comes first, unless all cases are single slices.

        Args:
            spacing_mm: z, y, x, i.e. superior, anterior and right: the order of nnU-Net's arrays.
        """
        is_flat = (self.shapes_after_crop[:, 0] == 1).all()
        axcodes = self.axcodes if is_flat else AXCODES[int(np.argmax(spacing_mm))]
        order = [self.axcodes.index(code) for code in axcodes]
        return replace(
            self,
            axcodes=axcodes,
            spacings_mm=self.spacings_mm[:, order],
            shapes_after_crop=self.shapes_after_crop[:, order],
            target_mm=tuple(spacing_mm[AXCODES[0].index(code)] for code in axcodes),
        )

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

        Args:
            content: JSON data that fits ``FINGERPRINT_SCHEMA``.

        Raises:
            PlanError: if the numbers of spacings and shapes differ.
        """
        spacings = np.array(content["spacings_mm"], dtype=float)
        shapes = np.array(content["shapes_after_crop"])
        if spacings.shape != shapes.shape:
            raise PlanError(
                f"the fingerprint has {len(spacings)} spacings and {len(shapes)} shapes; each case needs both."
            )
        voxels = content.get("label_voxels") or {}
        return cls(
            content.get("axcodes", AXCODES[0]),
            spacings,
            shapes,
            float(content["median_relative_size_after_cropping"]),
            [dict(statistics) for statistics in content.get("intensities") or ()],
            {int(value): count for value, count in voxels.items()},
        )

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
    require_usable(all_findings(surveys) + dataset_findings(dataset), len(surveys))
    return Fingerprint.of([survey.facts for survey in surveys if survey.facts is not None])


def are_pictures(dataset: DatasetDescription, fingerprint: Fingerprint) -> bool:
    """Whether all training cases are plain pictures, which have no size in mm; not if their files are unknown.

    Args:
        dataset: the data set.
        fingerprint: its facts.
    """
    files = [file for case in dataset.training for file in image_files(case)]
    is_flat = bool((fingerprint.shapes_after_crop[:, 0] == 1).all())
    return bool(files) and is_flat and all(counts_pixels(file, (1,)) for file in files)


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

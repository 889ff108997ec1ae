"""What a data set looks like: shapes after the nonzero crop, spacings, and the foreground intensities of a CT."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from dynunet_bundle.dataset import Case, MsdDataset
from dynunet_bundle.errors import CaseError, DatasetError, PlanError, first_line
from dynunet_bundle.files import case_name
from dynunet_bundle.progress import progress

CANONICAL_AXES = "RAS"
SAMPLES_PER_CASE = 10_000
SAMPLE_SEED = 1234

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
        intensity_statistics: for each channel None, or for a CT the 0.5 and 99.5 percentile (``lower``, ``upper``),
            ``mean`` and ``std`` of the foreground voxels of the whole set.
    """

    axcodes: str
    spacings_mm: np.ndarray
    shapes_after_crop: np.ndarray
    median_relative_size: float
    intensity_statistics: list[dict[str, float] | None]

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON data, see ``from_json``."""
        return {
            "axcodes": self.axcodes,
            "spacings_mm": self.spacings_mm.tolist(),
            "shapes_after_crop": self.shapes_after_crop.tolist(),
            "median_relative_size_after_cropping": self.median_relative_size,
            "intensity_statistics": self.intensity_statistics,
            "num_training": len(self.spacings_mm),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Fingerprint":
        """Read saved facts; nnU-Net's own, without ``axcodes`` and statistics, are taken as (z, y, x).

        Raises:
            PlanError: if facts are missing or do not belong together.
        """
        try:
            spacings = np.array(content["spacings_mm"], dtype=float)
            shapes = np.array(content["shapes_after_crop"])
            relative_size = float(content["median_relative_size_after_cropping"])
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"the fingerprint is incomplete or malformed ({error!r}).") from error
        if spacings.shape != shapes.shape or spacings.ndim != 2 or spacings.shape[1] != 3:  # noqa: PLR2004
            raise PlanError(
                f"the fingerprint has spacings of shape {spacings.shape} and shapes of shape {shapes.shape}; "
                "both must be [cases, 3]."
            )
        statistics = content.get("intensity_statistics")
        if statistics is None:
            statistics = [None] * int(content.get("num_channels", 1))
        return cls(content.get("axcodes", AXCODES[0]), spacings, shapes, relative_size, statistics)


def extract(dataset: MsdDataset, num_workers: int = 2) -> Fingerprint:
    """Read all training cases, a few at a time.

    Args:
        dataset: the data set.
        num_workers: threads that read at the same time.

    Raises:
        CaseError: if an image is not a 3D volume or has another number of channels than the data set.
    """
    num_channels = len(dataset.channel_names)
    ct_channels = [i for i, name in enumerate(dataset.channel_names) if is_ct(name)]
    with ThreadPoolExecutor(num_workers) as pool:
        read = pool.map(
            lambda case: _CaseFacts.read(case, num_channels, ct_channels), dataset.training
        )
        facts = list(progress(read, "fingerprint", total=len(dataset.training)))
    samples = np.concatenate([one.samples for one in facts])
    statistics: list[dict[str, float] | None] = [None] * num_channels
    for column, channel in enumerate(ct_channels):
        statistics[channel] = _statistics(samples[:, column])
    spacings = np.array([one.spacing for one in facts])
    superior_first = np.median(spacings, axis=0)[[CANONICAL_AXES.index(code) for code in "SAR"]]
    axcodes = AXCODES[int(np.argmax(superior_first))]
    order = [CANONICAL_AXES.index(code) for code in axcodes]
    return Fingerprint(
        axcodes,
        spacings[:, order],
        np.array([one.cropped for one in facts])[:, order],
        float(np.median([np.prod(one.cropped) / np.prod(one.shape) for one in facts])),
        statistics,
    )


def is_ct(channel_name: str) -> bool:
    """Whether a channel is normalised as a CT; like nnU-Net, by its name."""
    return channel_name.strip().lower() == "ct"


@dataclass(frozen=True)
class _CaseFacts:
    """One case, axes in canonical order; ``samples`` are foreground voxels of the CT channels."""

    shape: np.ndarray
    cropped: np.ndarray
    spacing: np.ndarray
    samples: np.ndarray

    @classmethod
    def read(cls, case: Case, num_channels: int, ct_channels: Sequence[int]) -> "_CaseFacts":
        header = _checked_header(case, num_channels)
        image = _voxels(case, "image")
        volume = image.reshape(*image.shape[:3], num_channels)
        order = np.argsort(nib.io_orientation(header.affine)[:, 0])
        return cls(
            np.array(volume.shape[:3])[order],
            _nonzero_extent(volume)[order],
            voxel_sizes(header.affine)[order],
            _foreground_samples(case, volume, ct_channels),
        )


def _checked_header(case: Case, num_channels: int) -> Any:
    name = case_name(case["image"])
    try:
        image = nib.load(case["image"])
    except Exception as error:
        raise CaseError(
            name, f"cannot read its image ({first_line(error)})", "Replace the file."
        ) from error
    shape = image.shape
    found = shape[3] if len(shape) == 4 else 1  # noqa: PLR2004 - x, y, z and channel
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise CaseError(
            name, f"its image has shape {shape}, not a 3D volume", "Plan 3D volumes only."
        )
    if found != num_channels:
        raise CaseError(
            name,
            f"its image has {found} channel(s), dataset.json names {num_channels}",
            "Correct the file or the modality table.",
        )
    return image


def _nonzero_extent(volume: np.ndarray) -> np.ndarray:
    """Voxels of the box around what is not zero in any channel; the whole volume where all is zero."""
    content = (volume != 0).any(axis=-1)
    extent = []
    for axis in range(3):
        occupied = np.flatnonzero(content.any(axis=tuple({0, 1, 2} - {axis})))
        extent.append(occupied[-1] - occupied[0] + 1 if len(occupied) else content.shape[axis])
    return np.array(extent)


def _foreground_samples(case: Case, volume: np.ndarray, channels: Sequence[int]) -> np.ndarray:
    """Up to ``SAMPLES_PER_CASE`` foreground voxels of the CT channels, ``[samples, channels]``."""
    if not channels:
        return np.empty((0, 0), np.float32)
    label = _voxels(case, "label")
    if volume.shape[:3] != label.shape[:3]:
        raise CaseError(
            case_name(case["image"]),
            f"image and label have different shapes, {volume.shape[:3]} and {label.shape}",
            "Pair the image with its own label.",
        )
    voxels = volume.reshape(label.size, -1)[np.flatnonzero(label.reshape(-1) > 0)][:, channels]
    if len(voxels) > SAMPLES_PER_CASE:
        chosen = np.random.default_rng(SAMPLE_SEED).choice(len(voxels), SAMPLES_PER_CASE)
        voxels = voxels[chosen]
    return voxels


def _voxels(case: Case, key: str) -> np.ndarray:
    try:
        return np.asanyarray(nib.load(case[key]).dataobj, dtype=np.float32)
    except Exception as error:
        raise CaseError(
            case_name(case["image"]),
            f"cannot read its {key} ({first_line(error)})",
            "Replace the file.",
        ) from error


def _statistics(values: np.ndarray) -> dict[str, float]:
    if not values.size:
        raise DatasetError("no label has any foreground. A CT cannot be normalised without it.")
    lower, upper = np.percentile(values, [0.5, 99.5])
    return {
        "lower": round(float(lower), 4),
        "upper": round(float(upper), 4),
        "mean": round(float(values.mean()), 4),
        "std": round(float(values.std()), 4),
    }

"""What a data set looks like: shapes, spacings, and the intensities of the foreground of a CT."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from dynunet_bundle.dataset import Case, MsdDataset
from dynunet_bundle.errors import CaseError, DatasetError, first_line
from dynunet_bundle.files import case_name
from dynunet_bundle.progress import progress

CANONICAL_AXES = "RAS"
SAMPLES_PER_CASE = 10_000
SAMPLE_SEED = 1234


@dataclass(frozen=True)
class Fingerprint:
    """Facts about all training cases.

    Attributes:
        shapes: voxels by case and axis, ``[cases, 3]``, axes in the order right, anterior, superior.
        spacings_mm: voxel sizes, likewise.
        intensity_statistics: for each channel None, or for a CT the 0.5 and 99.5 percentile (``lower``, ``upper``),
            ``mean`` and ``std`` of the foreground voxels of the whole set.
    """

    shapes: np.ndarray
    spacings_mm: np.ndarray
    intensity_statistics: list[dict[str, float] | None]


def extract(dataset: MsdDataset, num_workers: int = 2) -> Fingerprint:
    """Read all training cases; of an MR only the headers, since it is normalised case by case.

    Args:
        dataset: the data set.
        num_workers: threads that read at the same time.

    Raises:
        CaseError: if an image is not a 3D volume or has another number of channels than the data set.
    """
    num_channels = len(dataset.channel_names)
    ct_channels = [i for i, name in enumerate(dataset.channel_names) if is_ct(name)]

    def read(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape, spacing = _geometry(case, num_channels)
        return shape, spacing, _foreground_samples(case, ct_channels)

    with ThreadPoolExecutor(num_workers) as pool:
        facts = list(
            progress(pool.map(read, dataset.training), "fingerprint", total=len(dataset.training))
        )
    samples = np.concatenate([samples for _, _, samples in facts])
    statistics: list[dict[str, float] | None] = [None] * num_channels
    for column, channel in enumerate(ct_channels):
        statistics[channel] = _statistics(samples[:, column])
    return Fingerprint(
        np.array([shape for shape, _, _ in facts]),
        np.array([spacing for _, spacing, _ in facts]),
        statistics,
    )


def is_ct(channel_name: str) -> bool:
    """Whether a channel is normalised as a CT; like nnU-Net, by its name."""
    return channel_name.strip().lower() == "ct"


def _geometry(case: Case, num_channels: int) -> tuple[np.ndarray, np.ndarray]:
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
    orientation = nib.io_orientation(image.affine)
    order = np.argsort(orientation[:, 0])
    spacing = voxel_sizes(image.affine)
    return np.array(shape[:3])[order], spacing[order]


def _foreground_samples(case: Case, channels: Sequence[int]) -> np.ndarray:
    """Up to ``SAMPLES_PER_CASE`` foreground voxels of the CT channels, ``[samples, channels]``."""
    if not channels:
        return np.empty((0, 0), np.float32)
    image, label = (_voxels(case, key) for key in ("image", "label"))
    if image.shape[:3] != label.shape[:3]:
        raise CaseError(
            case_name(case["image"]),
            f"image and label have different shapes, {image.shape} and {label.shape}",
            "Pair the image with its own label.",
        )
    voxels = image.reshape(label.size, -1)[np.flatnonzero(label.reshape(-1) > 0)][:, channels]
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

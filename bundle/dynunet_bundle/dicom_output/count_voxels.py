"""Count the voxels of a written segmentation from its file, so that the structured report agrees with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynunet_bundle.dicom_input.geometry import MAX_SHIFT_VOXELS
from dynunet_bundle.dicom_input.parse import require_pydicom
from dynunet_bundle.dicom_output.object import building
from dynunet_bundle.dicom_output.slice_grid import lps_affine, slice_positions
from dynunet_bundle.errors import ObjectError

if TYPE_CHECKING:
    from dynunet_bundle.dicom_input.series import DicomSeries


def count_voxels(path: Path, series: "DicomSeries") -> tuple[Any, dict[int, int]]:
    """Count the voxels of each segment of a BINARY segmentation.

    Args:
        path: the segmentation file.
        series: the images that it belongs to.

    Returns:
        The object as a ``pydicom.Dataset``, and the number of voxels by segment number.

    Raises:
        ObjectError: if the file is not a BINARY segmentation, or is on another grid.
    """
    require_pydicom()
    from pydicom import dcmread

    with building("mask"):
        dataset = dcmread(path)
        found = dataset.get("SegmentationType")
        if found != "BINARY":
            raise ObjectError(
                f"{path.name} is not a BINARY segmentation but {found or 'another object'}. Pass another file."
            )
        counts = _counts(dataset)
    voxels = {int(item.SegmentNumber): 0 for item in dataset.SegmentSequence}
    numbers, _ = _places(dataset, series)
    for number, count in zip(numbers, counts, strict=True):
        voxels[number] += count
    return dataset, voxels


def _counts(dataset: Any) -> list[int]:
    """Voxels of each frame. Only one is unpacked at a time: all of them take eight times their size in the file.

    pydicom's ``iter_pixels`` refuses frames that do not begin with a byte.
    """
    packed = np.frombuffer(dataset.PixelData, np.uint8)
    size = dataset.Rows * dataset.Columns
    counts = []
    for start in range(0, size * int(dataset.NumberOfFrames), size):
        first, skipped = divmod(start, 8)
        voxels = np.unpackbits(packed[first:], count=skipped + size, bitorder="little")
        counts.append(int(np.count_nonzero(voxels[skipped:])))
    return counts


def _places(dataset: Any, series: "DicomSeries") -> tuple[list[int], list[int]]:
    """Segment number and slice index in the series of each frame."""
    slices = slice_positions(series)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    to_voxels = np.linalg.inv(lps_affine(series)[:3, :3])
    numbers, places = [], []
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        groups = (frame, shared)
        position = np.array(_group(groups, "PlanePositionSequence").ImagePositionPatient, float)
        place = int(np.linalg.norm(slices - position, axis=1).argmin())
        _require_same_grid(dataset, groups, series, to_voxels @ (position - slices[place]))
        numbers.append(int(_group(groups, "SegmentIdentificationSequence").ReferencedSegmentNumber))
        places.append(place)
    return numbers, places


def _group(groups: Sequence[Any], keyword: str) -> Any:
    return next(group[keyword].value[0] for group in groups if keyword in group)


def _require_same_grid(
    dataset: Any, groups: Sequence[Any], series: "DicomSeries", shift: np.ndarray
) -> None:
    directions = np.array(_group(groups, "PlaneOrientationSequence").ImageOrientationPatient, float)
    rows, columns = map(float, _group(groups, "PixelMeasuresSequence").PixelSpacing)
    steps = np.stack([directions[:3] * columns, directions[3:] * rows], axis=1)
    expected = lps_affine(series)[:3, :2]
    shape = (dataset.Columns, dataset.Rows)
    # shift of the far corner, in voxels, if the voxel size or direction differs
    drift = np.linalg.norm(steps - expected, axis=0) * shape / np.linalg.norm(expected, axis=0)
    if shape != series.array.shape[-3:-1] or max(*np.abs(shift), *drift) > MAX_SHIFT_VOXELS:
        raise ObjectError(
            "the segmentation is on another grid than the series. Resample it to the series."
        )

"""DICOM Segmentation objects -> masks and probabilities on the grid of their series."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynunet_bundle.dicom_input.parse import require_pydicom
from dynunet_bundle.dicom_output.headers import lps_affine, slice_positions
from dynunet_bundle.dicom_output.labels import short_label, value_of
from dynunet_bundle.dicom_output.object import building
from dynunet_bundle.errors import OutputError

if TYPE_CHECKING:
    from dynunet_bundle.dicom_input.series import DicomSeries

MAX_SHIFT_VOXELS = 0.1
"""How far a frame may lie from its slice."""


def read_seg(
    path: Path, series: "DicomSeries", labels: Mapping[str, int] | None = None
) -> np.ndarray:
    """Read a BINARY segmentation as the mask it was written from.

    Args:
        path: a file of ``write_seg``, or of another program on the grid of the series.
        series: the images that it belongs to.
        labels: label values by the name of the segment; by default what ``write_seg`` noted, else segment numbers.

    Returns:
        ``[X, Y, Z]``, label values; where segments overlap that of the later one.

    Raises:
        OutputError: if it is FRACTIONAL, lies on another grid, or has a segment that ``labels`` lacks.
    """
    dataset, frames = _read(path, "BINARY")
    values = {}
    for item in dataset.SegmentSequence:
        number, note = int(item.SegmentNumber), item.get("SegmentDescription")
        values[number] = value_of(str(item.SegmentLabel), note, number, labels)
    kind = np.uint8 if max(values.values()) <= np.iinfo(np.uint8).max else np.uint16
    mask = np.zeros(series.array.shape[-3:], kind)
    places = _places(dataset, series)
    for number, place, frame in sorted(zip(*places, frames, strict=True), key=lambda item: item[0]):
        mask[:, :, place][frame.T != 0] = values[number]
    return mask


def read_probabilities(
    path: Path, series: "DicomSeries", labels: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Read a FRACTIONAL segmentation.

    Args:
        path: a file of ``write_probabilities``, or of another program on the grid of the series.
        series: the images that it belongs to.
        labels: names to return, by default those in the file; the ones that it lacks are zero.

    Returns:
        ``[X, Y, Z]`` float32 by the name of the segment.

    Raises:
        OutputError: if it is BINARY or lies on another grid.
    """
    dataset, frames = _read(path, "FRACTIONAL")
    names = {int(item.SegmentNumber): str(item.SegmentLabel) for item in dataset.SegmentSequence}
    wanted = list(names.values()) if labels is None else [name for name in labels if labels[name]]
    shape = series.array.shape[-3:]
    volumes = {short_label(name): np.zeros(shape, np.float32) for name in wanted}
    for number, place, frame in zip(*_places(dataset, series), frames, strict=True):
        if names[number] in volumes:
            volumes[names[number]][:, :, place] = frame.T / float(dataset.MaximumFractionalValue)
    return {name: volumes[short_label(name)] for name in wanted}


def count_voxels(path: Path, series: "DicomSeries") -> tuple[Any, dict[int, int]]:
    """Count the voxels of each segment of a BINARY segmentation.

    Args:
        path: of the segmentation.
        series: the images that it belongs to.

    Returns:
        The object as a ``pydicom.Dataset``, and the number of voxels by segment number.

    Raises:
        OutputError: if it is FRACTIONAL or lies on another grid.
    """
    dataset, frames = _read(path, "BINARY")
    voxels = {int(item.SegmentNumber): 0 for item in dataset.SegmentSequence}
    numbers, _ = _places(dataset, series)
    for number, frame in zip(numbers, frames, strict=True):
        voxels[number] += int(np.count_nonzero(frame))
    return dataset, voxels


def _read(path: Path, kind: str) -> tuple[Any, np.ndarray]:
    require_pydicom()
    from pydicom import dcmread

    with building("mask"):
        dataset = dcmread(path)
        found = dataset.get("SegmentationType")
        if found != kind:
            raise OutputError(
                f"{path.name} is no {kind} segmentation but {found or 'another object'}. Pass another file."
            )
        frames = dataset.pixel_array
    return dataset, frames if frames.ndim > 2 else frames[np.newaxis]


def _places(dataset: Any, series: "DicomSeries") -> tuple[list[int], list[int]]:
    """By frame its segment number and its slice in the series."""
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
    # the corner that a wrong step moves farthest
    drift = np.linalg.norm(steps - expected, axis=0) * shape / np.linalg.norm(expected, axis=0)
    if shape != series.array.shape[-3:-1] or max(*np.abs(shift), *drift) > MAX_SHIFT_VOXELS:
        raise OutputError(
            "the segmentation lies on another grid than the series. Resample it first."
        )

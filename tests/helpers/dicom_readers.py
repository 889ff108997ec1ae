"""Readers of the objects that the package writes, for round trips; test_seg.py also uses highdicom's reader."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread

from dynunet_bundle.dicom_input.series import DicomSeries
from dynunet_bundle.dicom_output.count_voxels import _places
from dynunet_bundle.dicom_output.labels import VALUE_NOTE, short_label
from dynunet_bundle.dicom_output.object import building
from dynunet_bundle.dicom_output.rtstruct import CONTOUR_DATA
from dynunet_bundle.dicom_output.slice_grid import lps_affine
from dynunet_bundle.errors import OutputError

MAX_OFF_PLANE_VOXELS = 0.1
"""Largest distance of a contour from the middle of its slice."""


def read_seg(
    path: Path, series: DicomSeries, labels: Mapping[str, int] | None = None
) -> np.ndarray:
    """Read a BINARY segmentation as the mask it was written from.

    Args:
        path: a file of ``write_seg``, or of another program on the grid of the series.
        series: its images.
        labels: label values by segment name; by default those noted by ``write_seg``, or else segment numbers.

    Returns:
        ``[X, Y, Z]``, label values; where segments overlap, that of the later one.

    Raises:
        OutputError: if it is FRACTIONAL, is on another grid, or has a segment that ``labels`` lacks.
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
    path: Path, series: DicomSeries, labels: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Read a FRACTIONAL segmentation.

    Args:
        path: a file of ``write_probabilities``, or of another program on the grid of the series.
        series: its images.
        labels: names to return, by default those in the file; missing ones are zero.

    Returns:
        ``[X, Y, Z]`` float32 by segment name.

    Raises:
        OutputError: if it is BINARY or on another grid.
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


def _read(path: Path, kind: str) -> tuple[Any, np.ndarray]:
    """The object and all its frames, ``[N, rows, columns]``."""
    dataset = dcmread(path)
    if dataset.SegmentationType != kind:
        raise OutputError(f"{path.name} is not a {kind} segmentation")
    frames = dataset.pixel_array
    return dataset, frames if frames.ndim > 2 else frames[np.newaxis]


def read_rtstruct(
    path: Path, series: DicomSeries, labels: Mapping[str, int] | None = None
) -> np.ndarray:
    """Read the closed contours of a structure set as a mask.

    A voxel belongs to a region if its centre is inside an odd number of the polygons of its slice. This rule covers
    keyholes and holes that are separate polygons.

    Args:
        path: a file of ``write_rtstruct``, or of another program with contours in the slices of the series.
        series: its images.
        labels: label values by region name; by default those noted by ``write_rtstruct``, or else ROI numbers.

    Returns:
        ``[X, Y, Z]``, label values; where regions overlap, that of the later one.

    Raises:
        OutputError: if it is another object, a contour is not in any slice, or ``labels`` lacks a region.
    """
    with building("mask"):
        dataset = dcmread(path)
        if dataset.get("Modality") != "RTSTRUCT":
            raise OutputError(f"{path.name} is no RT structure set. Pass another file.")
        contours = {
            int(item.ReferencedROINumber): item.get("ContourSequence") or ()
            for item in dataset.ROIContourSequence
        }
        values = {}
        for item in dataset.StructureSetROISequence:
            number = int(item.ROINumber)
            note = item.get("ROIDescription")
            values[number] = value_of(str(item.get("ROIName") or ""), note, number, labels)
        kind = np.uint8 if max(values.values()) <= np.iinfo(np.uint8).max else np.uint16
        mask = np.zeros(series.array.shape[-3:], kind)
        for number, value in values.items():
            mask[_filled(contours.get(number, ()), series)] = value
    return mask


def _filled(contours: Any, series: DicomSeries) -> np.ndarray:
    """``[X, Y, Z]`` bool: the voxels enclosed by the closed contours of a region."""
    shape = series.array.shape[-3:]
    to_voxels = np.linalg.inv(lps_affine(series))
    polygons: dict[int, list[np.ndarray]] = {}
    for contour in contours:
        if str(contour.ContourGeometricType).startswith("CLOSED"):
            points = _points(contour)
            voxels = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
            place = round(float(voxels[:, 2].mean()))
            off = float(np.abs(voxels[:, 2] - place).max())
            if off > MAX_OFF_PLANE_VOXELS or not 0 <= place < shape[2]:
                raise OutputError(
                    f"a contour lies {off:.2f} voxels from slice {place + 1} of {shape[2]}. "
                    "Pass the series that the structure set was drawn on."
                )
            polygons.setdefault(place, []).append(voxels[:, :2])
    inside = np.zeros((shape[2], *shape[:2]), bool)
    for place, found in polygons.items():
        inside[place] = fill(found, shape[:2])
    return inside.transpose(1, 2, 0)


def _points(contour: Any) -> np.ndarray:
    """``[N, 3]`` mm, LPS+; parsed from the text in the file, which is faster than pydicom's numbers."""
    element = contour.get_item(CONTOUR_DATA)
    values = element.value.decode().split("\\") if element.is_raw else element.value
    return np.array(values, float).reshape(-1, 3)


def fill(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Find the voxels whose centres lie inside an odd number of polygons.

    Args:
        polygons: ``[N, 2]`` each.
        shape: ``(X, Y)`` of the slice.

    Returns:
        ``[X, Y]`` bool.
    """
    starts = np.concatenate([*polygons, np.empty((0, 2))])
    ends = np.concatenate([*(np.roll(polygon, -1, axis=0) for polygon in polygons), starts[:0]])
    # rows of voxel centres crossed by each edge; an edge that ends on a row crosses it only from below
    low, high = np.ceil(np.sort([starts[:, 1], ends[:, 1]], axis=0)).clip(0, shape[1]).astype(int)
    counts = high - low
    edge = np.repeat(np.arange(len(starts)), counts)
    rows = low[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    (x0, y0), (x1, y1) = starts[edge].T, ends[edge].T
    columns = np.ceil(x0 + (rows - y0) * (x1 - x0) / (y1 - y0)).clip(0, shape[0]).astype(int)
    # only the lowest bit of the counts matters, so they may overflow
    crossings = np.zeros((shape[0] + 1, shape[1]), np.uint8)
    np.add.at(crossings, (columns, rows), 1)
    inside: np.ndarray = np.bitwise_xor.accumulate(crossings, axis=0)[:-1] & 1 == 1
    return inside


def value_of(label: str, note: Any, number: int, labels: Mapping[str, int] | None) -> int:
    """The label value of a segment or region.

    Args:
        label: its name.
        note: its description.
        number: its number.
        labels: label values by name, or None to use the description, or else the number.

    Raises:
        OutputError: if ``labels`` lacks it.
    """
    if labels is None:
        match = re.fullmatch(VALUE_NOTE.format(r"(\d+)"), str(note or ""))
        return int(match[1]) if match else number
    by_label = {short_label(name): value for name, value in labels.items()}
    if label not in by_label:
        raise OutputError(
            f'the object has "{label}", the labels are {sorted(labels)}. Add its value.'
        )
    return by_label[label]

"""RT Structure Sets -> masks on the grid of their series."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynunet_bundle.dicom_input.parse import require_pydicom
from dynunet_bundle.dicom_output.headers import lps_affine
from dynunet_bundle.dicom_output.labels import value_of
from dynunet_bundle.dicom_output.object import building
from dynunet_bundle.dicom_output.outlines import fill
from dynunet_bundle.errors import OutputError

if TYPE_CHECKING:
    from dynunet_bundle.dicom_input.series import DicomSeries

CONTOUR_DATA = 0x30060050

MAX_OFF_PLANE_VOXELS = 0.1
"""How far a contour may lie from the middle of its slice."""


def read_rtstruct(
    path: Path, series: "DicomSeries", labels: Mapping[str, int] | None = None
) -> np.ndarray:
    """Read the closed contours of a structure set as a mask.

    A voxel belongs to a region where its centre lies inside an odd number of the polygons of its slice, which holds for
    keyholes and for holes that are polygons of their own.

    Args:
        path: a file of ``write_rtstruct``, or of another program with contours in the slices of the series.
        series: the images that it belongs to.
        labels: label values by the name of the region; by default what ``write_rtstruct`` noted, else ROI numbers.

    Returns:
        ``[X, Y, Z]``, label values; where regions overlap that of the later one.

    Raises:
        OutputError: if it is another object, a contour lies in no slice, or ``labels`` lacks a region.
    """
    require_pydicom()
    from pydicom import dcmread

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


def _filled(contours: Any, series: "DicomSeries") -> np.ndarray:
    """``[X, Y, Z]`` bool: what the closed contours of a region enclose."""
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
    """``[N, 3]`` mm, LPS+; from the text in the file, which is faster than pydicom's numbers."""
    element = contour.get_item(CONTOUR_DATA)
    values = element.value.decode().split("\\") if element.is_raw else element.value
    return np.array(values, float).reshape(-1, 3)

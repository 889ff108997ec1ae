"""Geometry of the slices of a series, even and straight enough for the readers of derived objects.

Reading allows positions and directions that are rounded or noisy, up to a tenth of a voxel. highdicom, dciodvfy and
dcmqi allow much less. So an object gets the grid of the series' affine where the headers deviate from it.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from dynunet_bundle.dicom_input.geometry import LPS_TO_RAS, MAX_SHIFT_VOXELS
from dynunet_bundle.errors import ObjectError

if TYPE_CHECKING:
    from dynunet_bundle.dicom_input.series import DicomSeries

EVEN_MM = 1e-3
"""Largest distance in mm of a slice from the even grid that is left as it is; dcmqi allows more in its steps."""

STRAIGHT = 1e-5
"""Largest deviation from orthonormal directions that is left as it is; headers with 6 decimals have less."""

POSITION_DIGITS = 6  # decimals of a position in mm
DIRECTION_DIGITS = 10  # decimals of a direction cosine; a decimal string has at most 16 characters


def is_multi_frame(header: Any) -> bool:
    """Whether a header is of an Enhanced object, which contains all slices."""
    return "PerFrameFunctionalGroupsSequence" in header


def lps_affine(series: "DicomSeries") -> np.ndarray:
    """The affine of a series in DICOM's LPS+ millimetres, ``[4, 4]``."""
    return LPS_TO_RAS @ series.affine


def voxel_ml(series: "DicomSeries") -> float:
    """Volume of a voxel in millilitres."""
    return float(abs(np.linalg.det(series.affine[:3, :3])) / 1000)


def require_grid(array: np.ndarray, series: "DicomSeries") -> None:
    """Refuse an array that is not on the series' grid.

    Args:
        array: ``[..., X, Y, Z]``.
        series: the series with the expected grid.

    Raises:
        ObjectError: if the shapes differ.
    """
    if array.shape[-3:] != series.array.shape[-3:]:
        raise ObjectError(
            f"the mask has the shape {array.shape[-3:]}, the series has {series.array.shape[-3:]}. "
            "Resample the mask to the series."
        )


def slice_positions(series: "DicomSeries") -> np.ndarray:
    """Positions of the slices of a series in a derived object.

    Args:
        series: a series of Z slices.

    Returns:
        Centre of the first voxel of each slice, ``[Z, 3]``, mm, LPS+: that of its header, or on the even grid if the
        headers deviate from it.
    """
    found = _header_positions(series)
    return found if _is_straight(series, found) else _even_positions(series)


def straighten(headers: list[Any], series: "DicomSeries") -> None:
    """Put the even positions and orthogonal directions of a series into copies of its headers, where they deviate.

    Args:
        headers: headers of ``source_headers``, changed in place.
        series: the series.
    """
    if _is_straight(series, _header_positions(series)):
        return
    directions = [f"{value:.{DIRECTION_DIGITS}f}" for value in _axes(series)[:, :2].T.ravel()]
    places = [
        [f"{value:.{POSITION_DIGITS}f}" for value in place] for place in _even_positions(series)
    ]
    first = headers[0]
    if not is_multi_frame(first):
        for header, place in zip(headers, places, strict=True):
            header.ImagePositionPatient, header.ImageOrientationPatient = place, directions
        return
    shared = first.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = directions
    groups = first.PerFrameFunctionalGroupsSequence
    for group in groups:
        group.pop("PlaneOrientationSequence", None)
    for number, place in zip(series.frame_numbers, places, strict=True):
        groups[number - 1].PlanePositionSequence[0].ImagePositionPatient = place


def require_straight(series: "DicomSeries") -> None:
    """Refuse a series that was read with its gantry tilt: highdicom and dcmqi do not read sheared segmentations.

    Raises:
        ObjectError: if the slices are not stacked along their normal.
    """
    steps = lps_affine(series)[:3, :3]
    spacing = np.linalg.norm(steps[:, :2], axis=0)
    # shift of the last slice along columns and rows, in voxels
    shift = steps[:, 2] @ (steps[:, :2] / spacing**2) * (series.array.shape[-1] - 1)
    if np.abs(shift).max() > MAX_SHIFT_VOXELS:
        raise ObjectError(
            "the slices are sheared (gantry tilt), and a DICOM result has straight ones. Take the mask as NIfTI alone "
            "(--dicom without values)."
        )


def _header_positions(series: "DicomSeries") -> np.ndarray:
    first = series.headers[0]
    if not is_multi_frame(first):
        return np.array([header.ImagePositionPatient for header in series.headers], float)
    groups = first.PerFrameFunctionalGroupsSequence
    frames = [groups[number - 1] for number in series.frame_numbers]
    return np.array(
        [frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float
    )


def _axes(series: "DicomSeries") -> np.ndarray:
    """The orthonormal directions of columns, rows and slices that are closest to those of the affine, ``[3, 3]``."""
    steps = lps_affine(series)[:3, :3]
    left, _, right = np.linalg.svd(steps / np.linalg.norm(steps, axis=0))
    return left @ right


def _even_positions(series: "DicomSeries") -> np.ndarray:
    found = _header_positions(series)
    normal = _axes(series)[:, 2]
    step = float(np.linalg.norm(series.affine[:3, 2]))
    # as close as possible to all slices
    along = step * (np.arange(len(found)) - (len(found) - 1) / 2)
    return np.round(found.mean(axis=0) + along[:, np.newaxis] * normal, POSITION_DIGITS)


def _is_straight(series: "DicomSeries", positions: np.ndarray) -> bool:
    steps = lps_affine(series)[:3, :3]
    directions = steps / np.linalg.norm(steps, axis=0)
    skew = np.abs(directions.T @ directions - np.eye(3)).max()
    even = positions[0] + np.arange(len(positions))[:, np.newaxis] * steps[:, 2]
    return bool(skew <= STRAIGHT and np.abs(positions - even).max() <= EVEN_MM)

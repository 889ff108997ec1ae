"""Read image files as channels-first volumes with three spatial axes and an affine in RAS+ millimetres.

NIfTI is read by nibabel, DICOM by pydicom, other formats by SimpleITK. A picture (PNG, BMP, TIFF) or any other 2D file
becomes a volume of one slice. Files are not trusted: the size in a header is compared to a limit before memory is
allocated (``limits.py``), and a header cannot refer to files outside its folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynunet_bundle.dicom_input.names import is_series_name
from dynunet_bundle.errors import CaseError
from dynunet_bundle.files import CHANNEL_SUFFIX, NIFTI_SUFFIXES, case_name
from dynunet_bundle.images.grid import SPATIAL_AXES, grid_difference
from dynunet_bundle.images.nifti import affine_mm, load_nifti, read_voxels
from dynunet_bundle.machine.limits import require_axes


class Volume(NamedTuple):
    """An image in memory.

    Attributes:
        array: ``[C, X, Y, Z]``, in the order in which the file stores its axes.
        affine: ``[4, 4]`` float64, from voxel indices to millimetres in RAS+.
    """

    array: np.ndarray
    affine: np.ndarray


def read_volume(path: str | Path) -> Volume:
    """Read one file in its data type; pictures have voxels of 1 mm.

    Args:
        path: an image file.

    Raises:
        CaseError: if it declares more voxels than are allowed or than it contains, or its affine is not finite.
        OSError: if SimpleITK or Pillow cannot read it; nibabel raises several kinds of errors for NIfTI.
        MemoryError: if there is less memory than it takes.
    """
    return _read_file(path)[0]


def read_channels(paths: Sequence[str]) -> tuple[Volume, list[Any]]:
    """Read an image from its files.

    Args:
        paths: one file, or one file per channel, all on the same grid.

    Returns:
        The image in the files' data type, and nibabel's image of each file's header (None if the file is not NIfTI).

    Raises:
        CaseError: if channels are on different grids, or see ``read_volume``.
        OSError: see ``read_volume``.
    """
    volumes, headers = zip(*map(_read_file, paths), strict=True)
    if len(volumes) == 1:
        return volumes[0], list(headers)
    _require_one_grid(paths, volumes)
    array = np.concatenate([volume.array for volume in volumes])
    return Volume(array, volumes[0].affine), list(headers)


def _read_file(path: str | Path) -> tuple[Volume, Any]:
    if str(path).lower().endswith(NIFTI_SUFFIXES):
        image = load_nifti(path)
        array = channels_first(read_voxels(path, image))
        return _volume(case_name(path), array, affine_mm(image)), image
    if is_series_name(path):
        # pydicom is an optional dependency
        from dynunet_bundle.dicom_input.series import load_series

        series = load_series(str(path))
        return _volume(series.name, series.array, series.affine), None
    # importing SimpleITK takes longer than reading a NIfTI file
    from dynunet_bundle.images.simpleitk import read_foreign

    return _volume(case_name(path), *read_foreign(path)), None


def _volume(case: str, array: np.ndarray, affine: np.ndarray) -> Volume:
    require_axes(case, array.shape[1:])
    return Volume(array, affine)


def channels_first(array: np.ndarray) -> np.ndarray:
    """NIfTI's (x, y[, z[, t][, c]]) with channels last -> ``[C, X, Y, Z]``."""
    while array.ndim < SPATIAL_AXES:
        array = array[..., np.newaxis]
    if array.ndim == SPATIAL_AXES:
        return array[np.newaxis]
    # files of vectors have a fourth axis of size one, for time
    return np.moveaxis(array.reshape(*array.shape[:SPATIAL_AXES], -1), -1, 0)


def _require_one_grid(paths: Sequence[str], volumes: Sequence[Volume]) -> None:
    first, affine = volumes[0]
    for path, (volume, other) in zip(paths[1:], volumes[1:], strict=True):
        difference = grid_difference(first.shape[1:], affine, volume.shape[1:], other)
        if difference:
            name = case_name(paths[0])
            match = CHANNEL_SUFFIX.match(name)
            raise CaseError(
                match["name"] if match else name,
                f"its channels are on different grids: {Path(paths[0]).name} and {Path(path).name} {difference}",
                "Resample them to one grid, or correct the list of files.",
            )


def mask_values(case: str, array: np.ndarray) -> np.ndarray:
    """Label values as whole numbers, int32, of the same shape.

    Args:
        case: name of the case.
        array: values of any type; fractions are rounded.

    Raises:
        CaseError: if a value is NaN or infinite, or no label value can be as large.
    """
    rounded = np.rint(array)
    # false for NaN
    most = np.float64(np.iinfo(np.int32).max)
    if not (np.abs(rounded) <= most).all():
        raise CaseError(
            case,
            f"its mask has values that are NaN, infinite or above {most:.0f}",
            "Use a mask with the values of the labels.",
        )
    return rounded.astype(np.int32)

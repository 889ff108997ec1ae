"""Image files that are not NIfTI: volumes by SimpleITK, pictures by SimpleITK and Pillow."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from dynunet_bundle.files import PICTURE_SUFFIXES

SPATIAL_AXES = 3
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def read_foreign(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a volume or a picture.

    Args:
        path: an image file.

    Returns:
        ``[C, X, Y, Z]`` in the order in which the file stores its axes, and the affine ``[4, 4]`` from voxel indices to
        millimetres in RAS+; pictures have voxels of 1 mm.

    Raises:
        OSError: if SimpleITK or Pillow cannot read it.
    """
    if str(path).lower().endswith(PICTURE_SUFFIXES):
        # their resolution is one for printing, and often differs between an image and its label
        return _read_picture(path), np.diag([*np.diag(LPS_TO_RAS), 1.0])
    image = _read_with_sitk(path)
    return _sitk_array(image), _affine_of(image)


def _read_picture(path: str | Path) -> np.ndarray:
    """``[C, X, Y, Z]`` of a picture; a BMP by Pillow, since SimpleITK gives grey ones colours and fills cut ones."""
    if not str(path).lower().endswith(".bmp"):
        return _sitk_array(_read_with_sitk(path))
    with Image.open(path) as picture:
        grey = picture.mode in ("1", "L")
        array = np.asarray(picture.convert("L" if grey else "RGB"))
    return array.reshape(*array.shape[:2], 1, -1).transpose(3, 1, 0, 2)


def _read_with_sitk(path: str | Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        # the lines before the last say where in SimpleITK it was found
        raise OSError(str(error).splitlines()[-1]) from None


def _sitk_array(image: sitk.Image) -> np.ndarray:
    """SimpleITK's (z, y, x) with the components of a voxel last -> ``[C, X, Y, Z]``."""
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., np.newaxis]
    dims = image.GetDimension()
    if dims == SPATIAL_AXES + 1:  # the fourth spatial axis holds channels
        array = np.moveaxis(array, 0, -1).reshape(*array.shape[1:4], -1)
    elif dims < SPATIAL_AXES:
        array = array[np.newaxis]
    return array.transpose(3, 2, 1, 0)


def _affine_of(image: sitk.Image) -> np.ndarray:
    """Affine ``[4, 4]`` in RAS+ from SimpleITK's origin, spacing and directions in LPS+."""
    dims = image.GetDimension()
    used = min(dims, SPATIAL_AXES)
    axes = np.eye(SPATIAL_AXES)
    direction = np.array(image.GetDirection()).reshape(dims, dims)[:used, :used]
    axes[:used, :used] = direction * np.array(image.GetSpacing())[:used]
    origin = np.zeros(SPATIAL_AXES)
    origin[:used] = image.GetOrigin()[:used]
    affine = np.eye(SPATIAL_AXES + 1)
    affine[:SPATIAL_AXES, :SPATIAL_AXES] = LPS_TO_RAS @ axes
    affine[:SPATIAL_AXES, SPATIAL_AXES] = LPS_TO_RAS @ origin
    return affine

"""Images from files, each as channels first on three spatial axes with one affine in RAS+ millimetres.

NIfTI is read by nibabel, all else by SimpleITK. A picture (PNG, BMP, TIFF) and any other 2D file become a volume of
one slice.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys
from PIL import Image

from dynunet_bundle.cases import CHANNEL_SUFFIX
from dynunet_bundle.errors import CaseError
from dynunet_bundle.files import IMAGE_SUFFIXES, NIFTI_SUFFIXES, PICTURE_SUFFIXES, case_name

SPATIAL_AXES = 3
MAX_CORNER_SHIFT_VOXELS = 0.1
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


class ImageFileReader(ImageReader):
    """Reader for MONAI's ``LoadImaged``: one file, or one file a channel on the same grid.

    MONAI's own readers need ``itk`` or ``pynrrd`` for NRRD and MHA, give pictures no affine and two axes, and stack
    channels of different grids as long as their shapes agree to a tolerance of the affine in millimetres.
    """

    def verify_suffix(self, filename: Any) -> bool:
        """Whether all files have a suffix that is known."""
        return all(str(name).lower().endswith(IMAGE_SUFFIXES) for name in _paths(filename))

    def read(self, data: Any, **kwargs: Any) -> list[str]:
        """Only note the files: MONAI hides what a reader raises here."""
        return _paths(data)

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Read the files.

        Returns:
            ``[C, X, Y, Z]`` in the files' own type, and the meta data that MONAI makes a MetaTensor of.

        Raises:
            CaseError: if channels lie on different grids.
        """
        volumes = [read_volume(path) for path in img]
        array, affine = volumes[0]
        if len(volumes) > 1:
            _require_one_grid(img, volumes)
            array = np.concatenate([volume for volume, _ in volumes])
        return array, {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.array(array.shape[1:]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        }


def _paths(names: Any) -> list[str]:
    listed = names if isinstance(names, Sequence) and not isinstance(names, str) else [names]
    return [str(name) for name in listed]


def read_volume(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one file.

    Args:
        path: an image file.

    Returns:
        ``[C, X, Y, Z]`` in the order in which the file stores its axes, and the affine ``[4, 4]`` from voxel indices to
        millimetres in RAS+; pictures have voxels of 1 mm.

    Raises:
        OSError: if SimpleITK or Pillow cannot read it; what nibabel raises for NIfTI is of several kinds.
    """
    if str(path).lower().endswith(NIFTI_SUFFIXES):
        image = nib.load(path)
        return _channels_first(np.asanyarray(image.dataobj)), np.array(image.affine, dtype=float)
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


def _channels_first(array: np.ndarray) -> np.ndarray:
    """NIfTI's (x, y[, z[, t][, c]]) with channels last -> ``[C, X, Y, Z]``."""
    while array.ndim < SPATIAL_AXES:
        array = array[..., np.newaxis]
    if array.ndim == SPATIAL_AXES:
        return array[np.newaxis]
    # files of vectors have a fourth axis for the time, of size one
    return np.moveaxis(array.reshape(*array.shape[:SPATIAL_AXES], -1), -1, 0)


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


def corner_shift(affine: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """How far two affines put a corner of the same volume apart, in voxels of the first.

    Args:
        affine: ``[4, 4]``, invertible.
        other: ``[4, 4]``.
        shape: voxels by axis, ``(X, Y, Z)``.
    """
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape])).reshape(3, -1)
    homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
    moved = np.linalg.solve(affine, other @ homogeneous)
    return float(np.abs(moved[:3] - corners).max())


def _require_one_grid(
    paths: Sequence[str], volumes: Sequence[tuple[np.ndarray, np.ndarray]]
) -> None:
    first, affine = volumes[0]
    for path, (volume, other) in zip(paths[1:], volumes[1:], strict=True):
        problem = None
        if volume.shape[1:] != first.shape[1:]:
            problem = f"have shapes {first.shape[1:]} and {volume.shape[1:]}"
        elif np.linalg.det(affine) != 0:
            shift = corner_shift(affine, other, first.shape[1:])
            if shift > MAX_CORNER_SHIFT_VOXELS:
                problem = f"lie {shift:.1f} voxels apart at a corner"
        if problem:
            name = case_name(paths[0])
            match = CHANNEL_SUFFIX.match(name)
            raise CaseError(
                match["name"] if match else name,
                f"its channels are on different grids: {Path(paths[0]).name} and {Path(path).name} {problem}",
                "Resample them to one grid, or take the right files together.",
            )

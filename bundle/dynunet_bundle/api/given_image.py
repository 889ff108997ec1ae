"""Images that a Python program has in memory, as the readers of files give them.

An array has the axes ``[X, Y, Z]`` or ``[C, X, Y, Z]`` in the order of its affine, a picture ``[X, Y]`` or
``[C, X, Y]``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.utils import MetaKeys, SpaceKeys
from nibabel.spatialimages import SpatialImage
from numpy.lib.recfunctions import structured_to_unstructured

from dynunet_bundle.dicom_input.geometry import LPS_TO_RAS
from dynunet_bundle.errors import CaseError, ConfigError
from dynunet_bundle.images.grid import SPATIAL_AXES
from dynunet_bundle.images.nifti import affine_mm
from dynunet_bundle.images.read import Volume, channels_first
from dynunet_bundle.machine.limits import require_axes, require_place

NUMBERS = "biuf"
"""Kinds of numpy's data types that are images: booleans, whole numbers and real numbers."""

LAST_ROW = (0.0, 0.0, 0.0, 1.0)
"""Last row of an affine in homogeneous coordinates."""

AFFINE = (
    "Pass a matrix of 4 x 4 numbers from voxel indices to millimetres in RAS+, whose last row is 0, 0, 0, 1, such as "
    "the affine of nibabel."
)
"""Remedy for a wrong affine."""


@dataclass(frozen=True)
class GivenImage:
    """An image of a program.

    Attributes:
        volume: ``[C, X, Y, Z]`` in its data type, and its affine.
        shape: shape of its mask: ``(X, Y, Z)``, or ``(X, Y)`` of a picture.
    """

    volume: Volume
    shape: tuple[int, ...]

    def tensor(self) -> MetaTensor:
        """The image as MONAI's ``LoadImaged`` gives that of a file: a copy ``[C, X, Y, Z]`` in float32."""
        with np.errstate(over="ignore"):
            # numbers beyond float32 become infinite, which the check of the case refuses
            array = np.array(self.volume.array, dtype=np.float32, order="C")
        meta = {
            MetaKeys.AFFINE: self.volume.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: self.volume.affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.array(array.shape[1:]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        }
        tensor: MetaTensor = MetaTensor.ensure_torch_and_prune_meta(array, meta)
        return tensor


def given_image(
    image: Any, affine: Any, name: str, num_channels: int, spatial_dims: int
) -> GivenImage:
    """Take an image of a program.

    Args:
        image: a numpy array or torch tensor, a MetaTensor, an image of nibabel or of SimpleITK.
        affine: ``[4, 4]`` from voxel indices to RAS+ millimetres, for an array; None for an image that has its own. A
            picture without an affine has voxels of 1 mm, as one from a file.
        name: name of the case, for messages.
        num_channels: channels of the plan.
        spatial_dims: dimensions of the plan. Three axes are a volume ``[X, Y, Z]``, except for a 2D plan if the first
            axis has the channels of the plan: then they are a picture ``[C, X, Y]``.

    Raises:
        ConfigError: for another type of image or affine.
        CaseError: if the image or the affine cannot be used.
    """
    if isinstance(image, SpatialImage):
        _require_no_affine(affine, "image of nibabel")
        found = _of_nibabel(image, name)
    elif type(image).__module__.startswith("SimpleITK"):
        _require_no_affine(affine, "image of SimpleITK")
        found = _of_simpleitk(image)
    elif isinstance(image, (np.ndarray, torch.Tensor)):
        array, affine = _array_and_affine(image, affine)
        found = _of_array(array, affine, name, num_channels if spatial_dims == 2 else None)
    else:
        raise ConfigError(
            f"the image of {name} is of type {type(image).__name__}. Pass a numpy array and its affine, a MetaTensor, "
            "or an image of nibabel or SimpleITK. The command dynunet-bundle predict takes files."
        )
    _require_usable(found, name)
    return found


def _require_no_affine(affine: Any, what: str) -> None:
    if affine is not None:
        raise ConfigError(
            f"an affine was passed with an {what}, which has its own. Pass the image alone."
        )


def _of_nibabel(image: Any, name: str) -> GivenImage:
    if image.affine is None:
        raise CaseError(name, "its image of nibabel has no affine", "Make it with an affine.")
    in_mm = hasattr(image.header, "get_xyzt_units")
    affine = affine_mm(image) if in_mm else np.array(image.affine, dtype=float)
    array = np.asanyarray(image.dataobj)
    if array.dtype.names is not None:
        array = structured_to_unstructured(array)
    return GivenImage(Volume(channels_first(array), affine), tuple(image.shape[:SPATIAL_AXES]))


def _of_simpleitk(image: Any) -> GivenImage:
    from dynunet_bundle.images.simpleitk import sitk_affine, sitk_channels

    shape = tuple(int(size) for size in image.GetSize()[:SPATIAL_AXES])
    return GivenImage(Volume(sitk_channels(image), sitk_affine(image)), shape)


def _array_and_affine(
    image: np.ndarray | torch.Tensor, affine: Any
) -> tuple[np.ndarray, np.ndarray | None]:
    """The values of an image, and its affine to RAS+ if it has one."""
    if isinstance(image, MetaTensor):
        _require_no_affine(affine, "MetaTensor")
        matrix = to_affine_nd(SPATIAL_AXES, np.asarray(image.affine.cpu(), dtype=float))
        is_lps = image.meta.get(MetaKeys.SPACE) == SpaceKeys.LPS
        return image.as_tensor().detach().cpu().numpy(), LPS_TO_RAS @ matrix if is_lps else matrix
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
    return array, None if affine is None else _matrix(affine)


def _matrix(affine: Any) -> np.ndarray:
    try:
        matrix = np.array(affine, dtype=float)
    except (TypeError, ValueError) as error:
        kind = type(affine).__name__
        raise ConfigError(
            f"the affine is a {kind} that is not a matrix of numbers. {AFFINE}"
        ) from error
    if matrix.shape != (4, 4) or (np.isfinite(matrix).all() and tuple(matrix[3]) != LAST_ROW):
        row = f" and the last row {matrix[3].tolist()}" if matrix.shape == (4, 4) else ""
        raise ConfigError(f"the affine has shape {matrix.shape}{row}. {AFFINE}")
    return matrix


def _of_array(
    array: np.ndarray, affine: np.ndarray | None, name: str, picture_channels: int | None
) -> GivenImage:
    """Put channels first and the third axis of a picture last."""
    is_picture = array.ndim == 2 or (
        array.ndim == SPATIAL_AXES and array.shape[0] == picture_channels
    )
    if array.ndim not in (2, 3, 4):
        raise CaseError(
            name,
            f"its image has shape {array.shape}",
            "Pass [X, Y, Z] or [C, X, Y, Z], or for a picture [X, Y] or [C, X, Y].",
        )
    if affine is None and not is_picture:
        raise ConfigError(f"the volume of {name} has no affine. {AFFINE}")
    has_channels = array.ndim == (3 if is_picture else 4)
    shape = array.shape[1:] if has_channels else array.shape
    channels = array if has_channels else array[np.newaxis]
    channels = channels[..., np.newaxis] if is_picture else channels
    return GivenImage(Volume(channels, LPS_TO_RAS if affine is None else affine), tuple(shape))


def _require_usable(image: GivenImage, name: str) -> None:
    """Refuse what would be an error without the name of the case later."""
    array, affine = image.volume
    if array.dtype.kind not in NUMBERS:
        raise CaseError(
            name,
            f"its voxels have the data type {array.dtype}",
            "Pass whole or real numbers, such as float32; of complex numbers the magnitude.",
        )
    if not array.size:
        raise CaseError(
            name, f"its image has no voxels, its shape is {image.shape}", "Pass a whole image."
        )
    require_axes(name, array.shape[1:])
    require_place(name, affine)

"""Image reader for MONAI's ``LoadImaged``."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from dynunet_bundle.dicom_input.names import is_series_name
from dynunet_bundle.errors import DatasetError, in_label_server
from dynunet_bundle.files import IMAGE_SUFFIXES
from dynunet_bundle.images.read import read_channels
from dynunet_bundle.shapes import excerpt


class ImageFileReader(ImageReader):
    """Reader for MONAI's ``LoadImaged``: one file, or one file per channel on the same grid.

    MONAI's own readers need ``itk`` or ``pynrrd`` for NRRD and MHA, load pictures with two axes and without an affine,
    and stack channels of different grids if their shapes agree and their affines differ by less than a tolerance in mm.
    """

    def verify_suffix(self, filename: Any) -> bool:
        """Whether all files have a known suffix or are DICOM series."""
        return all(
            name.lower().endswith(IMAGE_SUFFIXES) or is_series_name(name)
            for name in _paths(filename)
        )

    def read(self, data: Any, **kwargs: Any) -> list[str]:
        """Return the paths only: MONAI hides errors that a reader raises here."""
        return _paths(data)

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Read the files.

        Returns:
            ``[C, X, Y, Z]`` in the type of the files, and the metadata of the MetaTensor.

        Raises:
            CaseError: if the channels have different grids.
            DatasetError: if a path is empty, or in MONAI Label relative, see ``_require_place``.
        """
        _require_place(img)
        (array, affine), _ = read_channels(img)
        return array, {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.array(array.shape[1:]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        }


def _require_place(paths: Sequence[str]) -> None:
    """Refuse what would be read from the current folder although nobody means that folder.

    MONAI Label gives an empty path for an image or a session that it does not have, of which MONAI makes the current
    folder. It takes a name for a path if the folder in which its server was started has such a file; the paths of its
    studies are absolute.
    """
    for path in paths:
        if path in ("", os.curdir):
            raise DatasetError(
                "the path of the image is empty: there is no image of that name, or no such session. Check the name. "
                "For the current folder, pass its absolute path."
            )
        if in_label_server() and not os.path.isabs(path):
            raise DatasetError(
                f'"{excerpt(path)}" is not among the studies, but in the folder in which the server was started. Add '
                "the image to the studies, or give its absolute path."
            )


def _paths(names: Any) -> list[str]:
    listed = names if isinstance(names, Sequence) and not isinstance(names, str) else [names]
    return [str(name) for name in listed]

"""Files of a case -> what MONAI's ``LoadImaged`` makes a MetaTensor of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from dynunet_bundle.dicom_input.names import is_series_name
from dynunet_bundle.files import IMAGE_SUFFIXES
from dynunet_bundle.images.read import read_channels


class ImageFileReader(ImageReader):
    """Reader for MONAI's ``LoadImaged``: one file, or one file a channel on the same grid.

    MONAI's own readers need ``itk`` or ``pynrrd`` for NRRD and MHA, give pictures no affine and two axes, and stack
    channels of different grids as long as their shapes agree to a tolerance of the affine in millimetres.
    """

    def verify_suffix(self, filename: Any) -> bool:
        """Whether all files have a suffix that is known, or are DICOM series."""
        return all(
            name.lower().endswith(IMAGE_SUFFIXES) or is_series_name(name)
            for name in _paths(filename)
        )

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
        (array, affine), _ = read_channels(img)
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

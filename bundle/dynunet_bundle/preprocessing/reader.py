"""Image reader for MONAI's ``LoadImaged``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from dynunet_bundle.dicom_input.names import is_series_name
from dynunet_bundle.files import IMAGE_SUFFIXES
from dynunet_bundle.images.read import read_channels


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

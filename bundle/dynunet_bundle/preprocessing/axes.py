"""Order and direction of the array axes."""

from collections.abc import Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Orientation, Orientationd
from monai.transforms.spatial.functional import orientation

STORED = "xyz"
"""Letters of the axes of a file in its own order, the fastest first."""


class ArrayAxesd(Orientationd):
    """Order array axes by direction, or as stored: ``preprocessing`` of train.json and inference.json.

    nnU-Net does not reorient an image (except with the readers that say so in their names): it takes the axes of the
    file, slowest first. A model that was trained that way expects them so. MONAI's Orientationd only knows directions
    of the patient.

    Args:
        keys: keys of the images and labels, MetaTensors ``[C, X, Y, Z]``.
        axcodes: directions of the array axes, such as ``"SAR"``; or stored axes in lower case, such as ``"zyx"``, which
            are put into this order without a flip.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, axcodes: str, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, axcodes, labels=None, allow_missing_keys=allow_missing_keys)
        if axcodes.islower():
            self.ornt_transform = _StoredAxes(axcodes, labels=None)


class _StoredAxes(Orientation):
    """A permutation of the stored axes, invertible as MONAI's Orientation."""

    def __call__(self, data_array: MetaTensor, lazy: bool | None = None) -> torch.Tensor:
        axes: Sequence[str] = self.axcodes
        # for each stored axis its new place, and that it keeps its direction
        places = np.array([[axes.index(name), 1] for name in STORED])
        affine = data_array.affine.cpu().numpy()
        moved: torch.Tensor = orientation(
            data_array, affine, places, lazy=False, transform_info=self.get_transform_info()
        )
        return moved

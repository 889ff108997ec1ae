"""The mask of the previous stage as extra channels of the image, for a cascade."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from dynunet_bundle.dataset.previous_stage import PREVIOUS


class AppendPreviousd(MapTransform):
    """Append the previous mask: ``cascade_preprocessing`` of inference.json, ``preprocessing`` of evaluate.json.

    It becomes one channel of 0 and 1 per foreground class, after the preprocessing of a whole case. (The prepared
    store keeps the mask as one byte per voxel.) MONAI's AsDiscreted and ConcatItemsd need three steps, a background
    channel that must be removed, and two copies.

    Args:
        keys: key of the image ``[C, D, H, W]``, a MetaTensor.
        num_classes: classes including the background.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        num_classes: int,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Append the mask of one case; the image keeps its metadata.

        Args:
            data: the images, and under ``PREVIOUS`` the mask, class numbers ``[1, D, H, W]`` on the same grid; the
                result does not contain it.
        """
        joined = dict(data)
        classes = joined.pop(PREVIOUS).as_subclass(torch.Tensor)
        for key in self.key_iterator(joined):
            image = joined[key]
            channels = append_masks(image.as_subclass(torch.Tensor), classes, self.num_classes)
            joined[key] = MetaTensor(channels).copy_meta_from(image)
        return joined


def append_masks(image: torch.Tensor, classes: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Concatenate an image and one mask per foreground class.

    Args:
        image: ``[C, *spatial]``, floating point.
        classes: class numbers, ``[1, *spatial]``.
        num_classes: classes including the background.

    Returns:
        ``[C + num_classes - 1, *spatial]`` with the type of the image.
    """
    num_channels = len(image)
    result = image.new_empty((num_channels + num_classes - 1, *image.shape[1:]))
    result[:num_channels] = image
    for value in range(1, num_classes):
        result[num_channels + value - 1] = classes[0] == value
    return result

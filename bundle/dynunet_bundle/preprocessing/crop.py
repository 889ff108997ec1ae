"""What counts as content when a volume is cropped."""

import torch
from monai.data import MetaTensor


def is_nonzero(image: torch.Tensor) -> torch.Tensor:
    """Select voxels that differ from zero, for ``CropForegroundd``.

    MONAI's own choice, and the seed's, is "greater than zero": that cuts tissue away from CT and from images that
    are already z-scored.

    Args:
        image: ``[C, D, H, W]``.

    Returns:
        Boolean mask of the same shape.
    """
    # a MetaTensor would carry its meta data through the comparison
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    return plain != 0

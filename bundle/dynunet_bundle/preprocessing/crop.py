"""What counts as content when a volume is cropped."""

import torch


def is_nonzero(image: torch.Tensor) -> torch.Tensor:
    """Select voxels that differ from zero, in ``preprocessing`` of train.json and inference.json.

    MONAI's own choice, and the seed's, is "greater than zero": that cuts tissue away from CT and from images that
    are already z-scored.

    Args:
        image: ``[C, D, H, W]``.

    Returns:
        Boolean mask of the same shape.
    """
    # a MetaTensor would carry its meta data through the comparison
    return image.as_subclass(torch.Tensor) != 0

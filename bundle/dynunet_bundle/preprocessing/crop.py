"""Selection of voxels for cropping a volume to its content."""

import torch


def is_nonzero(image: torch.Tensor) -> torch.Tensor:
    """Select voxels that differ from zero, in ``preprocessing`` of train.json and inference.json.

    The default of MONAI, and of NVIDIA's example, is "greater than zero", which removes tissue from CT and from images
    that are already z-scored.

    Args:
        image: ``[C, D, H, W]``.

    Returns:
        Boolean mask of the same shape.
    """
    # a MetaTensor would copy its metadata in the comparison
    return image.as_subclass(torch.Tensor) != 0

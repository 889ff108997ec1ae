"""The sliding window of a plan: MONAI's inferers, chosen by the plan's dimension."""

from collections.abc import Sequence
from typing import Any

from monai.inferers import SliceInferer, SlidingWindowInferer


def sliding_window(roi_size: Sequence[int], **kwargs: Any) -> SlidingWindowInferer:
    """MONAI's SlidingWindowInferer; for a 2D plan its SliceInferer, which goes over a volume slice by slice.

    Args:
        roi_size: the patch, three or two values. Smaller volumes are padded and cropped back.
        **kwargs: further arguments of SlidingWindowInferer: ``sw_batch_size``, ``overlap``, ``mode``, ...

    Returns:
        An inferer from ``[B, C, D, H, W]`` to logits of the same spatial size.
    """
    if len(roi_size) == 2:  # noqa: PLR2004 - a 2D plan
        return SliceInferer(spatial_dim=0, roi_size=tuple(roi_size), **kwargs)
    return SlidingWindowInferer(roi_size=tuple(roi_size), **kwargs)

"""From regions that may overlap to one mask."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from dynunet_bundle.labels.scheme import Regions, require_label_plan


class RegionsToClassesd(MapTransform):
    """Write regions into a mask one after the other, later ones over earlier ones, as nnU-Net v2 does.

    A region is where its output is above the threshold (``label_handling.py`` of nnunetv2 2.8.1); where there is none,
    as outside the crop, is background. MONAI's AsDiscreted finds either the largest of all outputs or each by its
    threshold, and writes no value of ours.

    Args:
        keys: keys of the outputs ``[regions, D, H, W]``.
        label_values: value of each class, the background's first.
        regions: the plan's regions; where None, nothing is changed.
        regions_class_order: the value to write for each region.
        threshold: 0.5 for probabilities, 0 for what the network gives before the sigmoid.
        allow_missing_keys: as in MONAI.

    Raises:
        PlanError: if regions and values do not belong together.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_values: Sequence[int],
        regions: Regions | None = None,
        regions_class_order: Sequence[int] | None = None,
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        require_label_plan(label_values, None, regions, regions_class_order)
        self.written = [list(label_values).index(value) for value in regions_class_order or ()]
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write one case; the mask holds class numbers ``[1, D, H, W]`` and has the type of the outputs."""
        written = dict(data)
        if self.written:
            for key in self.key_iterator(written):
                outputs = written[key]
                written[key] = regions_to_classes(outputs, self.written, self.threshold)[None]
        return written


def regions_to_classes(
    outputs: torch.Tensor, written: Sequence[int], threshold: float
) -> torch.Tensor:
    """Class numbers ``[*spatial]`` from regions ``[regions, *spatial]``, in the type of these.

    Args:
        outputs: one channel a region.
        written: the class to write for each region; later ones are written over earlier ones.
        threshold: what a region's output must exceed.
    """
    mask = torch.zeros_like(outputs[0])
    for channel, number in zip(outputs, written, strict=True):
        mask.masked_fill_(channel > threshold, number)
    return mask

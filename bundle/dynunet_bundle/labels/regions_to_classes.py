"""From regions that may overlap to one mask."""

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from dynunet_bundle.labels.scheme import LabelScheme


class RegionsToClassesd(MapTransform):
    """Write regions into a mask, later ones over earlier ones: ``validate#postprocessing`` of train.json.

    MONAI's AsDiscreted finds either the largest of all outputs or each by its threshold, and writes no value of ours.

    Args:
        keys: keys of the outputs ``[regions, D, H, W]``.
        labels: the plan's labels; without regions nothing is changed.
        threshold: 0.5 for probabilities, 0 for what the network gives before the sigmoid.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        labels: LabelScheme,
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = labels
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write one case; the mask holds class numbers ``[1, D, H, W]`` and has the type of the outputs."""
        written = dict(data)
        if self.labels.sigmoid:
            for key in self.key_iterator(written):
                mask = self.labels.regions_to_classes(written[key], self.threshold)
                written[key] = mask[None]
        return written

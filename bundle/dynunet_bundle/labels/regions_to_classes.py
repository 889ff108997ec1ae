"""From overlapping regions to one mask."""

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from dynunet_bundle.labels.scheme import LabelScheme


class RegionsToClassesd(MapTransform):
    """Write regions into a mask, later ones over earlier ones: ``validate#postprocessing`` of train.json.

    MONAI's AsDiscreted takes the argmax or a threshold per channel; it cannot combine regions into one mask.

    Args:
        keys: keys of the outputs ``[regions, D, H, W]``.
        labels: the plan's labels; without regions the outputs are not changed.
        threshold: 0.5 for probabilities, 0 for logits.
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
        """Write one case; the mask has class numbers ``[1, D, H, W]`` in the data type of the outputs."""
        written = dict(data)
        if self.labels.sigmoid:
            for key in self.key_iterator(written):
                mask = self.labels.regions_to_classes(written[key], self.threshold)
                written[key] = mask[None]
        return written

"""Label values in files <-> classes in the network: 0, 128, 255 on disk are 0, 1, 2 in training."""

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from dynunet_bundle.labels.scheme import LabelScheme, values_to_classes


class ValuesToClassesd(MapTransform):
    """Values to classes: ``preprocessing`` of train.json and inference.json, ``postprocessing`` of evaluate.json.

    The values that a file uses become the numbers of their classes. MONAI's MapLabelValued refuses a table that changes
    nothing, which is the table of most data sets, and leaves values that are in no table.

    Args:
        keys: keys of the labels, whole numbers of any shape, each a value of a class or the ignored one, which becomes
            ``IGNORE_CLASS``.
        labels: what the values mean.
        allow_missing_keys: as in MONAI.
    """

    # an attribute of the class: the key of the prepared store (recipe.py) changes only where there is such a value
    ignore_value: int | None = None

    def __init__(
        self, keys: KeysCollection, labels: LabelScheme, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        # not the scheme: its names and regions change nothing in the prepared store, so they are not in its key
        self.label_values = list(labels.values)
        if labels.ignore_value is not None:
            self.ignore_value = labels.ignore_value

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map one case, rounding what is off a whole number; the result is uint8."""
        mapped = dict(data)
        for key in self.key_iterator(mapped):
            mapped[key] = values_to_classes(mapped[key], self.label_values, self.ignore_value)
        return mapped


class ClassesToValuesd(MapTransform):
    """Turn class numbers into values of files: ``postprocessing`` of inference.json and evaluate.json.

    Args:
        keys: keys of the masks, class numbers of any shape; a network finds nothing to be ignored.
        labels: what the values mean.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, labels: LabelScheme, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = labels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map one case; the result has the type of the mask, or int32 where that is too small."""
        mapped = dict(data)
        for key in self.key_iterator(mapped):
            mapped[key] = self.labels.to_values(mapped[key])
        return mapped

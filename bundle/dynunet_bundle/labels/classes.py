"""Label values in files <-> class numbers in the network: 0, 128, 255 on disk are 0, 1, 2 in training.

Stored on disk: the name of ``ValuesToClassesd`` and its attributes, hashed, in the prepared store (``recipe.py``).
"""

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from dynunet_bundle.labels.scheme import LabelScheme, values_to_classes


class ValuesToClassesd(MapTransform):
    """Values to classes: ``preprocessing`` of train.json and inference.json, ``postprocessing`` of evaluate.json.

    MONAI's MapLabelValued refuses a table that changes nothing, as most data sets have, and keeps values that are not
    in the table.

    Args:
        keys: keys of the labels, whole numbers of any shape, each the value of a class or the ignore value, which
            becomes ``IGNORE_CLASS``.
        labels: the plan's labels.
        allow_missing_keys: as in MONAI.
    """

    # a class attribute, so that the key of the prepared store (recipe.py) has it only if the plan has an ignore value
    ignore_value: int | None = None

    def __init__(
        self, keys: KeysCollection, labels: LabelScheme, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        # not the whole scheme: names and regions do not change the prepared store, so its key must not have them
        self.label_values = list(labels.values)
        if labels.ignore_value is not None:
            self.ignore_value = labels.ignore_value

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map one case to uint8; values are rounded to whole numbers first."""
        mapped = dict(data)
        for key in self.key_iterator(mapped):
            mapped[key] = values_to_classes(mapped[key], self.label_values, self.ignore_value)
        return mapped


class ClassesToValuesd(MapTransform):
    """Class numbers to the values of files: ``postprocessing`` of inference.json and evaluate.json.

    Args:
        keys: keys of the masks, class numbers of any shape, without ``IGNORE_CLASS``.
        labels: the plan's labels.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, labels: LabelScheme, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = labels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map one case; the result has the mask's data type, or int32 if that is too small."""
        mapped = dict(data)
        for key in self.key_iterator(mapped):
            mapped[key] = self.labels.to_values(mapped[key])
        return mapped

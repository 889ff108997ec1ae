"""Label values in files <-> classes in the network: 0, 128, 255 on disk are 0, 1, 2 in training."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from dynunet_bundle.errors import PlanError

IGNORE_CLASS = 255
"""Class number of voxels that nobody labelled: the largest of a uint8, in which labels are kept. They count neither in
the loss nor in a score."""

MAX_CLASSES = 255
"""0 to 254, below ``IGNORE_CLASS``."""


class ValuesToClassesd(MapTransform):
    """Replace the values that a file uses by the numbers of their classes.

    MONAI's MapLabelValued refuses a table that changes nothing, which is the table of most data sets, and leaves
    values that are in no table.

    Args:
        keys: keys of the labels, whole numbers of any shape, each value one of ``label_values`` or ``ignore_value``.
        label_values: value of each class; the first is the background's.
        ignore_value: value that becomes ``IGNORE_CLASS``, or None.
        allow_missing_keys: as in MONAI.

    Raises:
        PlanError: if the table is not ascending, or has more than 255 classes.
    """

    # an attribute of the class: the key of the prepared store (describe.py) changes only where there is such a value
    ignore_value: int | None = None

    def __init__(
        self,
        keys: KeysCollection,
        label_values: Sequence[int],
        ignore_value: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        values = list(label_values)
        if values != sorted(set(values)) or len(values) > MAX_CLASSES:
            raise PlanError(
                f"label_values must ascend, at most {MAX_CLASSES} of them, not {values}."
            )
        self.label_values = values
        if ignore_value is not None:
            self.ignore_value = ignore_value

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map one case, rounding what is off a whole number; the result is uint8."""
        mapped = dict(data)
        table = torch.tensor(self.label_values)
        for key in self.key_iterator(mapped):
            label = mapped[key].round()
            ignored = None if self.ignore_value is None else label == self.ignore_value
            if self.label_values != list(range(len(self.label_values))):
                label = torch.bucketize(label.to(torch.int64), table.to(label.device))
            label = label.to(torch.uint8)
            mapped[key] = label if ignored is None else label.masked_fill(ignored, IGNORE_CLASS)
        return mapped


class ClassesToValuesd(MapTransform):
    """Put the values of the files back in the place of class numbers; the counterpart of ``ValuesToClassesd``.

    Args:
        keys: keys of the masks, class numbers of any shape; a network finds nothing to be ignored.
        label_values: value of each class.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self, keys: KeysCollection, label_values: Sequence[int], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_values = list(label_values)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map one case; the result has the type of the mask, or int32 where that is too small."""
        mapped = dict(data)
        for key in self.key_iterator(mapped):
            mask = mapped[key]
            if self.label_values == list(range(len(self.label_values))):
                continue
            values = torch.tensor(self.label_values, device=mask.device)
            taken = torch.take(values, mask.to(torch.int64)).to(torch.int32)
            mapped[key] = taken if mask.dtype == torch.uint8 else taken.to(mask.dtype)
        return mapped

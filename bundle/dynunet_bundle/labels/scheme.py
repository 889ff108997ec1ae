"""What the values of a mask mean, and which outputs a network has for them.

*Values* are the numbers in files: 0, 128, 255. *Classes* are their positions, 0, 1, 2; they are trained, stored and
scored. *Regions* are sets of values with one network output each; they may overlap, as a tumour and its core do.

Stored on disk: ``LABEL_IDS`` in plans, and ``IGNORE_CLASS`` in the labels of the prepared store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from dynunet_bundle.errors import PlanError
from dynunet_bundle.labels.faults import (
    Regions,
    find_ignore_fault,
    find_region_fault,
    find_value_fault,
)

if TYPE_CHECKING:
    # torch is imported where it is used, since surveys and planning do not need it
    import torch

IGNORE_CLASS = 255
"""Class number of unlabelled voxels, the largest uint8. Such voxels do not count in the loss or in scores."""

LABEL_IDS = ("label_names", "label_values", "ignore_value", "regions", "regions_class_order")
"""Ids of a plan that describe its labels, in the order of the attributes of ``LabelScheme``."""


@dataclass(frozen=True)
class LabelScheme:
    """The labels of a plan: ``labels`` of train.json and inference.json.

    Attributes:
        names: name of each class, background first.
        values: value of each class in files, ascending; 0, 1, 2, ... by default.
        ignore_value: value of unlabelled voxels, or None.
        regions: label values of each region by its name, or None. With regions, the network has one sigmoid output
            per region, in this order; without, a softmax over the classes.
        regions_class_order: value written into the mask for each region; later regions overwrite earlier ones.

    Raises:
        PlanError: if names, values, ignore value and regions contradict each other.
    """

    names: Sequence[str]
    values: Sequence[int] = ()
    ignore_value: int | None = None
    regions: Regions | None = None
    regions_class_order: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check the attributes and store them as tuples."""
        names, values = tuple(self.names), tuple(self.values or range(len(self.names)))
        fault = (
            find_value_fault(names, values)
            or find_ignore_fault(values, self.ignore_value)
            or find_region_fault(values, self.regions, self.regions_class_order)
        )
        if fault:
            raise PlanError(fault)
        regions, order = self.regions, self.regions_class_order
        held = {
            "names": names,
            "values": values,
            "regions": regions and {name: tuple(parts) for name, parts in regions.items()},
            "regions_class_order": order and tuple(order),
        }
        for name, value in held.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_plan(cls, plan: Mapping[str, Any]) -> "LabelScheme":
        """Pick the labels out of a plan's ids; missing ids have their defaults.

        Raises:
            PlanError: if they contradict each other.
        """
        names = zip((field.name for field in fields(cls)), LABEL_IDS, strict=True)
        return cls(**{name: plan[key] for name, key in names if key in plan})

    def ids(self) -> dict[str, Any]:
        """The ids that ``from_plan`` reads, as JSON data."""
        regions, order = self.regions, self.regions_class_order
        return {
            "label_names": list(self.names),
            "label_values": list(self.values),
            "ignore_value": self.ignore_value,
            "regions": regions and {name: list(values) for name, values in regions.items()},
            "regions_class_order": order and list(order),
        }

    @property
    def file_values(self) -> tuple[int, ...]:
        """Values that label files may have, ascending: those of the classes and the ignore value."""
        ignored = () if self.ignore_value is None else (self.ignore_value,)
        return tuple(sorted((*self.values, *ignored)))

    @property
    def sigmoid(self) -> bool:
        """Whether each network output is a region with a sigmoid, instead of one softmax over all outputs."""
        return self.regions is not None

    @property
    def num_outputs(self) -> int:
        """Number of the network's output channels: regions, or classes with the background."""
        return len(self.regions or self.names)

    @property
    def target_names(self) -> list[str]:
        """Names of the background, then of each target that is segmented and scored: regions, or other classes."""
        return list(self.names) if self.regions is None else [self.names[0], *self.regions]

    @property
    def target_classes(self) -> list[list[int]]:
        """Class numbers of each target, in the order of ``target_names`` without the background."""
        if self.regions is None:
            return [[number] for number in range(1, len(self.values))]
        return [list(map(self.values.index, values)) for values in self.regions.values()]

    @property
    def region_classes(self) -> list[int]:
        """Class number written into the mask for each region; empty without regions."""
        return list(map(self.values.index, self.regions_class_order or ()))

    @property
    def mask_classes(self) -> list[int]:
        """Class number of each target in a mask, in the order of ``target_names`` without the background."""
        return self.region_classes or list(range(1, len(self.values)))

    def to_classes(self, label: "torch.Tensor") -> "torch.Tensor":
        """Class numbers of label values, see ``values_to_classes``."""
        return values_to_classes(label, self.values, self.ignore_value)

    def to_values(self, classes: "torch.Tensor") -> "torch.Tensor":
        """Label values of class numbers.

        Args:
            classes: class numbers of any shape, without ``IGNORE_CLASS``.

        Returns:
            The same tensor if the values are 0, 1, 2, ...; else a new one of the same data type, int32 for uint8.
        """
        if self.values == tuple(range(len(self.values))):
            return classes
        import torch

        values = torch.tensor(self.values, device=classes.device)
        taken = torch.take(values, classes.to(torch.int64)).to(torch.int32)
        return taken if classes.dtype == torch.uint8 else taken.to(classes.dtype)

    def regions_to_classes(self, outputs: "torch.Tensor", threshold: float) -> "torch.Tensor":
        """Write regions into a mask in order, later ones over earlier ones, as nnU-Net v2 does.

        A voxel is in a region if the region's output is above the threshold (``label_handling.py`` of nnunetv2
        2.8.1); voxels in no region are background.

        Args:
            outputs: ``[regions, *spatial]``.
            threshold: 0.5 for probabilities, 0 for logits.

        Returns:
            Class numbers ``[*spatial]`` in the data type of the outputs.
        """
        import torch

        mask = torch.zeros_like(outputs[0])
        for channel, number in zip(outputs, self.region_classes, strict=True):
            mask.masked_fill_(channel > threshold, number)
        return mask


def values_to_classes(
    label: "torch.Tensor", label_values: Sequence[int], ignore_value: int | None = None
) -> "torch.Tensor":
    """Class numbers of label values, which are rounded to whole numbers first.

    Args:
        label: values of any shape and data type, each one of ``label_values`` or ``ignore_value``.
        label_values: value of each class, ascending.
        ignore_value: value that becomes ``IGNORE_CLASS``, or None.

    Returns:
        uint8, of the same shape.
    """
    import torch

    label = label.round()
    ignored = None if ignore_value is None else label == ignore_value
    if list(label_values) != list(range(len(label_values))):
        table = torch.tensor(label_values, device=label.device)
        label = torch.bucketize(label.to(torch.int64), table)
    label = label.to(torch.uint8)
    return label if ignored is None else label.masked_fill(ignored, IGNORE_CLASS)

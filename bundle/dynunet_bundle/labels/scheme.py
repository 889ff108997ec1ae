"""What the values of a mask mean, and what a network finds of it: the one place that knows.

Three numberings meet here. *Values* stand in files: 0, 128, 255. *Classes* are their positions, 0, 1, 2: what is
trained, stored and scored. *Regions* are sets of values that a network finds one by one; they may overlap, as a tumour
and its core do.
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
    # torch is imported by what computes with it: a survey and a planning do without
    import torch

IGNORE_CLASS = 255
"""Class number of voxels that nobody labelled: the largest of a uint8, in which labels are kept. They count neither in
the loss nor in a score."""

LABEL_IDS = ("label_names", "label_values", "ignore_value", "regions", "regions_class_order")
"""Ids of a plan that say what labels mean, in the order of the attributes of ``LabelScheme``."""


@dataclass(frozen=True)
class LabelScheme:
    """The labels of a plan: ``labels`` of train.json and inference.json.

    Attributes:
        names: name of each class, the background first.
        values: value of each class in files, ascending; 0, 1, 2, ... if not given.
        ignore_value: value of voxels that nobody labelled, or None.
        regions: by the name of each region the values that make it up, or None. With regions the network has one
            sigmoid output a region, in this order; without, a softmax over the classes.
        regions_class_order: the value that a mask gets for each region; later regions are written over earlier ones.

    Raises:
        PlanError: if names, values, the ignored value and regions do not fit each other.
    """

    names: Sequence[str]
    values: Sequence[int] = ()
    ignore_value: int | None = None
    regions: Regions | None = None
    regions_class_order: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check the attributes, then hold them as tuples."""
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
        """Pick the labels out of plan ids; what is not there has its default.

        Raises:
            PlanError: if they do not fit each other.
        """
        names = zip((field.name for field in fields(cls)), LABEL_IDS, strict=True)
        return cls(**{name: plan[key] for name, key in names if key in plan})

    def ids(self) -> dict[str, Any]:
        """The ids of a plan that ``from_plan`` reads, as JSON data."""
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
        """Values that files of labels may have, ascending: those of the classes, and the ignored one."""
        ignored = () if self.ignore_value is None else (self.ignore_value,)
        return tuple(sorted((*self.values, *ignored)))

    @property
    def sigmoid(self) -> bool:
        """Whether each output of the network is a region with a sigmoid; else a softmax goes over all."""
        return self.regions is not None

    @property
    def num_outputs(self) -> int:
        """Channels that the network gives: regions, or classes with the background."""
        return len(self.regions or self.names)

    @property
    def target_names(self) -> list[str]:
        """Names of what is segmented and scored, behind the background: regions, or the other classes."""
        return list(self.names) if self.regions is None else [self.names[0], *self.regions]

    @property
    def target_classes(self) -> list[list[int]]:
        """Class numbers of each target, in the order of ``target_names`` without the background."""
        if self.regions is None:
            return [[number] for number in range(1, len(self.values))]
        return [list(map(self.values.index, values)) for values in self.regions.values()]

    @property
    def region_classes(self) -> list[int]:
        """Class that a mask gets for each region; empty without regions."""
        return list(map(self.values.index, self.regions_class_order or ()))

    def to_classes(self, label: "torch.Tensor") -> "torch.Tensor":
        """Class numbers of label values, see ``values_to_classes``."""
        return values_to_classes(label, self.values, self.ignore_value)

    def to_values(self, classes: "torch.Tensor") -> "torch.Tensor":
        """Label values of class numbers; a network finds nothing to be ignored.

        Args:
            classes: class numbers of any shape.

        Returns:
            A tensor of the same type, or int32 for uint8 where there are other values than 0, 1, 2, ...; the same
            tensor where nothing changes.
        """
        if self.values == tuple(range(len(self.values))):
            return classes
        import torch

        values = torch.tensor(self.values, device=classes.device)
        taken = torch.take(values, classes.to(torch.int64)).to(torch.int32)
        return taken if classes.dtype == torch.uint8 else taken.to(classes.dtype)

    def regions_to_classes(self, outputs: "torch.Tensor", threshold: float) -> "torch.Tensor":
        """Write regions into a mask one after the other, later ones over earlier ones, as nnU-Net v2 does.

        A region is where its output is above the threshold (``label_handling.py`` of nnunetv2 2.8.1); the rest is
        background.

        Args:
            outputs: ``[regions, *spatial]``.
            threshold: 0.5 for probabilities, 0 for logits.

        Returns:
            Class numbers ``[*spatial]`` in the type of the outputs.
        """
        import torch

        mask = torch.zeros_like(outputs[0])
        for channel, number in zip(outputs, self.region_classes, strict=True):
            mask.masked_fill_(channel > threshold, number)
        return mask


def values_to_classes(
    label: "torch.Tensor", label_values: Sequence[int], ignore_value: int | None = None
) -> "torch.Tensor":
    """Class numbers of label values; values off a whole number are rounded.

    Args:
        label: values of any shape and type, each one of ``label_values`` or ``ignore_value``.
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

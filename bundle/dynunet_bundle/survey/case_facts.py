"""The facts of one case that planning needs.

Stored on disk: the keys and array names of ``CaseFacts.save``, in the cache of surveys (``survey.FORMAT_VERSION``).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import parse_json
from dynunet_bundle.images.boxes import bounding_box
from dynunet_bundle.images.read import Volume
from dynunet_bundle.shapes import COUNT, OBJECT, by_name, list_of, object_with
from dynunet_bundle.survey.histogram import Histogram
from dynunet_bundle.survey.value_counts import value_counts

LIMIT = {"anyOf": [{"type": "number"}, {"enum": [math.inf, -math.inf]}]}
"""Schema of the smallest or largest value of voxels; infinite if there are no voxels."""

VOXELS = list_of({"type": "integer", "minimum": 1}, minItems=3, maxItems=3)
FACTS_SCHEMA = object_with(
    {
        "facts": object_with(
            {
                "shape": VOXELS,
                "shape_after_crop": VOXELS,
                "spacing_mm": list_of(
                    {"type": "number", "exclusiveMinimum": 0}, minItems=3, maxItems=3
                ),
                "label_voxels": by_name(COUNT, propertyNames={"pattern": "^-?[0-9]{1,10}$"}),
                "limits": list_of(list_of(LIMIT, minItems=2, maxItems=2)),
            },
            ("shape", "shape_after_crop", "spacing_mm", "label_voxels", "limits"),
        ),
        "notes": OBJECT,
    },
    ("facts", "notes"),
)
"""Schema of the JSON in an archive of facts."""


@dataclass(frozen=True)
class CaseFacts:
    """One labelled case; axes in the order right, anterior, superior, whatever the order in the file.

    Attributes:
        shape: voxels by axis.
        shape_after_crop: voxels of the box around all voxels that are nonzero in any channel.
        spacing_mm: voxel sizes.
        label_voxels: number of voxels by label value, without ignored voxels.
        intensities: histogram of each channel over the foreground, without ignored voxels.
    """

    shape: tuple[int, ...]
    shape_after_crop: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    label_voxels: dict[int, int]
    intensities: tuple[Histogram, ...]

    @property
    def relative_size(self) -> float:
        """Share of the volume that the crop keeps."""
        return float(np.prod(self.shape_after_crop) / np.prod(self.shape))

    @classmethod
    def of(cls, image: Volume, label: Volume, ignore_value: int | None = None) -> "CaseFacts":
        """Facts of a case that passed the checks.

        nnU-Net, in contrast, counts ignored voxels as foreground here.

        Args:
            image: ``[C, X, Y, Z]``.
            label: ``[1, X, Y, Z]`` whole numbers on the same grid.
            ignore_value: value of unlabelled voxels, or None.
        """
        order = np.argsort(nib.io_orientation(image.affine)[:, 0])
        spacing = voxel_sizes(image.affine)
        box = nonzero_box(image.array)
        mask = np.round(label.array[0])
        values, counts = value_counts(mask)
        inside = mask[box] > 0
        label_voxels = dict(zip(map(int, values), map(int, counts), strict=True))
        if ignore_value is not None:
            inside &= mask[box] != ignore_value
            label_voxels.pop(ignore_value, None)
        return cls(
            tuple(int(image.array.shape[1 + axis]) for axis in order),
            tuple(int(box[axis].stop - box[axis].start) for axis in order),
            tuple(float(spacing[axis]) for axis in order),
            label_voxels,
            tuple(Histogram.of(channel[box][inside]) for channel in image.array),
        )

    def save(self, file: BinaryIO, notes: Mapping[str, Any]) -> None:
        """Write the facts and the caller's notes (JSON data) as a numpy archive."""
        facts = {
            "shape": self.shape,
            "shape_after_crop": self.shape_after_crop,
            "spacing_mm": self.spacing_mm,
            "label_voxels": self.label_voxels,
            "limits": [(one.lowest, one.highest) for one in self.intensities],
        }
        arrays: dict[str, Any] = {"json": np.array(json.dumps({"facts": facts, "notes": notes}))}
        for index, one in enumerate(self.intensities):
            arrays[f"values_{index}"] = one.values
            arrays[f"weights_{index}"] = one.weights
        np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> tuple["CaseFacts", dict[str, Any]]:
        """Read the facts and the notes that ``save`` wrote.

        Raises:
            OSError, KeyError, ValueError (such as ConfigError): if the file is missing, damaged, or of another kind.
        """
        with np.load(path, allow_pickle=False) as archive:
            text = str(archive["json"]).encode()
            content = parse_json(text, path, ConfigError, FACTS_SCHEMA)
            facts = content["facts"]
            intensities = tuple(
                Histogram(archive[f"values_{index}"], archive[f"weights_{index}"], lowest, highest)
                for index, (lowest, highest) in enumerate(facts["limits"])
            )
        return cls(
            tuple(facts["shape"]),
            tuple(facts["shape_after_crop"]),
            tuple(facts["spacing_mm"]),
            {int(value): count for value, count in facts["label_voxels"].items()},
            intensities,
        ), content["notes"]


def nonzero_box(volume: np.ndarray) -> tuple[slice, ...]:
    """Box around all voxels that are nonzero in any channel; the whole volume if all voxels are zero.

    nnU-Net fills holes first; that does not change the box.

    Args:
        volume: ``[C, X, Y, Z]``.

    Returns:
        One slice per spatial axis.
    """
    box = bounding_box((volume != 0).any(axis=0))
    return box or tuple(slice(0, size) for size in volume.shape[1:])

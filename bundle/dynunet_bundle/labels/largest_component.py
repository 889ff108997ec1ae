"""Keep the largest connected component of some labels, as nnU-Net's postprocessing does.

Voxels that share a face, edge or corner are connected: 26 neighbours in a volume, 8 in a slice. That is the default of
skimage's ``label``, which nnU-Net uses (``remove_connected_components.py`` of nnunetv2 2.8.1, through
``remove_all_but_largest_component`` of acvl_utils). If several components are equally large, all of them are kept, as
in nnU-Net.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cc3d
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.images.boxes import bounding_box

CONNECTIVITY = 26  # neighbours of a voxel
RULES_ID = "keep_largest"

ComponentRules = Sequence[Sequence[int]]
"""Steps in order; each is a list of label values, whose union keeps its largest component."""


class KeepLargestd(MapTransform):
    """Keep the largest component of some labels: ``postprocessing`` of inference.json and evaluate.json.

    MONAI's KeepLargestConnectedComponentd needs scikit-image and 8 bytes per voxel, keeps only one of several equally
    large components, and takes one step instead of a list.

    Args:
        keys: keys of the masks, label values ``[1, X, Y, Z]``; Z is 1 for a picture.
        rules: ``[[1, 2], [1]]``: first labels 1 and 2 as one, then label 1 alone. Empty rules change nothing.
        allow_missing_keys: as in MONAI.

    Raises:
        ConfigError: if the rules are not a list of lists of positive whole numbers.
    """

    def __init__(
        self, keys: KeysCollection, rules: ComponentRules, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        require_rules(rules)
        self.rules = [list(values) for values in rules]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Change the masks of one case; they keep their data type and metadata."""
        changed = dict(data)
        if self.rules:
            for key in self.key_iterator(changed):
                mask = changed[key].clone()
                plain = mask.as_subclass(torch.Tensor)
                array = plain[0].cpu().numpy()
                for values in self.rules:
                    keep_largest(array, values)
                if plain.device.type != "cpu":
                    plain[0].copy_(plain.new_tensor(array))
                changed[key] = mask
        return changed


def keep_largest(mask: np.ndarray, values: Sequence[int], background: int = 0) -> int:
    """Keep the largest component of the union of labels; set the others to background, in place.

    Only the box around these labels is processed. Extra memory is 3 or 5 bytes per voxel of this box.

    Args:
        mask: ``[X, Y, Z]`` whole numbers; changed in place.
        values: the labels; the mask is unchanged if it has none of them.
        background: value written into the removed components.

    Returns:
        Number of changed voxels.
    """
    union = mask == values[0]
    for value in values[1:]:
        union |= mask == value
    box = bounding_box(union)
    if box is None:
        return 0
    # cc3d 4.1.1 expects too few components for booleans and fails on many isolated voxels; for a non-contiguous view
    # it may read the wrong voxels
    content = np.ascontiguousarray(union[box]).view(np.uint8)
    del union
    components = cc3d.connected_components(content, connectivity=CONNECTIVITY)
    sizes = cc3d.statistics(components, no_slice_conversion=True)["voxel_counts"].copy()
    sizes[0] = 0
    is_lost = sizes < sizes.max()
    is_lost[0] = False
    if not is_lost.any():
        return 0
    # plane by plane, since indexing a table converts its indices to 8 bytes per voxel
    for plane, numbers in zip(mask[box], components, strict=True):
        plane[is_lost[numbers]] = background
    return int(sizes[is_lost].sum())


def require_rules(rules: Any, label_values: Sequence[int] | None = None) -> None:
    """Refuse malformed rules, and rules with values that are not label values.

    Args:
        rules: the value of ``keep_largest`` in a config.
        label_values: values of the classes, background first; None or empty skips this check.

    Raises:
        ConfigError: naming the invalid step or value.
    """
    remedy = 'Give a list of steps, each a list of label values: "keep_largest": [[1, 2], [1]].'
    if not isinstance(rules, (list, tuple)):
        raise ConfigError(f"keep_largest is {rules!r}. {remedy}")
    for values in rules:
        well_formed = isinstance(values, (list, tuple)) and all(
            isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values
        )
        if not well_formed or not values:
            raise ConfigError(f"keep_largest has the step {values!r}. {remedy}")
        unknown = [value for value in values if label_values and value not in label_values]
        if unknown:
            raise ConfigError(
                f"keep_largest has the value {unknown[0]}, which is not a label value of this task: "
                f"{list(label_values or ())}. Pass the rules of this task."
            )

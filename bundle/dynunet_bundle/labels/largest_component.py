"""Keep the largest connected component of some labels, as nnU-Net's postprocessing does.

A component is what touches by faces, edges or corners: 26 neighbours in a volume, 8 in a slice. That is the default
of skimage's ``label``, by which nnU-Net finds components (``remove_connected_components.py`` of nnunetv2 2.8.1, through
``remove_all_but_largest_component`` of acvl_utils). Of several that are equally large, the largest, all are kept: so
does nnU-Net.
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

CONNECTIVITY = 26
RULES_ID = "keep_largest"

ComponentRules = Sequence[Sequence[int]]
"""Steps, one after the other; each names the label values whose union keeps its largest component."""


class KeepLargestd(MapTransform):
    """Keep the largest component of some labels: ``postprocessing`` of inference.json and evaluate.json.

    MONAI's KeepLargestConnectedComponentd needs scikit-image and 8 bytes a voxel for its components, keeps a single
    one of several that are equally large, and takes one step, not a list of them.

    Args:
        keys: keys of the masks, label values ``[1, X, Y, Z]``; Z is 1 for a picture.
        rules: ``[[1, 2], [1]]``: first labels 1 and 2 as one, then label 1 alone. Empty: nothing is changed.
        allow_missing_keys: as in MONAI.

    Raises:
        ConfigError: if the rules are no list of lists of positive whole numbers.
    """

    def __init__(
        self, keys: KeysCollection, rules: ComponentRules, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        require_rules(rules)
        self.rules = [list(values) for values in rules]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Change the masks of one case; their type and meta data stay."""
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
    """Keep the largest component of the union of some labels; all others become background, in place.

    Only the box around these labels is looked at, so what this needs beside the mask is one byte and two or four a
    voxel of that box.

    Args:
        mask: ``[X, Y, Z]`` whole numbers; it is changed.
        values: the labels; where none of them occurs nothing happens.
        background: what is written.

    Returns:
        How many voxels were changed.
    """
    union = mask == values[0]
    for value in values[1:]:
        union |= mask == value
    box = bounding_box(union)
    if box is None:
        return 0
    # of cc3d 4.1.1: given booleans it counts on too few components and fails where many single voxels lie side by side,
    # and of a view with gaps it may read other voxels
    content = np.ascontiguousarray(union[box]).view(np.uint8)
    del union
    components = cc3d.connected_components(content, connectivity=CONNECTIVITY)
    sizes = cc3d.statistics(components, no_slice_conversion=True)["voxel_counts"].copy()
    sizes[0] = 0
    is_lost = sizes < sizes.max()
    is_lost[0] = False
    if not is_lost.any():
        return 0
    # plane by plane: taking from a table makes 8 bytes a voxel of its indices
    for plane, numbers in zip(mask[box], components, strict=True):
        plane[is_lost[numbers]] = background
    return int(sizes[is_lost].sum())


def require_rules(rules: Any, label_values: Sequence[int] | None = None) -> None:
    """Refuse rules that are no such list, or that name values which are no label's.

    Args:
        rules: what a config says.
        label_values: values of the classes, the background's first, where they are known.

    Raises:
        ConfigError: naming the offending part.
    """
    remedy = 'It is a list of steps, each a list of label values: "keep_largest": [[1, 2], [1]].'
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
                f"keep_largest names the value {unknown[0]}, which no class has: they have "
                f"{list(label_values or ())}. Give the rules of this task."
            )

"""A picture of augmented patches: the same patch unchanged, with each augmentation alone, and with all of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from dynunet_bundle.drawing.slices import grey_limits, grid_picture, side_by_side, slice_picture
from dynunet_bundle.feed.loader import DaliLoader

TILE_PIXELS = 140
"""Longer side of a patch in the picture, in pixels."""


def preview(settings: Mapping[str, Any], columns: int) -> Image.Image:
    """Draw the unchanged patches, a row for each declared kind with probability 1, and a row with all as declared.

    All rows show the same cases and positions, because those are drawn before the augmentation.

    Args:
        settings: arguments of ``DaliLoader`` except ``batch_size`` and ``num_iterations``.
        columns: patches per row.

    Returns:
        The picture; a 3D patch is shown by the slice with the most foreground in the unchanged patch.
    """
    declared = settings["augmentation"]
    rows: dict[str, dict[str, Any]] = {"unchanged": {}}
    for kind, how in declared.items():
        rows[kind.replace("_", " ")] = {kind: {**how, "prob": 1.0}}
    rows["all, as in training"] = dict(declared)
    pictures, indices, limits = [], None, None
    for augmentation in rows.values():
        image, label = _batch({**settings, "augmentation": augmentation}, columns)
        if indices is None or limits is None:
            indices = (label > 0).sum(axis=(2, 3)).argmax(axis=1)
            limits = [grey_limits(one) for one in image]
        pictures.append(
            [
                slice_picture(one[index], classes[index], shown, _pixels(one.shape[1:]))
                for one, classes, index, shown in zip(image, label, indices, limits, strict=True)
            ]
        )
    half = (len(pictures) + 1) // 2
    titles = list(rows)
    return side_by_side(
        [grid_picture(pictures[part], titles[part]) for part in (slice(half), slice(half, None))]
    )


def _batch(settings: Mapping[str, Any], count: int) -> tuple[np.ndarray, np.ndarray]:
    """First channels and labels of the first samples, ``[count, D, H, W]``; D is 1 in 2D."""
    loader = DaliLoader(**{**settings, "batch_size": count, "num_iterations": 1})
    (batch,) = loader
    loader.close()
    image, label = (batch[key][:, 0].cpu().numpy() for key in ("image", "label"))
    if image.ndim == 3:
        image, label = image[:, np.newaxis], label[:, np.newaxis]
    return image, label


def _pixels(shape: tuple[int, ...]) -> tuple[int, int]:
    factor = TILE_PIXELS / max(shape)
    return max(round(shape[0] * factor), 1), max(round(shape[1] * factor), 1)

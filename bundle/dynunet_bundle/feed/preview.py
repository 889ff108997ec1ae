"""A picture of augmented patches: the same patch unchanged, with each augmentation alone, and with all of them.

Each patch has the drawn values below it. Patches are those of the CPU feed, see ``cpu_batches``.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from dynunet_bundle.drawing.colours import ClassColours
from dynunet_bundle.drawing.slices import (
    TEXT_LINE_PIXELS,
    grey_limits,
    grid_picture,
    legend_picture,
    one_below_another,
    side_by_side,
    slice_picture,
    text_picture,
)
from dynunet_bundle.feed.augmentation import Augmentation
from dynunet_bundle.feed.cpu_batches import finish
from dynunet_bundle.feed.draws import Draw
from dynunet_bundle.feed.source import Numbering, PatchSource, Sampling
from dynunet_bundle.feed.spatial import PatchMap
from dynunet_bundle.labels.scheme import IGNORE_CLASS
from dynunet_bundle.preprocessing.store import PreparedDataset

TILE_PIXELS = 140
"""Longer side of a patch in the picture, and width of its text, in pixels."""

CAPTION_CHARACTERS = 24  # of a line below a patch
EXPLANATION = (
    "Training patches: first channel, with outlines of the label. All rows have the same patches, and 3D patches are "
    "shown in the slice through the same structure. Below each patch: what was drawn. Axes: {axes}. A rotation has one "
    "angle for each axis that it turns about, or one in the plane; a scaling above 1 makes objects smaller; sigma and "
    "the size of low resolution are in voxels; std is in units of the normalised image."
)
AXES = {2: "0 down, 1 to the right", 3: "0 across the slices, 1 down, 2 to the right"}


@dataclass(frozen=True)
class PreviewPatch:
    """One augmented patch.

    Attributes:
        image: first channel, ``[D, H, W]`` float32; D is 1 in 2D.
        label: class numbers, same shape, 0 where ignored.
        patch_map: its rotation and scaling.
        drawn: its intensity parameters and mirroring.
    """

    image: np.ndarray
    label: np.ndarray
    patch_map: PatchMap
    drawn: Draw


def preview(
    dataset: PreparedDataset, sampling: Sampling, columns: int, names: Sequence[str] = ()
) -> Image.Image:
    """Draw the unchanged patches, a row for each declared kind, and a row with all as declared.

    In its own row, a kind has the probability 1 for patches and channels. All rows show the same cases and positions,
    because those are drawn before the augmentation.

    Args:
        dataset: the prepared data set.
        sampling: how samples are taken, with the declared augmentation.
        columns: patches per row.
        names: name of each class, background first, for the legend.

    Returns:
        The picture; a 3D patch is shown by the slice through the middle of the largest foreground of the unchanged
        patch, to wherever it was turned, scaled or mirrored.
    """
    rows = _rows(sampling.augmentation)
    patches = {
        title: _patches(dataset, sampling, augmentation, columns)
        for title, augmentation in rows.items()
    }
    unchanged = next(iter(patches.values()))
    points = [_shown_point(patch.label) for patch in unchanged]
    limits = [grey_limits(patch.image) for patch in unchanged]
    tiles = [
        _row_of_tiles(row, augmentation, points, limits)
        for row, augmentation in zip(patches.values(), rows.values(), strict=True)
    ]
    half, titles = (len(rows) + 1) // 2, list(rows)
    blocks = [grid_picture(tiles[part], titles[part]) for part in (slice(half), slice(half, None))]
    whole = side_by_side(blocks)
    values = sorted({int(value) for patch in unchanged for value in np.unique(patch.label)} - {0})
    legend = ClassColours(dict(list(enumerate(names))[1:])).legend(values)
    explanation = EXPLANATION.format(axes=AXES[len(sampling.patch_size)])
    lines = textwrap.wrap(explanation, max(whole.width // 6, CAPTION_CHARACTERS))
    text = text_picture(lines, (whole.width, TEXT_LINE_PIXELS * (len(lines) + 1)))
    return one_below_another([whole, legend_picture(legend, whole.width), text])


def _rows(declared: Augmentation) -> dict[str, Augmentation]:
    """Augmentation of each row by its title."""
    rows = {"unchanged": Augmentation({})}
    for kind, how in declared.kinds.items():
        certain = dict.fromkeys(
            ("prob", "channel_prob") if "channel_prob" in how else ("prob",), 1.0
        )
        title = f"{kind.replace('_', ' ')} (in training: {how['prob']:.0%} of the patches)"
        rows[title] = Augmentation({kind: {**how, **certain}})
    return {**rows, "all, as in training": declared}


def _patches(
    dataset: PreparedDataset, sampling: Sampling, augmentation: Augmentation, count: int
) -> list[PreviewPatch]:
    """The first samples under an augmentation."""
    source = PatchSource(
        dataset.cases(), replace(sampling, augmentation=augmentation), Numbering(count)
    )
    channels = source.num_channels()
    image = np.empty((channels + sampling.num_masks, *sampling.patch_size), np.float32)
    label = np.empty((1, *sampling.patch_size), np.uint8)
    patches = []
    for number in range(count):
        finish(source, number, image, label)
        place = source.place(number)
        classes = np.where(label[0] == IGNORE_CLASS, 0, label[0]).reshape(source.patch_size)
        patches.append(
            PreviewPatch(
                image[0].reshape(source.patch_size).copy(),
                classes,
                place.patch_map,
                source.draw(place, number, channels),
            )
        )
    return patches


def _row_of_tiles(
    patches: Sequence[PreviewPatch],
    augmentation: Augmentation,
    points: Sequence[np.ndarray],
    limits: Sequence[tuple[float, float]],
) -> list[Image.Image]:
    """The patches of a row, each with its text, which has as many lines as the longest one of the row."""
    shown = [_slice_with(patch, point) for patch, point in zip(patches, points, strict=True)]
    texts = [_text_of(patch, augmentation) for patch in patches]
    num_lines = max(map(len, texts))
    tiles = []
    for patch, index, text, grey in zip(patches, shown, texts, limits, strict=True):
        pixels = _pixels(patch.image.shape[1:])
        picture = slice_picture(patch.image[index], patch.label[index], grey, pixels)
        below = text_picture(text, (TILE_PIXELS, num_lines * TEXT_LINE_PIXELS))
        tiles.append(one_below_another([picture, below]))
    return tiles


def _shown_point(label: np.ndarray) -> np.ndarray:
    """Voxel ``[3]`` of the unchanged patch that is shown: the middle of the foreground in its fullest slice."""
    areas = (label > 0).sum(axis=(1, 2))
    if not areas.any():
        return (np.array(label.shape) - 1) / 2
    index = int(areas.argmax())
    return np.array([index, *np.argwhere(label[index] > 0).mean(axis=0)])


def _slice_with(patch: PreviewPatch, point: np.ndarray) -> int:
    """Index of the slice that has a point of the unchanged patch after rotation, scaling and mirroring."""
    middle = (np.array(patch.image.shape) - 1) / 2
    place = middle + np.linalg.solve(patch.patch_map.matrix, point - middle)
    flips = patch.drawn.flips
    last = len(patch.image) - 1
    # in 2D there is only one slice
    index = last - place[0] if len(flips) == len(place) and flips[0] else place[0]
    return int(np.clip(round(index), 0, last))


def _text_of(patch: PreviewPatch, augmentation: Augmentation) -> list[str]:
    """The values that were drawn for a patch, in short lines."""
    drawn, turned = patch.drawn, patch.patch_map
    has_both = "brightness_contrast" in augmentation.kinds
    flipped = [str(axis) for axis in np.flatnonzero(drawn.flips)]
    found = {
        "rotation": [f"{angle:.0f}°" for angle in turned.degrees],
        "scaling": [f"{turned.factor:.2f}"] * (turned.factor != 1),
        "noise": [f"std {drawn.noise.std():.2f}"] * bool(drawn.has_noise),
        "blur": [f"sigma {drawn.blur_sigma[0].mean():.2f}"] * bool(drawn.blur_channels[0]),
        "brightness and contrast" if has_both else "brightness": [
            f"x {drawn.scale.flat[0]:.2f}",
            *([f"{drawn.shift.flat[0]:+.2f}"] if has_both else []),
        ]
        * bool(drawn.has_linear),
        "contrast": [f"x {drawn.contrast.flat[0]:.2f}"] * bool(drawn.has_contrast),
        "low resolution": ["to", "x".join(f"{size:.0f}" for size in drawn.low_size[0])]
        * bool(drawn.low_channels[0]),
        "gamma inverted": [f"{drawn.gamma_inverted.flat[0]:.2f}"] * bool(drawn.has_gamma_inverted),
        "gamma": [f"{drawn.gamma.flat[0]:.2f}"] * bool(drawn.has_gamma),
        "mirrored axes": [", ".join(flipped)] * bool(flipped),
    }
    return [
        line
        for kind, values in found.items()
        if values
        for line in textwrap.wrap(f"{kind} {' '.join(values)}", CAPTION_CHARACTERS)
    ]


def _pixels(shape: tuple[int, ...]) -> tuple[int, int]:
    factor = TILE_PIXELS / max(shape)
    return max(round(shape[0] * factor), 1), max(round(shape[1] * factor), 1)

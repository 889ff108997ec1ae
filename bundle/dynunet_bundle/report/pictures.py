"""Pictures of one case: the planes through the largest sections of its foreground, with both contours."""

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynunet_bundle.drawing.colours import ClassColours
from dynunet_bundle.drawing.slices import png_bytes
from dynunet_bundle.errors import BundleError
from dynunet_bundle.files import PICTURE_SUFFIXES
from dynunet_bundle.images.grid import same_grid
from dynunet_bundle.images.read import Volume, read_volume
from dynunet_bundle.report.drawing import (
    RGB_CHANNELS,
    Sheet,
    draw_plane,
    round_below,
)
from dynunet_bundle.report.planes import (
    PLANES,
    Box,
    Plane,
    StoredAxes,
    field_of_view,
    foreground_box,
    foreground_counts,
    grey_window,
    section,
    stored_axes,
)

LONGEST_SIDE_PIXELS = 440
SCALE_SHARE = 0.3
"""Largest length of the scale bar, as a fraction of the width of the narrowest plane."""

OBLIQUE_DEGREES = 5.0
"""Tilt above which the caption says "oblique": the letters then name only the nearest direction."""

COLOUR_WINDOW = (0.0, 255.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        name: of the case.
        image: its image; the first channel if there are several files.
        prediction: the predicted mask.
        reference: the reference mask, or None.
    """

    name: str
    image: Path
    prediction: Path
    reference: Path | None = None


@dataclass(frozen=True)
class Panel:
    """Picture of one plane.

    Attributes:
        source: the picture as a data URI.
        width: pixels.
        height: pixels.
        caption: plane and slice; empty for a photograph.
    """

    source: str
    width: int
    height: int
    caption: str


@dataclass(frozen=True)
class CasePictures:
    """All planes of one case.

    Attributes:
        panels: the planes; empty if they cannot be drawn.
        note: why they cannot be drawn, or empty.
        values: label values with a contour.
    """

    panels: tuple[Panel, ...] = ()
    note: str = ""
    values: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Slice:
    """One plane of the masks: the index of its slice in the view, and a copy of that part of each mask."""

    plane: Plane
    index: int
    masks: tuple[np.ndarray, ...]


def draw_case(
    files: CaseFiles, ignore_value: int | None = None, colours: ClassColours | None = None
) -> CasePictures:
    """Draw the planes of one case, all at the same scale.

    To save memory, the masks are freed before the image is read.

    Args:
        files: the files of the case.
        ignore_value: value of unlabelled voxels in the reference; shown as background.
        colours: of the classes; if None, chosen by their values.
    """
    try:
        return _draw(files, ignore_value, colours or ClassColours())
    except (
        Exception
    ) as error:  # readers raise many types, and a missing picture must not prevent the page
        # other messages contain folders, whose names may identify a patient
        reason = str(error) if isinstance(error, BundleError) else type(error).__name__
        logger.warning("case %s is not drawn: %s", files.name, reason)
        return CasePictures(note="Not drawn: a file of this case is missing or cannot be read.")


def _draw(files: CaseFiles, ignore_value: int | None, colours: ClassColours) -> CasePictures:
    masks = [read_volume(path) for path in (files.prediction, files.reference) if path is not None]
    shape, affine = masks[0].array.shape[1:], masks[0].affine
    if not all(same_grid(shape, affine, mask.array.shape[1:], mask.affine) for mask in masks):
        return CasePictures(note="Not drawn: prediction and reference are on different grids.")
    axes = stored_axes(affine)
    views = [axes.view(mask.array[0]) for mask in masks]
    counts = foreground_counts(views)
    box = foreground_box(counts)
    field = field_of_view(box, views[0].shape, axes.spacing_mm)
    slices = []
    for plane in _planes(views[0].shape):
        along = counts[plane.across]
        index = int(np.argmax(along)) if along.any() else len(along) // 2
        parts = tuple(section(view, plane, index)[_within(plane, field)].copy() for view in views)
        if len(parts) > 1 and ignore_value is not None:
            parts[1][parts[1] == ignore_value] = 0
        slices.append(_Slice(plane, index, parts))
    del masks, views
    image = read_volume(files.image)
    if not same_grid(shape, affine, image.array.shape[1:], image.affine):
        return CasePictures(note="Not drawn: image and prediction are on different grids.")
    drawn = {
        round(value) for part in slices for mask in part.masks for value in np.unique(mask).tolist()
    }
    panels = _panels(files, image, axes, slices, (box, field), colours)
    return CasePictures(panels, values=frozenset(drawn - {0}))


def _planes(shape: Sequence[int]) -> list[Plane]:
    """The planes with more than one voxel along both axes; if there are none, the first plane."""
    usable = [plane for plane in PLANES if min(shape[plane.rows], shape[plane.columns]) > 1]
    return usable or [PLANES[0]]


def _within(plane: Plane, field: Box) -> tuple[slice, slice]:
    return field[plane.rows], field[plane.columns]


def _panels(
    files: CaseFiles,
    image: Volume,
    axes: StoredAxes,
    slices: Sequence[_Slice],
    boxes: tuple[Box, Box],
    colours: ClassColours,
) -> tuple[Panel, ...]:
    box, field = boxes
    is_photograph = files.image.name.lower().endswith(PICTURE_SUFFIXES)
    has_colours = is_photograph and len(image.array) == RGB_CHANNELS and image.array.dtype == "u1"
    view = axes.view(np.moveaxis(image.array, 0, -1) if has_colours else image.array[0])
    window = COLOUR_WINDOW if has_colours else grey_window(view, box, field)
    sides_mm = [
        (part.stop - part.start) * length
        for part, length in zip(field, axes.spacing_mm, strict=True)
    ]
    shown = {axis for part in slices for axis in (part.plane.rows, part.plane.columns)}
    pixels_per_mm = LONGEST_SIDE_PIXELS / max(sides_mm[axis] for axis in shown)
    scale = round_below(SCALE_SHARE * min(sides_mm[part.plane.columns] for part in slices))
    panels = []
    for part in slices:
        plane = part.plane
        width, height = (
            max(round(sides_mm[axis] * pixels_per_mm), 1) for axis in (plane.columns, plane.rows)
        )
        sheet = Sheet(
            (width, height),
            () if is_photograph else plane.letters,
            round(scale * pixels_per_mm),
            f"{scale:g} {'px' if is_photograph else 'mm'}",
        )
        pixels = section(view, plane, part.index)[_within(plane, field)]
        prediction, *reference = part.masks
        expected = reference[0] if reference else None
        picture = draw_plane(pixels, window, expected, prediction, sheet, colours)
        source = f"data:image/png;base64,{base64.b64encode(png_bytes(picture)).decode()}"
        caption = _caption(plane, axes, part.index, view.shape[plane.across], is_photograph)
        panels.append(Panel(source, width, height, caption))
    return tuple(panels)


def _caption(plane: Plane, axes: StoredAxes, index: int, size: int, is_photograph: bool) -> str:
    if is_photograph:
        return ""
    stored = axes.stored_index(plane.across, index, size)
    tilted = axes.tilt_degrees >= OBLIQUE_DEGREES
    oblique = f", oblique by {axes.tilt_degrees:.0f}°" if tilted else ""
    return f"{plane.name}{oblique}, slice {stored + 1} of {size}"

"""Pictures of one case: three slices of each plane, one through the largest section of the foreground."""

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dynunet_bundle.drawing.colours import ClassColours
from dynunet_bundle.drawing.slices import jpeg_bytes, png_bytes
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

LONGEST_SIDE_PIXELS, SMALL_SIDE_PIXELS = 440, 220
"""Longest side of the pictures of a case: of the largest sections, and of the other slices."""

SCALE_SHARE = 0.3
"""Largest length of the scale bar, as a fraction of the width of the narrowest plane."""

OBLIQUE_DEGREES = 5.0
"""Tilt above which the caption says "oblique": the letters then name only the nearest direction."""

COLOUR_WINDOW = (0.0, 255.0)
SLICES_A_PLANE = 3

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
    """Picture of one slice.

    Attributes:
        source: the picture without contours as a data URI.
        width: pixels.
        height: pixels.
        caption: plane and slice; empty for a photograph.
        prediction: the contours of the prediction as a data URI, of the same size.
        reference: those of the reference; empty without a reference.
    """

    source: str
    width: int
    height: int
    caption: str
    prediction: str
    reference: str = ""


@dataclass(frozen=True)
class CasePictures:
    """All pictures of one case.

    Attributes:
        panels: one slice of each plane, through the largest section; empty if they cannot be drawn.
        others: smaller pictures of further slices, plane by plane.
        window: the values that are shown black and white, as text.
        note: why they cannot be drawn, or empty.
        values: label values with a contour.
    """

    panels: tuple[Panel, ...] = ()
    others: tuple[Panel, ...] = ()
    window: str = ""
    note: str = ""
    values: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Slice:
    """One slice: its index in the view, whether it is its plane's largest section, a copy of its part of each mask."""

    plane: Plane
    index: int
    is_largest: bool
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
    slices = [
        _Slice(plane, index, place == 0, _cut(views, plane, index, field, ignore_value))
        for plane in _planes(views[0].shape)
        for place, index in enumerate(_chosen_slices(counts[plane.across]))
    ]
    del masks, views
    image = read_volume(files.image)
    if not same_grid(shape, affine, image.array.shape[1:], image.affine):
        return CasePictures(note="Not drawn: image and prediction are on different grids.")
    drawn = {
        round(value) for part in slices for mask in part.masks for value in np.unique(mask).tolist()
    }
    is_photograph = files.image.name.lower().endswith(PICTURE_SUFFIXES)
    view, window = _grey_view(image, axes, is_photograph, (box, field))
    panels = _panels(view, window, axes, slices, field, is_photograph, colours)
    largest = tuple(panel for part, panel in zip(slices, panels, strict=True) if part.is_largest)
    others = tuple(panel for panel in panels if panel not in largest)
    told = _window_text(window, is_photograph)
    return CasePictures(largest, others, told, values=frozenset(drawn - {0}))


def _chosen_slices(along: np.ndarray) -> list[int]:
    """Up to three slices: that with the largest section, then halfway from it to both ends of the foreground.

    Args:
        along: number of foreground voxels per slice. Neighbours of the first slice complete a short foreground.
    """
    inside = np.flatnonzero(along)
    first = int(np.argmax(along)) if len(inside) else len(along) // 2
    low, high = (int(inside[0]), int(inside[-1])) if len(inside) else (0, len(along) - 1)
    nearest = sorted(range(len(along)), key=lambda index: abs(index - first))
    wanted = (first, (low + first) // 2, (first + high + 1) // 2, *nearest)
    others = list(dict.fromkeys(wanted))[1:SLICES_A_PLANE]
    return [first, *sorted(others)]


def _cut(
    views: Sequence[np.ndarray], plane: Plane, index: int, field: Box, ignore_value: int | None
) -> tuple[np.ndarray, ...]:
    parts = tuple(section(view, plane, index)[_within(plane, field)].copy() for view in views)
    if len(parts) > 1 and ignore_value is not None:
        parts[1][parts[1] == ignore_value] = 0
    return parts


def _planes(shape: Sequence[int]) -> list[Plane]:
    """The planes with more than one voxel along both axes; if there are none, the first plane."""
    usable = [plane for plane in PLANES if min(shape[plane.rows], shape[plane.columns]) > 1]
    return usable or [PLANES[0]]


def _within(plane: Plane, field: Box) -> tuple[slice, slice]:
    return field[plane.rows], field[plane.columns]


def _grey_view(
    image: Volume, axes: StoredAxes, is_photograph: bool, boxes: tuple[Box, Box]
) -> tuple[np.ndarray, tuple[float, float]]:
    """The first channel (or the colours of a photograph) as a view, and the values shown black and white."""
    has_colours = is_photograph and len(image.array) == RGB_CHANNELS and image.array.dtype == "u1"
    view = axes.view(np.moveaxis(image.array, 0, -1) if has_colours else image.array[0])
    return view, COLOUR_WINDOW if has_colours else grey_window(view, *boxes)


def _window_text(window: tuple[float, float], is_photograph: bool) -> str:
    """The grey window in words; level and width are terms of scanners, and colours are shown as they are."""
    low, high = window
    if is_photograph:
        return "" if window == COLOUR_WINDOW else f"Values {low:.4g} (black) to {high:.4g} (white)."
    return (
        f"Values {low:.4g} (black) to {high:.4g} (white): "
        f"level {(low + high) / 2:.4g}, width {high - low:.4g}."
    )


def _panels(
    view: np.ndarray,
    window: tuple[float, float],
    axes: StoredAxes,
    slices: Sequence[_Slice],
    field: Box,
    is_photograph: bool,
    colours: ClassColours,
) -> tuple[Panel, ...]:
    sides_mm = [
        (part.stop - part.start) * length
        for part, length in zip(field, axes.spacing_mm, strict=True)
    ]
    shown = {axis for part in slices for axis in (part.plane.rows, part.plane.columns)}
    longest_mm = max(sides_mm[axis] for axis in shown)
    scale = round_below(SCALE_SHARE * min(sides_mm[part.plane.columns] for part in slices))
    panels = []
    for part in slices:
        plane = part.plane
        longest = LONGEST_SIDE_PIXELS if part.is_largest else SMALL_SIDE_PIXELS
        pixels_per_mm = longest / longest_mm
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
        layers = draw_plane(pixels, window, expected, prediction, sheet, colours)
        caption = _caption(plane, axes, part.index, view.shape[plane.across], is_photograph)
        dashed = "" if layers.reference is None else _data_uri(layers.reference)
        source, solid = _data_uri(layers.picture), _data_uri(layers.prediction)
        panels.append(Panel(source, width, height, caption, solid, dashed))
    return tuple(panels)


def _data_uri(picture: Image.Image) -> str:
    """Grey values as JPEG, a third of the size; contours and colours as PNG, which keeps them exact."""
    kind, content = "png", png_bytes(picture)
    if picture.mode == "L":
        kind, content = "jpeg", jpeg_bytes(picture)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _caption(plane: Plane, axes: StoredAxes, index: int, size: int, is_photograph: bool) -> str:
    if is_photograph:
        return ""
    stored = axes.stored_index(plane.across, index, size)
    tilted = axes.tilt_degrees >= OBLIQUE_DEGREES
    oblique = f", oblique by {axes.tilt_degrees:.0f}°" if tilted else ""
    return f"{plane.name}{oblique}, slice {stored + 1} of {size}"

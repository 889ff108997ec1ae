"""One plane as layers: grey values in true proportions with letters and a scale bar, and contours on voxel borders."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from dynunet_bundle.drawing.colours import COLOURS, ClassColours
from dynunet_bundle.drawing.slices import font

LINE_PIXELS, THIN_LINE_PIXELS = (2, 4), (1, 3)
"""Line widths of reference and prediction. The reference is narrower and drawn last, so that both stay visible where
they coincide."""

DASH_PIXELS = 6
"""Dash length of the reference's line, which alternates between its class colour and black: the dashes are visible on
bright and dark ground and on the prediction's line."""

THIN_BELOW_PIXELS = 4
"""Voxel size below which thin lines are used: wide ones would cover the area that they enclose."""

RGB_CHANNELS = 3
LETTER_PIXELS, SCALE_TEXT_PIXELS = 19, 14
LETTER_MARGIN, SCALE_MARGIN = 6, 10
WHITE, BLACK = 255, 0
NO_INK, BLACK_INK = 0, -1
"""Inks without a class; other inks are positions in ``COLOURS``, counted from 1."""


@dataclass(frozen=True)
class Sheet:
    """Size and annotations of a drawn plane.

    Attributes:
        size: width and height in pixels.
        letters: letters at the left, right, top and bottom; empty for none.
        scale_pixels: length of the scale bar.
        scale_text: its label.
    """

    size: tuple[int, int]
    letters: Sequence[str]
    scale_pixels: int
    scale_text: str


@dataclass(frozen=True)
class PlaneLayers:
    """One drawn plane in layers of equal size, so that a page can hide the contours.

    Attributes:
        picture: grey or RGB, with letters and scale bar.
        prediction: contours of the prediction on a transparent ground.
        reference: contours of the reference on a transparent ground; None without a reference.
    """

    picture: Image.Image
    prediction: Image.Image
    reference: Image.Image | None


def draw_plane(
    image: np.ndarray,
    window: tuple[float, float],
    reference: np.ndarray | None,
    prediction: np.ndarray,
    sheet: Sheet,
    colours: ClassColours | None = None,
) -> PlaneLayers:
    """Draw a slice and the contours of its masks, each class in its colour.

    Args:
        image: ``[rows, columns]``, or ``[rows, columns, 3]`` for colours.
        window: values that are shown black and white.
        reference: ``[rows, columns]`` label values, or None; its contours are dashed.
        prediction: ``[rows, columns]`` label values; its contours are solid.
        sheet: size, letters and scale bar.
        colours: of the classes; if None, chosen by their values.
    """
    colours = colours or ClassColours()
    shade = (np.nan_to_num(image.astype(np.float32)) - window[0]) / (window[1] - window[0])
    levels = (np.clip(shade, 0, 1) * WHITE).round().astype(np.uint8)
    picture = Image.fromarray(levels).resize(sheet.size, Image.Resampling.BICUBIC)
    _write(ImageDraw.Draw(picture), sheet, WHITE, BLACK)
    texts = Image.new("L", sheet.size)
    _write(ImageDraw.Draw(texts), sheet, WHITE, WHITE)
    # letters stay readable where a contour crosses them
    is_text = np.asarray(texts) > 0
    pixels_a_voxel = min(sheet.size[0] / image.shape[1], sheet.size[1] / image.shape[0])
    thin, wide = LINE_PIXELS if pixels_a_voxel >= THIN_BELOW_PIXELS else THIN_LINE_PIXELS
    solid = _solid(_borders(prediction, sheet.size, wide, colours))
    solid[is_text] = NO_INK
    if reference is None:
        return PlaneLayers(picture, _transparent(solid), None)
    dashed = _dashed(_borders(reference, sheet.size, thin, colours))
    dashed[is_text] = NO_INK
    return PlaneLayers(picture, _transparent(solid), _transparent(dashed))


def _transparent(inks: np.ndarray) -> Image.Image:
    """Inks ``[height, width]`` as a palette picture, transparent without ink."""
    entries = np.where(inks > 0, inks + 1, np.where(inks == BLACK_INK, 1, 0)).astype(np.uint8)
    picture = Image.frombytes("P", inks.shape[::-1], entries.tobytes())
    ground_and_black = [BLACK] * (2 * RGB_CHANNELS)
    inked = (level for colour in COLOURS for level in ImageColor.getrgb(colour))
    picture.putpalette([*ground_and_black, *inked])
    picture.info["transparency"] = 0
    return picture


def _borders(
    classes: np.ndarray, size: tuple[int, int], width: int, colours: ClassColours
) -> tuple[np.ndarray, np.ndarray]:
    """Inks ``[height, width]`` of vertical and of horizontal lines; 0 elsewhere.

    A line separates neighbouring pixels of different classes, in the colour of the higher class. Classes that reach the
    edge of the slice also get a line there.
    """
    rows, columns = classes.shape
    padded = np.pad(np.rint(classes).astype(np.int64), 1)
    values = np.unique(padded).tolist()
    ink_of = {value: COLOURS.index(colours.colour(value)) + 1 for value in values if value}
    xs, ys = (
        np.round(np.arange(count + 1) * length / count).astype(int)
        for count, length in ((columns, size[0]), (rows, size[1]))
    )
    upright, level = (Image.new("L", size) for _ in range(2))
    canvas = ImageDraw.Draw(upright)
    inner = padded[1:-1]
    for row, column in np.argwhere(np.diff(inner, axis=1)).tolist():
        ends = (xs[column], ys[row], xs[column], ys[row + 1])
        value = int(inner[row, column : column + 2].max())
        _line(canvas, size, ends, ink_of.get(value, 1), width)
    canvas = ImageDraw.Draw(level)
    inner = padded[:, 1:-1]
    for row, column in np.argwhere(np.diff(inner, axis=0)).tolist():
        ends = (xs[column], ys[row], xs[column + 1], ys[row])
        value = int(inner[row : row + 2, column].max())
        _line(canvas, size, ends, ink_of.get(value, 1), width)
    return np.asarray(upright).astype(np.int16), np.asarray(level).astype(np.int16)


def _solid(lines: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    upright, level = lines
    inks = np.where(upright > 0, upright, level)
    return np.where(inks > 0, inks, NO_INK)


def _dashed(lines: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Make every other stretch of a line black; the stretches depend on the position in the picture."""
    inks = []
    for axis, line in enumerate(lines):
        is_black = np.expand_dims(np.arange(line.shape[axis]) // DASH_PIXELS % 2 > 0, 1 - axis)
        inks.append(np.where(line > 0, np.where(is_black, BLACK_INK, line), NO_INK))
    return np.where(inks[0] != NO_INK, inks[0], inks[1])


def _line(
    canvas: ImageDraw.ImageDraw,
    size: tuple[int, int],
    ends: tuple[int, int, int, int],
    ink: int,
    width: int,
) -> None:
    """Draw a line with square ends, so that corners are filled, entirely within the picture."""
    before, after = (width - 1) // 2, width // 2
    left, top, right, bottom = map(int, ends)
    left, right = (min(max(x, before), size[0] - 1 - after) for x in (left, right))
    top, bottom = (min(max(y, before), size[1] - 1 - after) for y in (top, bottom))
    canvas.rectangle((left - before, top - before, right + after, bottom + after), fill=ink)


def _write(canvas: ImageDraw.ImageDraw, sheet: Sheet, level: int, edge_level: int) -> None:
    """Draw letters at the borders and a scale bar at the lower left."""
    ink, edge = _ink(canvas, level), _ink(canvas, edge_level)
    width, height = sheet.size
    middle = (width / 2, height / 2)
    places = (
        ((LETTER_MARGIN, middle[1]), "lm"),
        ((width - LETTER_MARGIN, middle[1]), "rm"),
        ((middle[0], LETTER_MARGIN), "mt"),
        ((middle[0], height - LETTER_MARGIN), "mb"),
    )
    left, bottom = SCALE_MARGIN, height - SCALE_MARGIN
    right = left + sheet.scale_pixels
    canvas.rectangle((left - 1, bottom - 4, right + 1, bottom + 1), fill=edge)
    canvas.rectangle((left, bottom - 3, right, bottom), fill=ink)
    scale = (sheet.scale_text, ((left, bottom - 8), "lb"), SCALE_TEXT_PIXELS)
    letters = zip(sheet.letters, places, [LETTER_PIXELS] * len(places), strict=False)
    for text, (place, anchor), size in (*letters, scale):
        canvas.text(place, text, ink, font(size), anchor, stroke_width=1, stroke_fill=edge)


def _ink(canvas: ImageDraw.ImageDraw, level: int) -> int | tuple[int, ...]:
    return level if canvas.mode == "L" else (level,) * RGB_CHANNELS


def round_below(most: float) -> float:
    """The largest of ..., 0.1, 0.2, 0.5, 1, 2, 5, 10, ... that is at most ``most``.

    Args:
        most: above zero.
    """
    power = 10.0 ** math.floor(math.log10(most))
    return next((power * factor for factor in (5, 2) if power * factor <= most * 1.000001), power)

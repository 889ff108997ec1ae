"""One plane as a picture: grey values in true proportion, contours on the borders of voxels, letters and a scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from dynunet_bundle.drawing.colours import COLOURS, ClassColours
from dynunet_bundle.drawing.slices import font

LINE_PIXELS, THIN_LINE_PIXELS = (2, 4), (1, 3)
"""Of the reference, which is drawn last and narrower, and of the prediction: where both agree one sees both."""

DASH_PIXELS = 6
"""A reference's line changes between the colour of its class and black, so that it is dashed on bright ground, on dark
ground, and on a prediction's line."""

THIN_BELOW_PIXELS = 4
"""Where voxels are smaller than that, wide lines would cover what they enclose."""

GREY_LEVELS = 256 - len(COLOURS)
"""Of a palette's 256 entries; a palette keeps a file at a third of the size that colours would need."""

RGB_CHANNELS = 3
LETTER_PIXELS, SCALE_TEXT_PIXELS = 19, 14
LETTER_MARGIN, SCALE_MARGIN = 6, 10
WHITE, BLACK = 255, 0
NO_INK, BLACK_INK = 0, -1
"""Other inks are places in ``COLOURS``, counted from 1."""


@dataclass(frozen=True)
class Sheet:
    """What a plane is drawn with.

    Attributes:
        size: width and height in pixels.
        letters: what lies on the left, on the right, on top and at the bottom; empty for none.
        scale_pixels: length of the scale.
        scale_text: what it stands for.
    """

    size: tuple[int, int]
    letters: Sequence[str]
    scale_pixels: int
    scale_text: str


def draw_plane(
    image: np.ndarray,
    window: tuple[float, float],
    reference: np.ndarray | None,
    prediction: np.ndarray,
    sheet: Sheet,
    colours: ClassColours | None = None,
) -> Image.Image:
    """Draw a slice with the contours of its masks, each class in its colour.

    Args:
        image: ``[rows, columns]``, or ``[rows, columns, 3]`` for colours.
        window: values that are shown black and white.
        reference: ``[rows, columns]`` label values, or None; its contours are dashed.
        prediction: likewise; its contours are solid.
        sheet: size, letters and scale.
        colours: of the classes; where None, by their values.

    Returns:
        A picture with a palette, or in RGB.
    """
    colours = colours or ClassColours()
    shade = (np.nan_to_num(image.astype(np.float32)) - window[0]) / (window[1] - window[0])
    levels = (np.clip(shade, 0, 1) * WHITE).round().astype(np.uint8)
    picture = Image.fromarray(levels).resize(sheet.size, Image.Resampling.BICUBIC)
    _write(ImageDraw.Draw(picture), sheet, WHITE, BLACK)
    texts = Image.new("L", sheet.size)
    _write(ImageDraw.Draw(texts), sheet, WHITE, WHITE)
    pixels_a_voxel = min(sheet.size[0] / image.shape[1], sheet.size[1] / image.shape[0])
    thin, wide = LINE_PIXELS if pixels_a_voxel >= THIN_BELOW_PIXELS else THIN_LINE_PIXELS
    inks = _solid(_borders(prediction, sheet.size, wide, colours))
    if reference is not None:
        dashed = _dashed(_borders(reference, sheet.size, thin, colours))
        inks = np.where(dashed != NO_INK, dashed, inks)
    # letters stay readable where a contour runs through them
    inks[np.asarray(texts) > 0] = NO_INK
    if picture.mode == "L":
        return _with_palette(np.asarray(picture), inks)
    shown = np.array(picture)
    shown[inks == BLACK_INK] = BLACK
    for number, colour in enumerate(COLOURS):
        shown[inks == number + 1] = ImageColor.getrgb(colour)
    return Image.fromarray(shown)


def _with_palette(grey: np.ndarray, inks: np.ndarray) -> Image.Image:
    """Grey levels and inks, both ``[height, width]``, as a picture with a palette."""
    levels = grey.astype(np.uint16) * (GREY_LEVELS - 1) // WHITE
    entries = np.where(inks > 0, GREY_LEVELS - 1 + inks, levels)
    entries[inks == BLACK_INK] = 0
    picture = Image.frombytes("P", grey.shape[::-1], entries.astype(np.uint8).tobytes())
    greys = np.linspace(BLACK, WHITE, GREY_LEVELS).round().astype(int).repeat(RGB_CHANNELS)
    inked = (level for colour in COLOURS for level in ImageColor.getrgb(colour))
    picture.putpalette([*greys.tolist(), *inked])
    return picture


def _borders(
    classes: np.ndarray, size: tuple[int, int], width: int, colours: ClassColours
) -> tuple[np.ndarray, np.ndarray]:
    """Inks ``[height, width]`` of upright and of level lines; 0 where there is none.

    There are lines wherever two neighbours differ in their class, in the colour of the higher one, and about what
    reaches the edge of the slice.
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
    """Black in every other stretch of a line, told by its place in the picture."""
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
    """A line with square ends, so that corners are full, and all of it within the picture."""
    before, after = (width - 1) // 2, width // 2
    left, top, right, bottom = map(int, ends)
    left, right = (min(max(x, before), size[0] - 1 - after) for x in (left, right))
    top, bottom = (min(max(y, before), size[1] - 1 - after) for y in (top, bottom))
    canvas.rectangle((left - before, top - before, right + after, bottom + after), fill=ink)


def _write(canvas: ImageDraw.ImageDraw, sheet: Sheet, level: int, edge_level: int) -> None:
    """Letters at the borders, and a scale at the lower left."""
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
    """The last of ..., 0.1, 0.2, 0.5, 1, 2, 5, 10, ... that is not larger.

    Args:
        most: above zero.
    """
    power = 10.0 ** math.floor(math.log10(most))
    return next((power * factor for factor in (5, 2) if power * factor <= most * 1.000001), power)

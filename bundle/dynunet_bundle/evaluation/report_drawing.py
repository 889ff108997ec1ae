"""One plane as a picture: grey values in true proportion, contours on the borders of voxels, letters and a scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from dynunet_bundle.pictures import font

REFERENCE_COLOUR, PREDICTION_COLOUR = "#ffd60a", "#1f8fff"
"""Yellow and blue differ in hue and in lightness, also for those who cannot tell red from green."""

LINE_PIXELS, THIN_LINE_PIXELS = (5, 3), (4, 2)
"""Of the reference, which is drawn first and wider, and of the prediction: where both agree one sees it within."""

THIN_BELOW_PIXELS = 4
"""Where voxels are smaller than that, wide lines would cover what they enclose."""

GREY_LEVELS = 254
"""Of a palette's 256 entries; a palette keeps a file at a third of the size that colours would need."""

RGB_CHANNELS = 3
LETTER_PIXELS, SCALE_TEXT_PIXELS = 19, 14
LETTER_MARGIN, SCALE_MARGIN = 6, 10
WHITE, BLACK = 255, 0


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
) -> Image.Image:
    """Draw a slice with the contours of its masks.

    Args:
        image: ``[rows, columns]``, or ``[rows, columns, 3]`` for colours.
        window: values that are shown black and white.
        reference: ``[rows, columns]`` label values, or None.
        prediction: likewise.
        sheet: size, letters and scale.

    Returns:
        A picture with a palette, or in RGB.
    """
    shade = (np.nan_to_num(image.astype(np.float32)) - window[0]) / (window[1] - window[0])
    levels = (np.clip(shade, 0, 1) * WHITE).round().astype(np.uint8)
    picture = Image.fromarray(levels).resize(sheet.size, Image.Resampling.BICUBIC)
    _write(ImageDraw.Draw(picture), sheet, WHITE, BLACK)
    texts, lines = Image.new("L", sheet.size), Image.new("L", sheet.size)
    _write(ImageDraw.Draw(texts), sheet, WHITE, WHITE)
    canvas = ImageDraw.Draw(lines)
    pixels_a_voxel = min(sheet.size[0] / image.shape[1], sheet.size[1] / image.shape[0])
    widths = LINE_PIXELS if pixels_a_voxel >= THIN_BELOW_PIXELS else THIN_LINE_PIXELS
    for number, (classes, width) in enumerate(zip((reference, prediction), widths, strict=True)):
        if classes is not None:
            _draw_borders(canvas, classes, sheet.size, number + 1, width)
    # letters stay readable where a contour runs through them
    visible = np.where(np.asarray(texts) > 0, 0, np.asarray(lines))
    colours = [ImageColor.getrgb(name) for name in (REFERENCE_COLOUR, PREDICTION_COLOUR)]
    if picture.mode == "L":
        return _with_palette(np.asarray(picture), visible, colours)
    shown = np.array(picture)
    for number, colour in enumerate(colours):
        shown[visible == number + 1] = colour
    return Image.fromarray(shown)


def _with_palette(
    grey: np.ndarray, lines: np.ndarray, colours: Sequence[tuple[int, ...]]
) -> Image.Image:
    """Grey levels and numbers of lines, both ``[height, width]``, as a picture with a palette."""
    levels = grey.astype(np.uint16) * (GREY_LEVELS - 1) // WHITE
    entries = np.where(lines > 0, GREY_LEVELS - 1 + lines, levels).astype(np.uint8)
    picture = Image.frombytes("P", grey.shape[::-1], entries.tobytes())
    greys = np.linspace(BLACK, WHITE, GREY_LEVELS).round().astype(int).repeat(RGB_CHANNELS)
    picture.putpalette([*greys.tolist(), *(level for colour in colours for level in colour)])
    return picture


def _draw_borders(
    canvas: ImageDraw.ImageDraw, classes: np.ndarray, size: tuple[int, int], ink: int, width: int
) -> None:
    """Lines wherever two neighbours differ in their class, and about what reaches the edge of the slice."""
    rows, columns = classes.shape
    padded = np.pad(np.rint(classes).astype(np.int64), 1)
    xs, ys = (
        np.round(np.arange(count + 1) * length / count).astype(int)
        for count, length in ((columns, size[0]), (rows, size[1]))
    )
    for row, column in np.argwhere(np.diff(padded[1:-1], axis=1)).tolist():
        _line(canvas, size, (xs[column], ys[row], xs[column], ys[row + 1]), ink, width)
    for row, column in np.argwhere(np.diff(padded[:, 1:-1], axis=0)).tolist():
        _line(canvas, size, (xs[column], ys[row], xs[column + 1], ys[row]), ink, width)


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

"""Slices as pictures: grey values with the outlines of their labels."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from scipy import ndimage

from dynunet_bundle.drawing.colours import class_colour
from dynunet_bundle.files import atomic_write, ensure_writable

INK = "#222222"
OUTLINE_PIXELS = 2  # width of outlines
JPEG_QUALITY = 90
TEXT_PIXELS, TEXT_LINE_PIXELS, LEGEND_PIXELS = 11, 14, 13  # sizes of fonts, and of a line
SHOWN_PERCENTILES = (1, 99.5)  # shown black and white


def grey_limits(image: np.ndarray) -> tuple[float, float]:
    """Intensities to be shown black and white."""
    low, high = np.percentile(image, SHOWN_PERCENTILES)
    return float(low), float(max(high, low + 1e-8))


def slice_picture(
    image: np.ndarray, label: np.ndarray, limits: tuple[float, float], pixels: tuple[int, int]
) -> Image.Image:
    """One resized slice with an outline around each class, in the colour of the class.

    Args:
        image: ``[H, W]``.
        label: ``[H, W]`` class numbers.
        limits: intensities shown black and white.
        pixels: height and width of the picture.
    """
    grey = np.clip((image - limits[0]) / (limits[1] - limits[0]), 0, 1)
    size = (pixels[1], pixels[0])
    shown = np.array(Image.fromarray((grey * 255).astype(np.uint8)).resize(size).convert("RGB"))
    nearest = Image.Resampling.NEAREST
    classes = np.array(Image.fromarray(label.astype(np.uint8)).resize(size, nearest))
    for value in np.unique(classes[classes > 0]):
        mask = classes == value
        outline = mask & ~ndimage.binary_erosion(mask, iterations=OUTLINE_PIXELS)
        shown[outline] = ImageColor.getrgb(class_colour(int(value)))
    return Image.fromarray(shown)


def grid_picture(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Pictures in rows on white, with a title above each row; widths are equal, and heights within a row."""
    gap, head = 6, 26
    width = rows[0][0].width
    columns = max(len(row) for row in rows)
    heights = [head + row[0].height + gap for row in rows]
    whole = Image.new("RGB", (gap + columns * (width + gap), sum(heights)), "white")
    canvas = ImageDraw.Draw(whole)
    for number, (row, title) in enumerate(zip(rows, titles, strict=True)):
        top = sum(heights[:number])
        canvas.text((gap, top + 6), title, INK, font(15))
        for place, picture in enumerate(row):
            whole.paste(picture, (gap + place * (width + gap), top + head))
    return whole


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in one row, aligned at the top."""
    width = sum(picture.width for picture in pictures)
    whole = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width
    return whole


def one_below_another(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in one column, aligned at the left."""
    height = sum(picture.height for picture in pictures)
    whole = Image.new("RGB", (max(picture.width for picture in pictures), height), "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def text_picture(lines: Sequence[str], size: tuple[int, int]) -> Image.Image:
    """Small text on white.

    Args:
        lines: the lines, from the top.
        size: width and height of the picture.
    """
    picture = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        canvas.text((0, number * TEXT_LINE_PIXELS + 1), line, INK, font(TEXT_PIXELS))
    return picture


def legend_picture(entries: Sequence[tuple[str, str]], width: int) -> Image.Image:
    """A square in its colour before each name, in as many rows as needed.

    Args:
        entries: names and colours, see ``ClassColours.legend``.
        width: width of the picture.
    """
    square, gap, row = 12, 6, 24
    places, left, top = [], gap, 0
    for name, _ in entries:
        length = square + gap + round(font(LEGEND_PIXELS).getlength(name)) + 3 * gap
        if left > gap and left + length > width:
            left, top = gap, top + row
        places.append((left, top))
        left += length
    picture = Image.new("RGB", (width, top + row), "white")
    canvas = ImageDraw.Draw(picture)
    for (name, colour), (x, y) in zip(entries, places, strict=True):
        canvas.rectangle((x, y + 5, x + square, y + 5 + square), colour, INK)
        canvas.text((x + square + gap, y + 3), name, INK, font(LEGEND_PIXELS))
    return picture


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as the content of a PNG file."""
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return content.getvalue()


def jpeg_bytes(picture: Image.Image) -> bytes:
    """The picture as the content of a JPEG file."""
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return content.getvalue()


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG file atomically; create its folder if needed.

    Raises:
        OutputError: if it cannot be written.
    """
    ensure_writable(path.parent)
    with atomic_write(path) as file:
        file.write(png_bytes(picture))


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's default font in a size."""
    return ImageFont.load_default(size)

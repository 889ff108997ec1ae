"""Slices as pictures: grey values with the outlines of their labels."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from dynunet_bundle.drawing.colours import RGB_COLOURS
from dynunet_bundle.files import atomic_write, ensure_writable

INK = "#222222"
OUTLINE_PIXELS = 2
SHOWN_PERCENTILES = (1, 99.5)


def grey_limits(image: np.ndarray) -> tuple[float, float]:
    """Values that are shown black and white."""
    low, high = np.percentile(image, SHOWN_PERCENTILES)
    return float(low), float(max(high, low + 1e-8))


def slice_picture(
    image: np.ndarray, label: np.ndarray, limits: tuple[float, float], pixels: tuple[int, int]
) -> Image.Image:
    """One slice, enlarged, with an outline in a colour of its own around each class.

    Args:
        image: ``[H, W]``.
        label: ``[H, W]`` classes.
        limits: values that are shown black and white.
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
        shown[outline] = RGB_COLOURS[(int(value) - 1) % len(RGB_COLOURS)]
    return Image.fromarray(shown)


def grid_picture(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Pictures of one size in rows, a title above each row; space between them stays white."""
    gap, head = 6, 26
    width, height = rows[0][0].size
    columns = max(len(row) for row in rows)
    whole = Image.new(
        "RGB",
        (gap + columns * (width + gap), len(rows) * (head + height + gap)),
        "white",
    )
    canvas = ImageDraw.Draw(whole)
    for number, (row, title) in enumerate(zip(rows, titles, strict=True)):
        top = number * (head + height + gap)
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


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as the content of a PNG file."""
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return content.getvalue()


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG file, whole or not at all; its folder is made where it is missing.

    Raises:
        OutputError: if it cannot be written.
    """
    ensure_writable(path.parent)
    with atomic_write(path) as file:
        file.write(png_bytes(picture))


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font."""
    return ImageFont.load_default(size)

"""A plan as a picture: sizes and spacings of the cases, and the patch on a slice as the network will see it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from dynunet_bundle.planning.plan import Plan

WIDTH, HEIGHT = 1200, 460
MARGIN = 40
STRIP_WIDTH = 380
INK, FAINT, CASES, PLANNED = "#222222", "#bbbbbb", "#4477aa", "#cc3311"
LABEL_COLOURS = ("#ccbb44", "#66ccee", "#228833", "#aa3377", "#ee6677", "#eeeeee")


@dataclass(frozen=True)
class Strip:
    """One quantity by axis.

    Attributes:
        title: what it is, with its unit.
        values: of each case, ``[cases, axes]``.
        planned: one value an axis.
        planned_name: what the planned value is called.
    """

    title: str
    values: np.ndarray
    planned: Sequence[float]
    planned_name: str


def draw_plan(
    plan: Plan, spacings: np.ndarray, shapes: np.ndarray, image: np.ndarray, label: np.ndarray
) -> Image.Image:
    """Draw a plan.

    Args:
        plan: the plan.
        spacings: mm by case and axis, ``[cases, 3]``, in the order of the plan's axes.
        shapes: voxels after the nonzero crop, likewise.
        image: first channel of a prepared case, ``[D, H, W]``.
        label: its classes, ``[D, H, W]``.

    Returns:
        A picture of 1200 x 460 pixels.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    canvas = ImageDraw.Draw(picture)
    dims = plan.spatial_dims
    axes = plan.axcodes[-dims:]
    heading = f"{plan.task_name}, {dims}D: {len(spacings)} cases"
    canvas.text((MARGIN, 14), heading, INK, _font(20))
    strips = (
        Strip("size in voxels", shapes[:, -dims:], plan.patch_size, "patch"),
        Strip("spacing in mm", spacings[:, -dims:], plan.spacing, "target"),
    )
    for index, strip in enumerate(strips):
        _draw_strip(canvas, strip, axes, (MARGIN + index * STRIP_WIDTH, 60))
    _paste_slice(picture, plan, image, label, (MARGIN + 2 * STRIP_WIDTH, 60))
    return picture


def _draw_strip(
    canvas: ImageDraw.ImageDraw, strip: Strip, axes: str, corner: tuple[int, int]
) -> None:
    left, top = corner
    height, column = HEIGHT - top - 70, (STRIP_WIDTH - 90) // len(axes)
    highest = 1.08 * max(float(strip.values.max()), *map(float, strip.planned))
    base = top + 26 + height
    canvas.text((left, top), strip.title, INK, _font(16))
    for share in (0, 0.5, 1):
        y = base - share * height / 1.08
        canvas.line((left + 46, y, left + STRIP_WIDTH - 44, y), FAINT)
        canvas.text((left + 40, y), f"{share * highest / 1.08:.4g}", INK, _font(13), anchor="rm")
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(strip.values))
    for index, axis in enumerate(axes):
        centre = left + 46 + (index + 0.5) * column
        for value, offset in zip(strip.values[:, index], jitter, strict=True):
            x, y = centre + offset * column, base - float(value) / highest * height
            canvas.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), CASES)
        y = base - float(strip.planned[index]) / highest * height
        canvas.line((centre - 0.4 * column, y, centre + 0.4 * column, y), PLANNED, 3)
        canvas.text((centre, base + 14), axis, INK, _font(15), anchor="mm")
    canvas.line((left + 46, base + 36, left + 66, base + 36), PLANNED, 3)
    canvas.text((left + 72, base + 36), strip.planned_name, INK, _font(14), anchor="lm")
    canvas.ellipse((left + 143, base + 33, left + 149, base + 39), CASES)
    canvas.text((left + 156, base + 36), "cases", INK, _font(14), anchor="lm")


def _paste_slice(
    picture: Image.Image, plan: Plan, image: np.ndarray, label: np.ndarray, corner: tuple[int, int]
) -> None:
    """The slice across the first axis with the most foreground, its label's outlines, and one patch about it."""
    left, top = corner
    canvas = ImageDraw.Draw(picture)
    index = int(np.argmax((label > 0).sum(axis=(1, 2))))
    canvas.text((left, top), f"slice {index} of a prepared case", INK, _font(16))
    side = min(WIDTH - left - MARGIN, HEIGHT - top - 70)
    patch = np.array(plan.patch_size[-2:])
    foreground = np.argwhere(label[index] > 0)
    middle = foreground.mean(axis=0) if len(foreground) else np.array(label.shape[1:]) / 2
    # in-plane voxels may differ in size: one pixel is the same length both ways
    spacing = np.array(plan.spacing[-2:])
    size = np.array(image.shape[1:])
    start = np.clip(middle - patch / 2, np.minimum(size - patch, 0), np.maximum(size - patch, 0))
    low, high = np.minimum(start, 0), np.maximum(start + patch, size)
    scale = side / ((high - low) * spacing).max() * spacing
    low_shown, high_shown = np.percentile(image, [1, 99.5])
    grey = np.clip((image[index] - low_shown) / max(high_shown - low_shown, 1e-8), 0, 1)
    pixels = np.maximum(np.round(size * scale), 1).astype(int)
    shown = Image.fromarray((grey * 255).astype(np.uint8)).resize(tuple(pixels[::-1].tolist()))
    coloured = np.array(shown.convert("RGB"))
    big = np.array(
        Image.fromarray(label[index].astype(np.uint8)).resize(shown.size, Image.Resampling.NEAREST)
    )
    for value in np.unique(big[big > 0]):
        mask = big == value
        colour = LABEL_COLOURS[(int(value) - 1) % len(LABEL_COLOURS)]
        outline = mask & ~ndimage.binary_erosion(mask, iterations=2)
        coloured[outline] = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    origin = np.array([top + 26, left]) - low * scale
    picture.paste(Image.fromarray(coloured), tuple(np.round(origin[::-1]).astype(int).tolist()))
    corners = np.stack([origin + start * scale, origin + (start + patch) * scale])
    canvas.rectangle([tuple(row[::-1].tolist()) for row in corners], outline=PLANNED, width=3)
    canvas.text(
        (left, HEIGHT - 34), f"patch {' x '.join(map(str, plan.patch_size))}", PLANNED, _font(14)
    )


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)

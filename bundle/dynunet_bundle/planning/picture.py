"""A plan as a picture: sizes and spacings of the cases, and the patch on a slice as the network will see it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from dynunet_bundle.drawing.slices import INK, font, grey_limits, slice_picture
from dynunet_bundle.planning.plan import Plan

WIDTH, HEIGHT = 1200, 460
MARGIN = 40
STRIP_WIDTH = 380
FAINT, CASES, PLANNED = "#bbbbbb", "#4477aa", "#cc3311"


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
    canvas.text((MARGIN, 14), heading, INK, font(20))
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
    canvas.text((left, top), strip.title, INK, font(16))
    for share in (0, 0.5, 1):
        y = base - share * height / 1.08
        canvas.line((left + 46, y, left + STRIP_WIDTH - 44, y), FAINT)
        canvas.text((left + 40, y), f"{share * highest / 1.08:.4g}", INK, font(13), anchor="rm")
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(strip.values))
    for index, axis in enumerate(axes):
        centre = left + 46 + (index + 0.5) * column
        for value, offset in zip(strip.values[:, index], jitter, strict=True):
            x, y = centre + offset * column, base - float(value) / highest * height
            canvas.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), CASES)
        y = base - float(strip.planned[index]) / highest * height
        canvas.line((centre - 0.4 * column, y, centre + 0.4 * column, y), PLANNED, 3)
        canvas.text((centre, base + 14), axis, INK, font(15), anchor="mm")
    canvas.line((left + 46, base + 36, left + 66, base + 36), PLANNED, 3)
    canvas.text((left + 72, base + 36), strip.planned_name, INK, font(14), anchor="lm")
    canvas.ellipse((left + 143, base + 33, left + 149, base + 39), CASES)
    canvas.text((left + 156, base + 36), "cases", INK, font(14), anchor="lm")


def _paste_slice(
    picture: Image.Image, plan: Plan, image: np.ndarray, label: np.ndarray, corner: tuple[int, int]
) -> None:
    """The slice across the first axis with the most foreground, its label's outlines, and one patch about it."""
    left, top = corner
    canvas = ImageDraw.Draw(picture)
    index = int(np.argmax((label > 0).sum(axis=(1, 2))))
    canvas.text((left, top), f"slice {index} of a prepared case", INK, font(16))
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
    pixels = np.maximum(np.round(size * scale), 1).astype(int)
    shown = slice_picture(
        image[index], label[index], grey_limits(image), (int(pixels[0]), int(pixels[1]))
    )
    origin = np.array([top + 26, left]) - low * scale
    picture.paste(shown, tuple(np.round(origin[::-1]).astype(int).tolist()))
    corners = np.stack([origin + start * scale, origin + (start + patch) * scale])
    canvas.rectangle([tuple(row[::-1].tolist()) for row in corners], outline=PLANNED, width=3)
    canvas.text(
        (left, HEIGHT - 34), f"patch {' x '.join(map(str, plan.patch_size))}", PLANNED, font(14)
    )

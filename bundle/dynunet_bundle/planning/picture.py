"""A plan as a picture: sizes and spacings of the cases, and the patch on a prepared slice."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynunet_bundle.drawing.charts import INK, new_figure, style
from dynunet_bundle.drawing.colours import ClassColours
from dynunet_bundle.drawing.slices import grey_limits, slice_picture
from dynunet_bundle.labels.scheme import IGNORE_CLASS
from dynunet_bundle.planning.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 1200, 560  # pixels of the figure
DIRECTIONS = {
    "R": "from left to right of the patient",
    "L": "from right to left of the patient",
    "A": "from the back to the front",
    "P": "from the front to the back",
    "S": "from the feet to the head",
    "I": "from the head to the feet",
    "x": "first axis of the file",
    "y": "second axis of the file",
    "z": "third axis of the file",
}
"""Meaning of each letter of ``axcodes``: the direction in which the index grows."""

EXPLANATION = (
    "Size: of each case in its own voxels, after empty borders are cropped. Target: the spacing to which all cases are "
    "resampled.\nPatch: the part that the network sees at once, in voxels of the target spacing."
)
CASES, PLANNED = "#4477aa", "#cc3311"
SLICE_PIXELS = 400
"""Length of the slice's longer side in pixels."""


PICTURE_AXES = ["height", "width"]
PIXEL_EXPLANATION = EXPLANATION.replace("voxels", "pixels").replace(" of the target spacing", "")


def draw_plan(
    plan: Plan,
    spacings: np.ndarray,
    shapes: np.ndarray,
    image: np.ndarray,
    label: np.ndarray,
    in_pixels: bool = False,
) -> "Figure":
    """Draw a plan.

    Args:
        plan: the plan.
        spacings: mm, ``[cases, 3]``, in the order of the plan's axes.
        shapes: voxels after the nonzero crop, ``[cases, 3]``.
        image: first channel of a prepared case, ``[D, H, W]``.
        label: its class numbers, ``[D, H, W]``.
        in_pixels: whether the cases are plain pictures, which have no size in mm.

    Returns:
        A figure of 1200 x 560 pixels.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    dims = plan.spatial_dims
    axcodes = PICTURE_AXES if in_pixels else list(plan.axcodes[-dims:])
    figure = new_figure(f"{plan.task_name}, {dims}D: {len(spacings)} cases", WIDTH, HEIGHT)
    left, middle, right = figure.subplots(1, 3)
    _draw_values(left, shapes[:, -dims:], plan.patch_size, "patch", axcodes)
    style(left, "size of the cases", "axis", "pixels" if in_pixels else "voxels")
    _draw_values(middle, spacings[:, -dims:], plan.spacing, "target", axcodes)
    style(middle, "spacing of the cases", "axis", "px" if in_pixels else "mm")
    index = _draw_slice(right, plan, image, label)
    what = (
        "a prepared picture"
        if in_pixels
        else f"slice {index} along {plan.axcodes[0]} of a prepared case"
    )
    style(right, f"{what},\npatch {' x '.join(map(str, plan.patch_size))}", "")
    right.set_axis_off()
    explanation = PIXEL_EXPLANATION if in_pixels else EXPLANATION
    legend = axcodes if in_pixels else [f"{letter}: {DIRECTIONS[letter]}" for letter in axcodes]
    figure.supxlabel(
        f"Axes of the arrays, in this order: {'; '.join(legend)}.\n{explanation}",
        x=0.01,
        ha="left",
        fontsize=9,
        color=INK,
    ).set_parse_math(False)
    return figure


def _draw_values(
    axes: "Axes", values: np.ndarray, planned: Sequence[float], name: str, axcodes: Sequence[str]
) -> None:
    """For each axis, one dot per case and a line at the planned value."""
    places = np.arange(len(axcodes))
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, (len(values), 1))
    axes.plot((places + jitter).ravel(), values.ravel(), "o", color=CASES, ms=4, label="cases")
    axes.hlines(planned, places - 0.4, places + 0.4, PLANNED, linewidth=3, label=name)
    axes.set_xticks(places, axcodes)
    axes.set_ylim(0, 1.08 * max(values.max(), *planned))
    axes.legend(loc="lower right")


def _draw_slice(axes: "Axes", plan: Plan, image: np.ndarray, label: np.ndarray) -> int:
    """The slice (along the first axis) with the most foreground, its label's outlines, and one patch around them.

    Returns:
        Its index.
    """
    from matplotlib.patches import Patch

    label = np.where(label == IGNORE_CLASS, 0, label)
    index = int(np.argmax((label > 0).sum(axis=(1, 2))))
    # voxels may be anisotropic in the plane; pixels of the picture are square
    spacing, patch = np.array(plan.spacing[-2:]), np.array(plan.patch_size[-2:])
    size = np.array(image.shape[1:])
    pixels = np.maximum(np.round(size * spacing * SLICE_PIXELS / (size * spacing).max()), 1)
    limits, pair = grey_limits(image), (int(pixels[0]), int(pixels[1]))
    height_mm, width_mm = (size * spacing).tolist()
    picture = np.asarray(slice_picture(image[index], label[index], limits, pair))
    axes.imshow(picture, extent=(0, width_mm, height_mm, 0))
    foreground = np.argwhere(label[index] > 0)
    middle = foreground.mean(axis=0) if len(foreground) else size / 2
    start = np.clip(middle - patch / 2, np.minimum(size - patch, 0), np.maximum(size - patch, 0))
    (top, left), (bottom, right) = (start * spacing).tolist(), ((start + patch) * spacing).tolist()
    corners = ([left, right, right, left, left], [top, top, bottom, bottom, top])
    (outline,) = axes.plot(*corners, color=PLANNED, linewidth=3, clip_on=False, label="patch")
    names = dict(list(enumerate(plan.label_names))[1:])
    shown = [int(value) for value in np.unique(label[index]) if value]
    classes = [
        Patch(color=colour, label=name) for name, colour in ClassColours(names).legend(shown)
    ]
    handles = [*classes, outline]
    place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "ncols": 2}
    # pass the texts, too, since matplotlib omits names with a leading underscore
    texts = [str(handle.get_label()) for handle in handles]
    for text in axes.legend(handles, texts, fontsize=8, frameon=False, **place).get_texts():
        text.set_parse_math(False)
    return index

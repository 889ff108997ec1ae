"""``docs/example.png`` of a package: slices of one image with the outlines of its mask, and a legend of the classes."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dynunet_bundle.drawing.colours import ClassColours
from dynunet_bundle.drawing.slices import (
    TEXT_LINE_PIXELS,
    legend_picture,
    one_below_another,
    side_by_side,
    text_picture,
)
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.report.pictures import CaseFiles, draw_case

GAP_PIXELS = 8


def example_picture(image: Path, mask: Path, plan: Mapping[str, Any]) -> Image.Image:
    """Draw one case as a report does, with a legend.

    Args:
        image: its image, of the first channel.
        mask: its mask, in the values of the plan.
        plan: the plan ids.

    Raises:
        ConfigError: if a file cannot be read, the two are on different grids, or the mask has no class of the plan.
    """
    names = dict(zip(plan["label_values"], plan["label_names"], strict=True))
    colours = ClassColours({value: name for value, name in names.items() if value != 0})
    drawn = draw_case(CaseFiles("example", image, mask), colours=colours)
    if drawn.note:
        raise ConfigError(
            f"--example {image.name} {mask.name}: {drawn.note} Give an image and its mask."
        )
    if not drawn.values & set(colours.names):
        raise ConfigError(f"--example: {mask.name} has no class of the model. Give another case.")
    tiles = []
    for panel in drawn.panels:
        contours = _picture(panel.prediction).convert("RGBA")
        picture = Image.alpha_composite(_picture(panel.source).convert("RGBA"), contours).convert(
            "RGB"
        )
        size = (picture.width + GAP_PIXELS, TEXT_LINE_PIXELS + GAP_PIXELS)
        tiles.append(one_below_another([picture, text_picture([panel.caption], size)]))
    whole = side_by_side(tiles)
    legend = legend_picture(colours.legend(sorted(drawn.values)), whole.width)
    return one_below_another([whole, legend])


def _picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))

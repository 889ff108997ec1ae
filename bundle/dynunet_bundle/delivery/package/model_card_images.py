"""Texts of a model card on its images: volumes, or plain pictures, which are measured in pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

from dynunet_bundle.errors import counted
from dynunet_bundle.files import PICTURE_SUFFIXES
from dynunet_bundle.planning.channels import COLOUR_SCHEME, channel_names_text

PICTURE_DIMS = 2
FORMATS = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
"""Names of the formats of pictures by the ending of a file."""


def picture_types(
    plan: Mapping[str, Any], model: Mapping[str, Any] | None, scores: Mapping[str, Any] | None
) -> Sequence[str]:
    """Endings of the training's files if they were plain pictures, else nothing.

    Models of earlier versions lack them: scores in pixels, or colours in a 2D plan, tell that all are possible.

    Args:
        plan: the plan ids.
        model: content of ``model.json``, or None.
        scores: content of ``scores.json``, or None.
    """
    types: Sequence[str] = ((model or {}).get("training") or {}).get("picture_types", ())
    statistics = (scores or {}).get("statistics", {}).values()
    in_pixels = any("hd95_px" in measures for measures in statistics)
    in_colour = plan["spatial_dims"] == PICTURE_DIMS and COLOUR_SCHEME in plan["normalization"]
    return types or (PICTURE_SUFFIXES if in_pixels or in_colour else ())


def channels_text(plan: Mapping[str, Any]) -> str:
    """``"2 channels: T1, T2"``, or ``"3 colour channels"``.

    Args:
        plan: the plan ids.
    """
    names = plan["channel_names"]
    if len(names) > 1 and len(set(names)) == 1:
        return channel_names_text(names)
    return f"{counted(len(names), 'channel')}: {channel_names_text(names)}"


def input_text(plan: Mapping[str, Any], types: Sequence[str]) -> str:
    """The sentences on the input.

    Args:
        plan: the plan ids.
        types: endings of plain pictures, or nothing.
    """
    is_one = len(plan["channel_names"]) == 1
    files = "one file" if is_one else "one file per channel or all channels in one file"
    channels = channels_text(plan).replace(": ", ", ", 1)
    if types:
        *formats, last = dict.fromkeys(FORMATS[ending] for ending in types)
        names = f"{', '.join(formats)} or {last}" if formats else last
        return f"{channels}, pictures of any size: {names}, {files}. Values as the files have them."
    return (
        f"{channels}, in any orientation and spacing: NIfTI, NRRD or MHA, {files}. Intensities as the scanner gives "
        "them."
    )

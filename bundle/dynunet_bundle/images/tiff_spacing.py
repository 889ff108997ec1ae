"""The voxel size of a TIFF volume, in a JSON file beside it, as nnU-Net's ``Tiff3DIO`` has it.

Source: nnunetv2 2.8.1, ``imageio/tif_reader_writer.py``: ``CASE.json`` beside ``CASE_0000.tif`` (an image) or
``CASE.tif`` (a label) holds ``{"spacing": [z, y, x]}``; without the file, voxels have 1 mm.
"""

from pathlib import Path

import numpy as np

from dynunet_bundle.errors import CaseError, DatasetError
from dynunet_bundle.files import CHANNEL_SUFFIX, case_name, read_json, write_json
from dynunet_bundle.shapes import list_of, object_with

TIFF_SUFFIXES = (".tif", ".tiff")
REMEDY = 'Write {"spacing": [z, y, x]} in mm, or remove the file.'
SPACING_SCHEMA = object_with(
    {"spacing": list_of({"type": "number", "exclusiveMinimum": 0}, minItems=3, maxItems=3)},
)
"""Schema of the JSON file; one without ``spacing`` serves another purpose."""


def tiff_spacing(path: str | Path, num_slices: int) -> list[float] | None:
    """Spacing of a TIFF volume in mm, in the order z, y, x; None if it is not stated, or the file is a picture.

    Args:
        path: the image file.
        num_slices: slices of the volume; a single slice is a picture, whose resolution is for printing.

    Raises:
        CaseError: if the JSON file beside it is malformed.
    """
    path = Path(path)
    if num_slices == 1 or path.suffix.lower() not in TIFF_SUFFIXES:
        return None
    name = case_name(path)
    channel = CHANNEL_SUFFIX.match(name)
    case = channel["name"] if channel else name
    file = path.with_name(f"{case}.json")
    if not file.is_file():
        return None
    try:
        spacing = read_json(file, DatasetError, SPACING_SCHEMA).get("spacing")
    except DatasetError as error:
        raise CaseError(case, f"{file.name} beside it is malformed", REMEDY) from error
    return None if spacing is None else [float(value) for value in spacing]


def write_tiff_spacing(mask: Path, spacing: list[float]) -> None:
    """Write the spacing of a TIFF volume beside it, where ``tiff_spacing`` finds it."""
    write_json(mask.with_name(f"{case_name(mask)}.json"), {"spacing": spacing})


def with_spacing(affine: np.ndarray, spacing: list[float] | None) -> np.ndarray:
    """An affine of 1 mm voxels with another spacing, in the order z, y, x."""
    return affine.copy() if spacing is None else affine @ np.diag([*spacing[::-1], 1.0])

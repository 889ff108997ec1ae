"""What SimpleITK overlooks in a BMP: that the file ends too early, and that it holds levels of grey."""

import struct
from pathlib import Path

import numpy as np

HEADER = struct.Struct("<10xI4xii2xHI")
"""Offset of the pixels, width, height, bits a pixel, compression; of the file header and a BITMAPINFOHEADER."""

UNCOMPRESSED = 0
INDEXED_BITS = 8
COLOURS = 3


def require_whole_bmp(path: str | Path) -> None:
    """Refuse a BMP that is cut short; SimpleITK fills what is missing with whatever the memory held.

    Raises:
        OSError: with the size that it has and should have.
    """
    size = Path(path).stat().st_size
    offset, width, height, bits, compression = _header(path)
    row = (width * bits + 31) // 32 * 4
    expected = offset + row * abs(height) if compression == UNCOMPRESSED else offset
    if size < expected:
        raise OSError(f"it has {size} bytes of {expected}")


def without_colours_of_grey(path: str | Path, array: np.ndarray) -> np.ndarray:
    """One channel for a BMP of grey levels, which SimpleITK gives as three equal ones.

    Args:
        path: the file. One with 24 bits a pixel stays RGB, whatever its colours.
        array: ``[C, X, Y, Z]`` read from it.
    """
    bits = _header(path)[3]
    grey = len(array) == COLOURS and (array == array[:1]).all()
    return array[:1] if bits <= INDEXED_BITS and grey else array


def _header(path: str | Path) -> tuple[int, ...]:
    with Path(path).open("rb") as file:
        start = file.read(HEADER.size)
    if len(start) < HEADER.size:
        raise OSError(f"it has {len(start)} bytes, less than the header of a BMP")
    return HEADER.unpack(start)

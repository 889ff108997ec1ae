"""Checksums and ends of pictures, where their readers do not look.

libpng verifies each chunk and ignores what follows the last one; libtiff stops before the Adler-32 of a strip; Pillow
takes a BMP that is longer than it says.
"""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from dynunet_bundle.images.streams import require_end

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEFLATE = (8, 32946)
"""Values of TIFF's tag Compression for zlib streams (TIFF 6.0 supplement 2, and the older one of libtiff)."""

STRIPS = ((273, 279), (324, 325))
"""Tags with places and sizes, of strips and of tiles."""

COMPRESSION = 259
MAX_FRAMES = 65536


def require_sound_picture(path: Path) -> None:
    """Refuse a picture whose stream is damaged, cut off, or followed by other data.

    Args:
        path: a PNG or TIFF file; others are not looked at.

    Raises:
        OSError: naming the damage.
    """
    check = {".png": _check_png, ".tif": _check_tiff, ".tiff": _check_tiff}.get(path.suffix.lower())
    if check is not None:
        with path.open("rb") as file:
            check(file)


def _check_png(file: BinaryIO) -> None:
    if file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
        raise OSError("it is not a PNG file")
    kind = b""
    while kind != b"IEND":
        head = file.read(8)
        if len(head) < 8:
            raise OSError("it is cut off")
        length, kind = struct.unpack(">I4s", head)
        content, checksum = file.read(length), file.read(4)
        if len(content) < length or len(checksum) < 4:
            raise OSError("it is cut off")
        if zlib.crc32(kind + content) != int.from_bytes(checksum):
            raise OSError(f"the checksum of its chunk {kind!r} is wrong")
    require_end(file)


def _check_tiff(file: BinaryIO) -> None:
    """Inflate each strip; its Adler-32 is verified at the end of the stream."""
    try:
        with Image.open(file, formats=["TIFF"]) as picture:
            for frame in range(MAX_FRAMES):
                try:
                    picture.seek(frame)
                except EOFError:
                    return
                _check_strips(file, picture.tag_v2)  # type: ignore[attr-defined]
    except (SyntaxError, struct.error, TypeError, KeyError) as error:
        raise OSError(f"its tags are damaged ({error})") from None


def _check_strips(file: BinaryIO, tags: Mapping[int, Any]) -> None:
    if tags.get(COMPRESSION) not in DEFLATE:
        return
    for places, sizes in STRIPS:
        for place, size in zip(tags.get(places, ()), tags.get(sizes, ()), strict=True):
            file.seek(place)
            inflater = zlib.decompressobj()
            rest = file.read(size)
            try:
                while rest and not inflater.eof:
                    inflater.decompress(rest, 1 << 20)
                    rest = inflater.unconsumed_tail
            except zlib.error as error:
                raise OSError(f"its compressed voxels are damaged ({error})") from None
            if not inflater.eof:
                raise OSError("its compressed voxels are cut off")

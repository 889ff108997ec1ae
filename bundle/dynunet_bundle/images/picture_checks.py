"""Checks of PNG pictures that their readers omit: sizes, checksums, and the end of the file.

libpng verifies each chunk, but ignores data after the last one. The checks of TIFF are in ``tiff_checks.py``.
"""

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from dynunet_bundle.files import case_name
from dynunet_bundle.images.streams import require_end
from dynunet_bundle.images.tiff_checks import DEFLATE_RATIO, check_tiff
from dynunet_bundle.machine.limits import require_axes, require_room

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK_HEAD = 8  # bytes of a chunk's length and type
IHDR_BYTES = 13  # length of the chunk IHDR
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels by PNG's colour type."""

MAX_CHUNKS = 200_000
"""Chunks of a file; libpng writes 8 KiB of pixels into each."""

MAX_CHUNK = 64 << 20
"""Bytes of a chunk without pixels, such as text or a colour profile."""

STEP = 1 << 20
"""Bytes read at a time."""


def require_sound_picture(path: Path) -> None:
    """Refuse a picture whose stream is damaged, truncated, or followed by other data.

    Args:
        path: a PNG or TIFF file; other formats are not checked.

    Raises:
        CaseError: if it declares more pixels than are allowed.
        OSError: if it is damaged.
    """
    check = {".png": _check_png, ".tif": check_tiff, ".tiff": check_tiff}.get(path.suffix.lower())
    if check is not None:
        with path.open("rb") as file:
            check(file, case_name(path))


def _check_png(file: BinaryIO, case: str) -> None:
    if file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
        raise OSError("it is not a PNG file")
    needed, packed = 0, 0
    for _ in range(MAX_CHUNKS):
        head = file.read(CHUNK_HEAD)
        if len(head) < CHUNK_HEAD:
            raise OSError("it is truncated")
        length, kind = struct.unpack(">I4s", head)
        pixels = kind == b"IDAT"
        packed += length * pixels
        if length > MAX_CHUNK and not (pixels and packed < 2 * needed):
            raise OSError(f"its chunk {kind!r} has {length} bytes, which is too long")
        start = _check_chunk(file, kind, length)
        if kind == b"IHDR":
            needed = _png_bytes(case, start)
        if kind == b"IEND":
            break
    else:
        raise OSError(f"it has more than {MAX_CHUNKS} chunks")
    if needed > packed * DEFLATE_RATIO:
        raise OSError(f"it is truncated: its pixels take {needed} bytes")
    require_end(file)


def _check_chunk(file: BinaryIO, kind: bytes, length: int) -> bytes:
    """Verify the checksum of a chunk, and return its first bytes."""
    checksum, start = zlib.crc32(kind), b""
    while length:
        content = file.read(min(length, STEP))
        if not content:
            raise OSError("it is truncated")
        checksum, length = zlib.crc32(content, checksum), length - len(content)
        start = start or content
    if checksum != int.from_bytes(file.read(4)):
        raise OSError(f"the checksum of its chunk {kind!r} is wrong")
    return start


def _png_bytes(case: str, header: bytes) -> int:
    """Size of the pixels in bytes, from the chunk IHDR."""
    if len(header) != IHDR_BYTES:
        raise OSError("its header is damaged")
    width, height, bits, colours = struct.unpack(">IIBB", header[:10])
    channels = CHANNELS.get(colours, 1)
    require_room(case, (width, height, channels), max(bits // 8, 1))
    require_axes(case, (width, height))
    return width * bits * channels // 8 * height

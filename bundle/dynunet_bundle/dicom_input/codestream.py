"""Size of a compressed image, read without decoding, since decoders allocate memory for this size."""

import struct

J2K_START = b"\xff\x4f\xff\x51"
"""Start of a JPEG 2000 code stream: markers SOC and SIZ (ISO/IEC 15444-1 section A.5.1)."""

JPEG_START = b"\xff\xd8"
NO_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)
"""Markers from C0 to CF that are tables; all others are frame headers (ISO/IEC 10918-1 table B.1)."""

JPEG_LS_FRAME = 0xF7  # marker of a JPEG-LS frame header
MAX_SEARCH = 1 << 16  # bytes in which a JPEG 2000 code stream must start


def coded_shape(stream: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG, JPEG-LS or JPEG 2000 code stream; None for others, such as RLE.

    Args:
        stream: one frame.
    """
    start = stream.find(J2K_START, 0, MAX_SEARCH)
    if start >= 0 and not stream.startswith(JPEG_START):
        sizes = stream[start + 8 : start + 24]
        if len(sizes) < struct.calcsize(">4I"):
            return None
        width, height, left, top = struct.unpack(">4I", sizes)
        return height - top, width - left
    return _jpeg_shape(stream) if stream.startswith(JPEG_START) else None


def _jpeg_shape(stream: bytes) -> tuple[int, int] | None:
    place = len(JPEG_START)
    while place + 9 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker == JPEG_LS_FRAME or (marker & 0xF0 == 0xC0 and marker not in NO_FRAME_HEADERS):
            rows, columns = struct.unpack(">2H", stream[place + 5 : place + 9])
            return rows, columns
        place += 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    return None

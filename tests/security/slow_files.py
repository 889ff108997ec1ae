"""Small files that take a reader minutes or all memory: chains, loops, tables without end."""

import itertools
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, COMPRESSION, STRIP_PLACES, ROWS, STRIP_SIZES = 256, 257, 259, 273, 278, 279
DESCRIPTION = 270
FIRST_DIRECTORY = 24
"""Behind the header and 16 pixels of 0."""


def tiff(path: Path, links: list[int], **values: Any) -> Path:
    """A TIFF of 4x4 pixels.

    Args:
        path: the file.
        links: for each directory the index of the next one; -1 is the end.
        **values: what tags hold instead, or ``(number, value)``; ``data`` is what follows the directories.
    """
    data = values.pop("data", b"")
    tags = {WIDTH: 4, HEIGHT: 4, 258: 8, COMPRESSION: 1, 262: 1, STRIP_PLACES: 8, 277: 1, ROWS: 4}
    tags |= {STRIP_SIZES: 16} | {globals()[name]: value for name, value in values.items()}
    entries = b""
    for tag, value in sorted(tags.items()):
        number, first = value if isinstance(value, tuple) else (1, value)
        entries += struct.pack("<HHII", tag, 4, number, first)
    directory = struct.pack("<H", len(tags)) + entries
    size = len(directory) + 4
    places = [FIRST_DIRECTORY + link * size if link >= 0 else 0 for link in links]
    directories = b"".join(directory + struct.pack("<I", place) for place in places)
    path.write_bytes(b"II*\0" + struct.pack("<I", FIRST_DIRECTORY) + bytes(16) + directories + data)
    return path


def tiff_strips(path: Path, number: int) -> Path:
    """All strips are one zlib stream of a mebibyte of zeros."""
    stream = zlib.compress(bytes(1 << 20), 9)
    place = len(tiff(path, [-1]).read_bytes())
    data = stream + struct.pack("<I", place) * number + struct.pack("<I", len(stream)) * number
    table = place + len(stream)
    return tiff(
        path, [-1], data=data, WIDTH=1024, HEIGHT=number, ROWS=1, COMPRESSION=8,
        STRIP_PLACES=(number, table), STRIP_SIZES=(number, table + 4 * number),
    )  # fmt: skip


def header(path: Path, lines: bytes) -> Path:
    """An NRRD or MetaImage of 64 voxels with these lines in its header."""
    if path.suffix == ".nrrd":
        text = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n" + lines + b"\n"
    else:
        text = b"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\n" + lines
        text += b"ElementDataFile = LOCAL\n"
    path.write_bytes(text + bytes(64))
    return path


def keys(path: Path, number: int, form: str) -> Path:
    return header(path, "".join(form % index for index in range(number)).encode())


def png(path: Path, kind: bytes, content: bytes, number: int = 1, side: int = 4) -> Path:
    """A picture with chunks between its header and its pixels."""
    shape = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", shape), *[(kind, content)] * number]
    parts += [(b"IDAT", zlib.compress(bytes(20))), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(itertools.starmap(_chunk, parts)))
    return path


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def bmp(path: Path, side: int) -> Path:
    sizes = struct.pack("<IIIHHIIIIII", 40, side, side, 1, 8, 0, 0, 0, 0, 0, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + sizes + bytes(1024))
    return path


def archive(path: Path, number: int, length: int = 1) -> Path:
    """Entries of a byte whose names have at least as many digits as ``length``."""
    with zipfile.ZipFile(path, "w") as file:
        for index in range(number):
            file.writestr(zipfile.ZipInfo(f"{index:0{length}d}.dcm"), b"x")
    return path

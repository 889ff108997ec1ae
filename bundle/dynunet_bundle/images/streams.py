"""Compressed voxels, decompressed once and with their checksums verified.

The libraries stop where the voxels end, before the checksum: nibabel reads no further than it needs, and ITK 5.4
ignores what zlib says and gives uninitialised memory for a stream that is cut. Here a stream must end where the voxels
end, with the right checksum: the CRC-32 of gzip and bzip2, the Adler-32 of zlib.
"""

import bz2
import gzip
import zlib
from pathlib import Path
from typing import BinaryIO

ENCODINGS = ("zlib", "gzip", "bzip2")
AUTOMATIC = zlib.MAX_WBITS | 32
"""Takes the header of either zlib or gzip (zlib's manual, ``inflateInit2``), as MetaIO does."""

CHUNK = 1 << 20
MAX_PADDING = 16 * CHUNK
"""Bytes of zeros that may follow the voxels; some writers fill up a block."""


def decompress(file: BinaryIO, encoding: str, size: int) -> bytes:
    """Decompress the rest of a file.

    Args:
        file: open where the stream begins.
        encoding: one of ``ENCODINGS``.
        size: bytes that it must give.

    Raises:
        OSError: if the stream is damaged or cut off, or gives more or fewer bytes.
    """
    try:
        if encoding == "zlib":
            content = _inflate(file, size)
        else:
            stream = gzip.GzipFile(fileobj=file) if encoding == "gzip" else bz2.BZ2File(file)
            content = stream.read(size)
            require_end(stream)
    except (zlib.error, EOFError) as error:
        raise OSError(f"its compressed voxels are damaged ({error})") from None
    if len(content) != size:
        raise OSError(f"its compressed voxels are {len(content)} bytes; its header says {size}")
    return content


def _inflate(file: BinaryIO, size: int) -> bytes:
    decompressor = zlib.decompressobj(AUTOMATIC)
    content = decompressor.decompress(file.read(), size)
    # the checksum behind the voxels is verified only when it is read
    more = decompressor.decompress(decompressor.unconsumed_tail, 1)
    if more:
        raise OSError(f"its compressed voxels are more than the {size} bytes of its header")
    if not decompressor.eof:
        raise EOFError("the stream is cut off")
    if decompressor.unused_data.strip(b"\0"):
        raise OSError("there is other data behind its compressed voxels")
    return content


def require_end(file: BinaryIO | gzip.GzipFile | bz2.BZ2File) -> None:
    """Read a file from where it stands to its end, which must hold zeros only.

    A reader of a compressed file verifies the checksum when it comes to the end.

    Raises:
        OSError: if there is other data, or the checksum is wrong.
        EOFError: if the stream is cut off.
    """
    for _ in range(MAX_PADDING // CHUNK):
        rest = file.read(CHUNK)
        if not rest:
            return
        if rest.strip(b"\0"):
            break
    raise OSError("there is other data behind its voxels")


def require_size(path: Path, offset: int, size: int) -> None:
    """Refuse a file whose voxels, not compressed, are not as many as its header says.

    Args:
        path: the file that holds them.
        offset: bytes before them.
        size: bytes of the voxels.

    Raises:
        OSError: if there are fewer bytes, or more than padding.
    """
    found = path.stat().st_size - offset
    if found < size:
        raise OSError(f"its voxels are {max(found, 0)} bytes; its header says {size}")
    if found > size:
        with path.open("rb") as file:
            file.seek(offset + size)
            require_end(file)

"""Decompress voxels once and verify their checksums.

Libraries stop at the end of the voxels, before the checksum: nibabel reads only what it needs, and ITK 5.4 ignores
zlib's errors and returns uninitialised memory for a truncated stream. Here a stream must end with the voxels and have
the correct checksum: the CRC-32 of gzip and bzip2, the Adler-32 of zlib.
"""

import bz2
import gzip
import zlib
from pathlib import Path
from typing import BinaryIO

ENCODINGS = ("zlib", "gzip", "bzip2")
AUTOMATIC = zlib.MAX_WBITS | 32
"""Window bits that accept a header of zlib or gzip (zlib's manual, ``inflateInit2``), as in MetaIO."""

CHUNK = 1 << 20  # bytes read at a time
MAX_PADDING = 16 * CHUNK
"""Bytes of zeros that may follow the voxels, since some writers pad to a block."""


def decompress(file: BinaryIO, encoding: str, size: int) -> bytes:
    """Decompress the rest of a file.

    Args:
        file: file positioned at the start of the stream.
        encoding: one of ``ENCODINGS``.
        size: expected number of decompressed bytes.

    Raises:
        OSError: if the stream is damaged or truncated, or has more or fewer bytes.
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
        raise OSError(
            f"its compressed voxels have {len(content)} bytes; its header declares {size}"
        )
    return content


def _inflate(file: BinaryIO, size: int) -> bytes:
    decompressor = zlib.decompressobj(AUTOMATIC)
    content = decompressor.decompress(file.read(), size)
    # the checksum after the voxels is only verified when it is read
    more = decompressor.decompress(decompressor.unconsumed_tail, 1)
    if more:
        raise OSError(f"its compressed voxels have more than the {size} bytes of its header")
    if not decompressor.eof:
        raise EOFError("the stream is truncated")
    if decompressor.unused_data.strip(b"\0"):
        raise OSError("there is other data after its compressed voxels")
    return content


def require_end(file: BinaryIO | gzip.GzipFile | bz2.BZ2File) -> None:
    """Read the rest of a file, which may only contain zeros.

    The reader of a compressed file verifies the checksum at its end.

    Raises:
        OSError: if there is other data, or the checksum is wrong.
        EOFError: if the stream is truncated.
    """
    for _ in range(MAX_PADDING // CHUNK):
        rest = file.read(CHUNK)
        if not rest:
            return
        if rest.strip(b"\0"):
            break
    raise OSError("there is other data after its voxels")


def require_size(path: Path, offset: int, size: int) -> None:
    """Refuse a file with another number of uncompressed voxels than its header declares.

    Args:
        path: the file with the voxels.
        offset: bytes before the voxels.
        size: bytes of the voxels.

    Raises:
        OSError: if there are fewer bytes, or more than padding.
    """
    found = path.stat().st_size - offset
    if found < size:
        raise OSError(f"its voxels have {max(found, 0)} bytes; its header declares {size}")
    if found > size:
        with path.open("rb") as file:
            file.seek(offset + size)
            require_end(file)

"""Checks of directories and compressed strips of TIFF files before libtiff reads them.

libtiff loops forever if directories form a loop, reads tags of any length, allocates a table for any number of strips,
and does not verify the Adler-32 of a strip. Pillow takes a minute for a chain of 60 000 directories and refuses
pictures of 180 million pixels. Names of tags are those of TIFF 6.0.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from dynunet_bundle.machine.limits import MAX_AXIS, require_axes, require_room

MAX_PAGES = 5_000
"""Directories of a file; SimpleITK takes 0.8 s for this number."""

MAX_ENTRIES = 500_000
"""Tags in all directories."""

MAX_TAG_BYTES = 64 << 20
"""Bytes of the values of all tags: descriptions, colour profiles, tables of strips."""

MAX_STRIPS = 500_000
"""Strips or tiles of a page, and compressed strips and tiles of all pages."""

STEP = 1 << 20
"""Bytes inflated at a time."""

DEFLATE_RATIO = 1032
"""Largest compression ratio of deflate (zlib's technical details)."""

WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES, PLANAR = 256, 257, 258, 259, 277, 284  # numbers of tags
STRIPS = (273, 279, WIDTH, 278)
TILES = (324, 325, 322, 323)
"""Tags of the offsets and sizes of strips or tiles, and of the width and height of one strip or tile."""

NEEDED = {WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES, PLANAR, *STRIPS, *TILES}
PLAIN, DEFLATE = 1, (8, 32946)
"""Values of Compression: none, and zlib streams (TIFF 6.0 supplement 2, and libtiff's older value)."""

SEPARATE_PLANES = 2  # value of PlanarConfiguration
SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value by its type; 1 for other types."""

CODES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of struct, by the type of a value
DAMAGED = "its directories are damaged"

Tags = dict[int, tuple[int, ...]]


class TiffForm(NamedTuple):
    """Formats of ``struct`` for the number of entries, an entry, and an offset in the file."""

    number: str
    entry: str
    place: str


FORMS = {42: TiffForm("H", "HHI4s", "I"), 43: TiffForm("Q", "HHQ8s", "Q")}
"""Forms of TIFF (42) and BigTIFF (43), by version."""


def check_tiff(file: BinaryIO, case: str) -> None:
    """Refuse a TIFF file that declares too many pixels, or has damaged zlib streams.

    Args:
        file: the open file.
        case: name of the case.

    Raises:
        CaseError: if it declares more pixels than are allowed.
        OSError: if it has damaged or too many directories, or damaged or truncated voxels.
    """
    size = file.seek(0, 2)
    voxels, packed, strips = 0, 0, 0
    try:
        for tags in _pages(file):
            voxels += _page_bytes(case, tags, size)
            require_room(case, (voxels,), 1)
            if _first(tags, COMPRESSION, PLAIN) not in DEFLATE:
                continue
            lengths = [*tags.get(STRIPS[1], ()), *tags.get(TILES[1], ())]
            packed, strips = packed + sum(lengths), strips + len(lengths)
            if packed > size or strips > MAX_STRIPS:
                raise OSError(f"its {strips} compressed strips take {packed} of {size} bytes")
            _check_strips(file, tags)
    except (struct.error, OverflowError):
        raise OSError(DAMAGED) from None


def _pages(file: BinaryIO) -> Iterator[Tags]:
    """The tags in ``NEEDED`` of each directory."""
    file.seek(0)
    order = {b"II": "<", b"MM": ">"}.get(file.read(2))
    form = FORMS.get(int.from_bytes(file.read(2), "little" if order == "<" else "big"))
    if order is None or form is None:
        raise OSError("it is not a TIFF file")
    if form.place == "Q":
        file.seek(8)
    (place,) = _unpack(file, order + form.place)
    seen: set[int] = set()
    entries, left = 0, MAX_TAG_BYTES
    while place:
        if place in seen:
            raise OSError("its directories form a loop")
        seen.add(place)
        file.seek(place)
        (count,) = _unpack(file, order + form.number)
        entries += count
        if len(seen) > MAX_PAGES or entries > MAX_ENTRIES:
            raise OSError(f"it has more than {MAX_PAGES} pages or {MAX_ENTRIES} tags")
        table = file.read(struct.calcsize(order + form.entry) * count)
        (place,) = _unpack(file, order + form.place)
        tags = {}
        for tag, kind, number, value in struct.iter_unpack(order + form.entry, table):
            left -= number * SIZES.get(kind, 1)
            if left < 0:
                raise OSError(f"its tags have more than {MAX_TAG_BYTES >> 20} MiB")
            if tag in NEEDED and kind in CODES:
                tags[tag] = _values(file, order, form, CODES[kind], number, value)
        yield tags


def _values(
    file: BinaryIO, order: str, form: TiffForm, code: str, number: int, value: bytes
) -> tuple[int, ...]:
    if number > MAX_STRIPS:
        raise OSError(f"it has {number} strips; {MAX_STRIPS} are allowed")
    length = struct.calcsize(f"{order}{number}{code}")
    if length > len(value):
        file.seek(struct.unpack(order + form.place, value)[0])
        value = file.read(length)
    return struct.unpack(f"{order}{number}{code}", value[:length])


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _first(tags: Tags, tag: int, default: int) -> int:
    return next(iter(tags.get(tag, ())), default)


def _row_bytes(tags: Tags, width: int) -> int:
    samples, planar = _first(tags, SAMPLES, 1), _first(tags, PLANAR, 1) == SEPARATE_PLANES
    return -(-width * _first(tags, BITS, 1) * (1 if planar else samples) // 8)


def _page_bytes(case: str, tags: Tags, size: int) -> int:
    """Size of the voxels of a page in bytes; refuses a size that the file cannot contain."""
    width, height = _first(tags, WIDTH, 0), _first(tags, HEIGHT, 0)
    require_axes(case, (width, height))
    planes = _first(tags, SAMPLES, 1) if _first(tags, PLANAR, 1) == SEPARATE_PLANES else 1
    needed = _row_bytes(tags, width) * height * planes
    compression = _first(tags, COMPRESSION, PLAIN)
    ratio = 1 if compression == PLAIN else DEFLATE_RATIO if compression in DEFLATE else needed
    if needed > size * ratio:
        raise OSError(
            f"it is truncated: its page of {width} x {height} pixels takes {needed} bytes"
        )
    return needed


def _check_strips(file: BinaryIO, tags: Tags) -> None:
    """Inflate each strip, which verifies the Adler-32 at its end."""
    for places, sizes, width, height in (STRIPS, TILES):
        # a picture of a single strip may declare 2**32 - 1 rows per strip
        rows = min(_first(tags, height, MAX_AXIS), MAX_AXIS)
        most = _row_bytes(tags, _first(tags, width, 0)) * rows
        if len(tags.get(places, ())) != len(tags.get(sizes, ())):
            raise OSError(DAMAGED)
        for place, size in zip(tags.get(places, ()), tags.get(sizes, ()), strict=True):
            file.seek(place)
            _inflate(file, size, most)


def _inflate(file: BinaryIO, size: int, most: int) -> None:
    inflater = zlib.decompressobj()
    try:
        while not inflater.eof:
            content = inflater.unconsumed_tail or file.read(min(size, STEP))
            if not content:
                raise OSError("its compressed voxels are truncated")
            size -= len(content) if not inflater.unconsumed_tail else 0
            most -= len(inflater.decompress(content, STEP))
            if most < 0:
                raise OSError("its compressed voxels are more than its tags declare")
    except zlib.error as error:
        raise OSError(f"its compressed voxels are damaged ({error})") from None

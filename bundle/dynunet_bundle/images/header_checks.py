"""Checks of NRRD and MetaImage headers before SimpleITK reads them.

SimpleITK 2.5.7 trusts headers: it opens any file that they name, even a device; it uses the name as a format string of
``printf``; too many dimensions or units make it write beyond its arrays; and an axis of length 1e308 makes it loop
forever. Tests show each of these.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dynunet_bundle.files import case_name, is_inside
from dynunet_bundle.machine.limits import MAX_MM, max_image_bytes, require_room

NRRD_SUFFIXES = (".nrrd", ".nhdr")
META_SUFFIXES = (".mha", ".mhd")
MAX_HEADER_BYTES = 1 << 20  # bytes read of a header; longer ones are refused
MAX_HEADER_LINES = 5_000
"""Lines of a header. SimpleITK takes a minute and 400 MiB for 60 000; 1000 gradients or segments need about 5000."""

MAX_LIST = 4_096
"""Characters of a list of numbers or names by axis."""

MAX_DIMENSIONS = 5
"""Dimensions that SimpleITK supports, including the components of a voxel."""

MAX_NAME = 255  # characters of a file name
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE)
COUNTED = re.compile(r"[1-9]\d*")
PATTERN = re.compile(r"[^%]*(?:%0?[1-9]?d[^%]*)?")
"""Pattern of the names of files with one slice each: at most one number, of up to 9 digits."""

LINE_END = re.compile(r"\r\n?|\n")
NRRD_END = re.compile(r"\r?\n\r?\n")
NRRD_ENCODINGS = {"gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2", "raw": "raw"}
META_END = re.compile(r"ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*)", re.IGNORECASE)
META_SIZES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "FLOAT": 4}
NRRD_SIZES = {"char": 1, "int8": 1, "uint8": 1, "short": 2, "int16": 2, "uint16": 2}
NRRD_SIZES |= {"int": 4, "int32": 4, "uint32": 4, "float": 4}
LARGEST = 8
"""Bytes per value of any other type."""

NRRD_LISTS = (
    *("sizes", "spacings", "thicknesses", "kinds", "units", "labels", "centers", "centerings"),
    *("axis mins", "axismins", "axis maxs", "axismaxs", "space directions", "space units"),
)
NRRD_NUMBERS = ("sizes", "spacings", "space directions", "space origin", "measurement frame")
META_NUMBERS = (
    *("TransformMatrix", "Rotation", "Orientation", "Offset", "Origin", "Position"),
    *("CenterOfRotation", "ElementSpacing", "ElementSize", "DimSize", "CompressedDataSize"),
)


class Stored(NamedTuple):
    """Storage of the voxels according to a header.

    Attributes:
        files: names of the files with the voxels, or a pattern of names; empty if the voxels follow the header.
        offset: bytes before the voxels in the file of the header; 0 if they are in separate files.
        encoding: ``raw``, one of ``streams.ENCODINGS``, or another encoding of NRRD.
        big_endian: whether the most significant byte comes first.
        sizes: length of each axis, fastest first; in NRRD including the components of a voxel.
        skips: whether the header tells the reader to skip lines or bytes.
    """

    files: tuple[str, ...]
    offset: int
    encoding: str
    big_endian: bool
    sizes: tuple[int, ...]
    skips: bool = False


def require_sound_header(path: Path) -> Stored:
    """Refuse a header that is unsafe for SimpleITK.

    Args:
        path: an NRRD or MetaImage file.

    Returns:
        Storage of the voxels.

    Raises:
        CaseError: if the header declares more voxels than are allowed.
        OSError: if it names a file outside its folder, or has invalid numbers.
    """
    with path.open("rb") as file:
        text = file.read(MAX_HEADER_BYTES).decode("latin-1")
    check = _check_nrrd if path.name.lower().endswith(NRRD_SUFFIXES) else _check_meta
    stored = check(path, text)
    for name in stored.files:
        _require_beside(path, name)
    return stored


def _check_nrrd(path: Path, text: str) -> Stored:
    """Check the fields of an NRRD header."""
    head, end, _ = text.replace("\r\n", "\n").replace("\r", "\n").partition("\n\n")
    lines = _lines(head, bool(end) or len(text) < MAX_HEADER_BYTES)
    fields: dict[str, str] = {}
    files: list[str] = []
    for number, line in enumerate(lines):
        name, found, value = line.partition(":")
        if line.startswith("#") or not found or value.startswith("="):
            continue
        name, value = name.strip().lower(), value.strip()
        if name in fields:
            raise OSError(f"its header has {name} twice")
        fields[name] = value
        if name in ("data file", "datafile"):
            files += lines[number + 1 :] if _is_list(value) else [value]
    dimensions = _dimensions(fields.get("dimension", ""))
    for name in NRRD_LISTS:
        if len(fields.get(name, "")) > MAX_LIST:
            raise OSError(f"its header has {name} of {len(fields[name])} characters")
        items = re.findall(r'"[^"]*"|\([^)]*\)|[^\s"()]+', fields.get(name, ""))
        if len(items) > dimensions:
            raise OSError(f"its header has {len(items)} {name} for {dimensions} dimensions")
    _require_numbers(" ".join(fields.get(name, "") for name in NRRD_NUMBERS))
    itemsize = NRRD_SIZES.get(fields.get("type", "").removeprefix("unsigned "), LARGEST)
    _require_voxels(path, fields.get("sizes", ""), dimensions, itemsize)
    ends = [found.end() for found in [NRRD_END.search(text)] if found]
    return Stored(
        _names(files) if files else (),
        0 if files or not ends else ends[0],
        NRRD_ENCODINGS.get(fields.get("encoding", "raw").lower(), fields["encoding"]),
        fields.get("endian", "little").lower() == "big",
        tuple(map(int, fields["sizes"].split())),
        any(name.replace(" ", "") in ("lineskip", "byteskip") for name in fields),
    )


def _check_meta(path: Path, text: str) -> Stored:
    """Check the fields of a MetaImage header, whose values may be on separate lines."""
    end = META_END.search(text)
    if end is None:
        raise OSError("its header has no end")
    text, value, rest = text[: end.start()], end[1].strip(), text[end.end() :]
    _lines(text)
    offset = end.end() + len(rest) - len(rest.removeprefix("\r").removeprefix("\n"))
    dimensions = _dimensions(" ".join(sorted(set(_meta_values(text, "NDims")))))
    for key in META_NUMBERS:
        _require_numbers(" ".join(_meta_values(text, key, r"[-+.\deE\s]*")))
    for size in _meta_values(text, "CompressedDataSize"):
        if not COUNTED.fullmatch(size) or int(size) > max_image_bytes():
            raise OSError(f"its header has CompressedDataSize {size}")
    kinds = [one.upper().removeprefix("MET_") for one in _meta_values(text, "ElementType")]
    itemsize = max(
        (META_SIZES.get(kind.removesuffix("_ARRAY"), LARGEST) for kind in kinds), default=1
    )
    channels = _meta_values(text, "ElementNumberOfChannels") or ["1"]
    for sizes in _meta_values(text, "DimSize", r"[^A-Za-z]*"):
        _require_voxels(path, f"{sizes} {' '.join(channels)}", dimensions + len(channels), itemsize)
    own = value.lower() == "local"
    listed = rest.splitlines() if _is_list(value) else [value]
    header_size = _meta_values(text, "HeaderSize", r"-?\d+")
    return Stored(
        () if own else _names(listed),
        offset if own else 0,
        "zlib" if _is_true(_meta_values(text, "CompressedData")) else "raw",
        _is_true(_meta_values(text, "(?:BinaryData|Element)ByteOrderMSB")),
        tuple(int(size) for size in " ".join(_meta_values(text, "DimSize", r"[^A-Za-z]*")).split()),
        any(int(size) != 0 for size in header_size),
    )


def _lines(head: str, ends: bool = True) -> list[str]:
    """Lines of a header; refuses one that is too long."""
    lines = LINE_END.split(head)
    if not ends or len(lines) > MAX_HEADER_LINES:
        raise OSError(
            f"its header is longer than {MAX_HEADER_LINES} lines or {MAX_HEADER_BYTES >> 20} MiB"
        )
    return lines


def _names(lines: Sequence[str]) -> tuple[str, ...]:
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise OSError("its header names no data file")
    return names


def _is_true(values: list[str]) -> bool:
    return any(value.lower() in ("true", "t", "1") for value in values)


def _meta_values(text: str, key: str, value: str = r"\S+") -> list[str]:
    found = re.findall(rf"(?<![A-Za-z]){key}\s*[=:]\s*({value})", text, re.IGNORECASE)
    return [str(one).strip() for one in found]


def _is_list(value: str) -> bool:
    return value.upper().split()[:1] == ["LIST"]


def _dimensions(text: str) -> int:
    if not COUNTED.fullmatch(text) or not 1 <= int(text[:9]) <= MAX_DIMENSIONS:
        raise OSError(f"its header has {text[:9] or 'no'} dimensions")
    return int(text)


def _require_numbers(text: str) -> None:
    for number in NUMBER.findall(text):
        if not abs(float(number)) <= MAX_MM:
            raise OSError(f"its header has the out-of-range number {number[:20]}")


def _require_voxels(path: Path, sizes: str, dimensions: int, itemsize: int) -> None:
    items = sizes.split()
    if len(items) != dimensions or not all(map(COUNTED.fullmatch, items)):
        raise OSError(f"its header has the sizes {sizes[:40]} for {dimensions} dimensions")
    require_room(case_name(path), [int(item) for item in items], itemsize)


def _require_beside(path: Path, line: str) -> None:
    """Refuse an unsafe name of a data file, or an unsafe pattern of names such as ``slice_%03d.raw 1 40 1``."""
    name = line.strip()
    if not name:
        return
    if not is_inside(name):
        raise OSError("its header names a data file that is not in its folder")
    if len(name) > MAX_NAME or not PATTERN.fullmatch(name):
        raise OSError("the data file named in its header is not a valid file name")
    target = path.parent / name
    if target.exists() and not target.is_file():
        raise OSError("the data file named in its header is not a file")

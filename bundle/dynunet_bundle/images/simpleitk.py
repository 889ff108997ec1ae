"""Image files that are not NIfTI: volumes by SimpleITK, pictures by SimpleITK and Pillow.

The suffix of a file selects its reader. If its content did, a ``.png`` could be any format of SimpleITK, and a ``.bmp``
a PostScript program that Pillow passes to Ghostscript.
"""

import math
import os
import re
import struct
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile, DibImageFile

from dynunet_bundle.dicom_input.geometry import LPS_TO_RAS
from dynunet_bundle.errors import CaseError
from dynunet_bundle.files import PICTURE_SUFFIXES, case_name
from dynunet_bundle.images.grid import SPATIAL_AXES
from dynunet_bundle.images.header_checks import (
    META_SUFFIXES,
    NRRD_SUFFIXES,
    Stored,
    require_sound_header,
)
from dynunet_bundle.images.picture_checks import require_sound_picture
from dynunet_bundle.images.streams import ENCODINGS, decompress, require_size
from dynunet_bundle.images.tiff_spacing import tiff_spacing, with_spacing
from dynunet_bundle.machine.limits import require_memory, require_place, require_room

READERS = {
    **dict.fromkeys(NRRD_SUFFIXES, "NrrdImageIO"),
    **dict.fromkeys(META_SUFFIXES, "MetaImageIO"),
    ".png": "PNGImageIO",
    ".tif": "TIFFImageIO",
    ".tiff": "TIFFImageIO",
}
BITS = re.compile(r"(\d+)-bit")
"""Number of bits in SimpleITK's names of pixel types, e.g. "vector of 16-bit signed integer"."""

BITS_A_BYTE = 8
BITMAPS = (BmpImageFile, DibImageFile)
BITMAP_RATIO = 256
"""Largest number of pixels per byte of a BMP: a run of 255 takes two bytes (RLE8)."""


def read_foreign(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a volume or a picture.

    Args:
        path: an image file.

    Returns:
        ``[C, X, Y, Z]`` in the order in which the file stores its axes, and the affine ``[4, 4]`` from voxel indices to
        millimetres in RAS+; pictures have voxels of 1 mm, TIFF volumes those of a JSON file beside them.

    Raises:
        CaseError: if it declares more voxels than are allowed, its affine is not finite, or the JSON file is malformed.
        OSError: if SimpleITK or Pillow cannot read it.
    """
    if str(path).lower().endswith(PICTURE_SUFFIXES):
        # their resolution is for printing, and often differs between an image and its label
        picture = _read_picture(path)
        return picture, with_spacing(LPS_TO_RAS, tiff_spacing(path, picture.shape[-1]))
    image = _read_with_sitk(path)
    affine = sitk_affine(image)
    require_place(case_name(path), affine)
    return sitk_channels(image), affine


def _read_picture(path: str | Path) -> np.ndarray:
    """A picture as ``[C, X, Y, Z]``. BMP is read by Pillow: SimpleITK colours grey pictures and pads truncated ones."""
    if not str(path).lower().endswith(".bmp"):
        return sitk_channels(_read_with_sitk(path))
    with _open_bitmap(path) as picture:
        grey = picture.mode in ("1", "L")
        require_room(case_name(path), (*picture.size, 1 if grey else 3), 1)
        if math.prod(picture.size) > BITMAP_RATIO * os.stat(path).st_size:
            raise OSError(f"it is truncated: its header declares {math.prod(picture.size)} pixels")
        array = np.asarray(picture.convert("L" if grey else "RGB"))
    return array.reshape(*array.shape[:2], 1, -1).transpose(3, 1, 0, 2)


def _open_bitmap(path: str | Path) -> Image.Image:
    """Open a BMP like ``Image.open``, which would refuse pictures of 180 million pixels."""
    for kind in BITMAPS:
        try:
            return kind(path)
        except (OSError, SyntaxError, IndexError, TypeError, struct.error) as error:
            reason = error
    raise OSError(f"Pillow cannot identify it as a bitmap ({reason})")


def _read_with_sitk(path: str | Path) -> sitk.Image:
    suffix = Path(path).suffix.lower()
    stored = None
    if suffix in (*NRRD_SUFFIXES, *META_SUFFIXES):
        stored = require_sound_header(Path(path))
    else:
        require_sound_picture(Path(path))
    name = simpleitk_name(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.SetImageIO(READERS[suffix])
    try:
        reader.ReadImageInformation()
        _require_sound(path, reader)
        require_memory(2 * _num_bytes(reader), "reading it")  # SimpleITK's image and a copy
        if stored is None or stored.encoding not in (*ENCODINGS, "raw"):
            if stored is not None:  # a number in text takes at least one byte
                _require_listed_size(Path(path), stored, math.prod(stored.sizes))
            return reader.Execute()
        if stored.encoding == "raw":
            _require_raw_size(Path(path), stored, reader)
            return reader.Execute()
        return _decompressed(Path(path), stored, reader)
    except RuntimeError as error:
        # only the last line states the problem; the folder is removed because paths may be private
        reason = str(error).splitlines()[-1].replace(f"{Path(name).parent}{os.sep}", "")
        raise OSError(reason) from None


def simpleitk_name(path: str | Path) -> str:
    """A path for SimpleITK: in UTF-8, whatever the locale; other names would crash the process.

    Raises:
        OSError: if the name is not valid UTF-8.
    """
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        raise OSError("its path is not valid UTF-8") from None


def _require_sound(path: str | Path, reader: sitk.ImageFileReader) -> None:
    if not all(step > 0 for step in reader.GetSpacing()):
        # SimpleITK flips such an axis when reading and refuses it when writing
        raise CaseError(
            case_name(path),
            f"its spacing is {reader.GetSpacing()} mm",
            "Correct its header: spacings must be positive; flips belong in the directions.",
        )
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
    bits = BITS.search(kind)
    if bits is None:
        raise OSError(f"its voxels have an unknown data type ({kind})")
    shape = (*reader.GetSize(), reader.GetNumberOfComponents())
    require_room(case_name(path), shape, int(bits[1]) // BITS_A_BYTE)


def _dtype_of(reader: sitk.ImageFileReader) -> np.dtype:
    """Data type of the voxels, in the byte order of this machine."""
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
    bits = BITS.search(kind)
    assert bits is not None  # noqa: S101 - _require_sound
    letter = "f" if "float" in kind else "u" if "unsigned" in kind else "i"
    return np.dtype(f"{letter}{int(bits[1]) // BITS_A_BYTE}")


def _num_bytes(reader: sitk.ImageFileReader) -> int:
    numbers = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    return numbers * _dtype_of(reader).itemsize


def _require_raw_size(path: Path, stored: Stored, reader: sitk.ImageFileReader) -> None:
    """Refuse another number of voxels than the header declares; ITK fills missing ones with uninitialised memory."""
    if (
        stored.skips
    ):  # the offset of the voxels is not known, or they are the last bytes of the file
        least = path.parent / stored.files[0] if stored.files else path
        if least.is_file() and least.stat().st_size < _num_bytes(reader):
            raise OSError("it is truncated: its file is smaller than its voxels")
    elif not stored.files:
        require_size(path, stored.offset, _num_bytes(reader))
    elif len(stored.files) == 1 and "%" not in stored.files[0]:
        require_size(path.parent / stored.files[0], 0, _num_bytes(reader))
    else:
        _require_listed_size(path, stored, _num_bytes(reader))


def _require_listed_size(path: Path, stored: Stored, least: int) -> None:
    """Refuse voxels in text or in separate files that have fewer than the minimum number of bytes."""
    if any("%" in name for name in stored.files):
        return
    files = [path.parent / name for name in stored.files] or [path]
    if sum(file.stat().st_size for file in files if file.is_file()) < least:
        raise OSError("it is truncated: its files are smaller than its voxels")


def _decompressed(path: Path, stored: Stored, reader: sitk.ImageFileReader) -> sitk.Image:
    """The image of compressed voxels, decompressed here since SimpleITK does not verify checksums."""
    components, size = reader.GetNumberOfComponents(), tuple(reader.GetSize())
    own = [(components, *size), size] if components == 1 else [(components, *size)]
    meta = path.suffix.lower() in META_SUFFIXES
    if stored.skips or len(stored.files) > 1 or not (meta or stored.sizes in own):
        raise OSError("its compressed voxels have a layout that is not supported")
    with (path.parent / stored.files[0] if stored.files else path).open("rb") as file:
        file.seek(stored.offset)
        content = decompress(file, stored.encoding, _num_bytes(reader))
    dtype = _dtype_of(reader).newbyteorder(">" if stored.big_endian else "<")
    voxels = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="), copy=False)
    shape = (*size[::-1], components) if components > 1 else size[::-1]
    image = sitk.GetImageFromArray(voxels.reshape(shape), isVector=components > 1)
    image.SetOrigin(reader.GetOrigin())
    image.SetSpacing(reader.GetSpacing())
    image.SetDirection(reader.GetDirection())
    return image


def sitk_channels(image: sitk.Image) -> np.ndarray:
    """SimpleITK's (z, y, x[, components]) -> ``[C, X, Y, Z]``."""
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., np.newaxis]
    dims = image.GetDimension()
    if dims == SPATIAL_AXES + 1:  # the fourth axis has the channels
        array = np.moveaxis(array, 0, -1).reshape(*array.shape[1:4], -1)
    elif dims < SPATIAL_AXES:
        array = array[np.newaxis]
    return array.transpose(3, 2, 1, 0)


def sitk_affine(image: sitk.Image) -> np.ndarray:
    """Affine ``[4, 4]`` in RAS+ from SimpleITK's origin, spacing and directions in LPS+."""
    dims = image.GetDimension()
    used = min(dims, SPATIAL_AXES)
    axes = np.eye(SPATIAL_AXES)
    direction = np.array(image.GetDirection()).reshape(dims, dims)[:used, :used]
    axes[:used, :used] = direction * np.array(image.GetSpacing())[:used]
    origin = np.zeros(SPATIAL_AXES)
    origin[:used] = image.GetOrigin()[:used]
    affine = np.eye(SPATIAL_AXES + 1)
    affine[:SPATIAL_AXES, :SPATIAL_AXES] = axes
    affine[:SPATIAL_AXES, SPATIAL_AXES] = origin
    return LPS_TO_RAS @ affine

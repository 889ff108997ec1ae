"""Image files that are not NIfTI: volumes by SimpleITK, pictures by SimpleITK and Pillow.

A file is read as what its suffix says, by that reader alone: by its content, a ``.png`` might be anything that
SimpleITK knows, and a ``.bmp`` a PostScript program that Pillow gives to Ghostscript.
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
from dynunet_bundle.limits import require_place, require_room

READERS = {
    **dict.fromkeys(NRRD_SUFFIXES, "NrrdImageIO"),
    **dict.fromkeys(META_SUFFIXES, "MetaImageIO"),
    ".png": "PNGImageIO",
    ".tif": "TIFFImageIO",
    ".tiff": "TIFFImageIO",
}
BITS = re.compile(r"(\d+)-bit")
"""In SimpleITK's names of pixel types, as "vector of 16-bit signed integer"."""

BITS_A_BYTE = 8
BITMAPS = (BmpImageFile, DibImageFile)
BITMAP_RATIO = 256
"""Most pixels that a byte of a BMP stands for: a run of 255 takes two (RLE8)."""


def read_foreign(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a volume or a picture.

    Args:
        path: an image file.

    Returns:
        ``[C, X, Y, Z]`` in the order in which the file stores its axes, and the affine ``[4, 4]`` from voxel indices to
        millimetres in RAS+; pictures have voxels of 1 mm.

    Raises:
        CaseError: if it promises more than is allowed, or its place is not finite.
        OSError: if SimpleITK or Pillow cannot read it.
    """
    if str(path).lower().endswith(PICTURE_SUFFIXES):
        # their resolution is one for printing, and often differs between an image and its label
        return _read_picture(path), LPS_TO_RAS.copy()
    image = _read_with_sitk(path)
    affine = _affine_of(image)
    require_place(case_name(path), affine)
    return _sitk_array(image), affine


def _read_picture(path: str | Path) -> np.ndarray:
    """``[C, X, Y, Z]`` of a picture; a BMP by Pillow, since SimpleITK gives grey ones colours and fills cut ones."""
    if not str(path).lower().endswith(".bmp"):
        return _sitk_array(_read_with_sitk(path))
    with _open_bitmap(path) as picture:
        grey = picture.mode in ("1", "L")
        require_room(case_name(path), (*picture.size, 1 if grey else 3), 1)
        if math.prod(picture.size) > BITMAP_RATIO * os.stat(path).st_size:
            raise OSError(f"it is cut off: its header promises {math.prod(picture.size)} pixels")
        array = np.asarray(picture.convert("L" if grey else "RGB"))
    return array.reshape(*array.shape[:2], 1, -1).transpose(3, 1, 0, 2)


def _open_bitmap(path: str | Path) -> Image.Image:
    """What ``Image.open`` gives, which refuses pictures of 180 million pixels."""
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
        if stored is None or stored.encoding not in (*ENCODINGS, "raw"):
            if stored is not None:  # a number in text takes a byte at least
                _require_listed_size(Path(path), stored, math.prod(stored.sizes))
            return reader.Execute()
        if stored.encoding == "raw":
            _require_raw_size(Path(path), stored, reader)
            return reader.Execute()
        return _decompressed(Path(path), stored, reader)
    except RuntimeError as error:
        # the lines before the last say where in SimpleITK it was found; the folder is nobody's business
        reason = str(error).splitlines()[-1].replace(f"{Path(name).parent}{os.sep}", "")
        raise OSError(reason) from None


def simpleitk_name(path: str | Path) -> str:
    """A path as SimpleITK takes it: in UTF-8, whatever the locale is; any other name would end the process.

    Raises:
        OSError: if the name is not valid UTF-8.
    """
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        raise OSError("its path is not valid UTF-8") from None


def _require_sound(path: str | Path, reader: sitk.ImageFileReader) -> None:
    if not all(step > 0 for step in reader.GetSpacing()):
        # SimpleITK flips such an axis when it reads, and refuses it when it writes
        raise CaseError(
            case_name(path),
            f"its spacing is {reader.GetSpacing()} mm",
            "Correct its header: spacing is positive, the rest is for the directions.",
        )
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
    bits = BITS.search(kind)
    if bits is None:
        raise OSError(f"its voxels are of an unknown type ({kind})")
    shape = (*reader.GetSize(), reader.GetNumberOfComponents())
    require_room(case_name(path), shape, int(bits[1]) // BITS_A_BYTE)


def _dtype_of(reader: sitk.ImageFileReader) -> np.dtype:
    """Type of a number, in the byte order of this machine."""
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())
    bits = BITS.search(kind)
    assert bits is not None  # noqa: S101 - _require_sound
    letter = "f" if "float" in kind else "u" if "unsigned" in kind else "i"
    return np.dtype(f"{letter}{int(bits[1]) // BITS_A_BYTE}")


def _num_bytes(reader: sitk.ImageFileReader) -> int:
    numbers = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    return numbers * _dtype_of(reader).itemsize


def _require_raw_size(path: Path, stored: Stored, reader: sitk.ImageFileReader) -> None:
    """Refuse voxels that are not as many as the header says; ITK fills up with memory as it finds it."""
    if stored.skips:  # the voxels begin somewhere else, or are the last bytes of the file
        least = path.parent / stored.files[0] if stored.files else path
        if least.is_file() and least.stat().st_size < _num_bytes(reader):
            raise OSError("it is cut off: its file is smaller than its voxels")
    elif not stored.files:
        require_size(path, stored.offset, _num_bytes(reader))
    elif len(stored.files) == 1 and "%" not in stored.files[0]:
        require_size(path.parent / stored.files[0], 0, _num_bytes(reader))
    else:
        _require_listed_size(path, stored, _num_bytes(reader))


def _require_listed_size(path: Path, stored: Stored, least: int) -> None:
    """Refuse voxels in text, or in files of their own, that take fewer bytes than the least that they need."""
    if any("%" in name for name in stored.files):
        return
    files = [path.parent / name for name in stored.files] or [path]
    if sum(file.stat().st_size for file in files if file.is_file()) < least:
        raise OSError("it is cut off: its files are smaller than its voxels")


def _decompressed(path: Path, stored: Stored, reader: sitk.ImageFileReader) -> sitk.Image:
    """The image of compressed voxels, which SimpleITK would decompress without a look at their checksum."""
    components, size = reader.GetNumberOfComponents(), tuple(reader.GetSize())
    own = [(components, *size), size] if components == 1 else [(components, *size)]
    meta = path.suffix.lower() in META_SUFFIXES
    if stored.skips or len(stored.files) > 1 or not (meta or stored.sizes in own):
        raise OSError("its compressed voxels are stored in an order that is not supported")
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


def _sitk_array(image: sitk.Image) -> np.ndarray:
    """SimpleITK's (z, y, x) with the components of a voxel last -> ``[C, X, Y, Z]``."""
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., np.newaxis]
    dims = image.GetDimension()
    if dims == SPATIAL_AXES + 1:  # the fourth spatial axis holds channels
        array = np.moveaxis(array, 0, -1).reshape(*array.shape[1:4], -1)
    elif dims < SPATIAL_AXES:
        array = array[np.newaxis]
    return array.transpose(3, 2, 1, 0)


def _affine_of(image: sitk.Image) -> np.ndarray:
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

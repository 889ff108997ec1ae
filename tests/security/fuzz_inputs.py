"""Well-formed inputs of every kind, and ways to spoil them; all is decided by a seed.

``seeds(folder)`` are inputs of one file or several; ``spoil(rng, input)`` gives one that is broken somewhere.
"""

import gzip
import io
import re
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # attack.py imports this file outside of pytest

from helpers import made_dicom  # noqa: E402

Input = dict[str, bytes]
"""Content by file name; more than one file, or a DICOM file, is an input of a folder."""

SHAPE = (36, 34, 5)
"""The smallest slices that JPEG 2000 takes with its default levels are 32 x 32."""

HEADER_BYTES = 700
WORDS = (
    *(b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f" * 2, b"\0\0\0\x80" * 2, b"\x01" + b"\0" * 7),
    *(struct.pack("<d", float("nan")), struct.pack("<f", float("nan")) * 2),
    *(struct.pack("<f", float("inf")) * 2, struct.pack("<f", 1e30) * 2, b"\x10\0" * 4),
)
NUMBERS = (b"0", b"-1", b"99999999999", b"4294967296", b"nan", b"1e308", b"65535", b"", b"7 7")


def seeds() -> dict[str, Input]:
    """One input of each kind."""
    rng = np.random.default_rng(0)
    array = rng.integers(1, 200, SHAPE).astype(np.int16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {**_volumes(folder, array), **_pictures(folder, array), **_dicom(folder, array)}


def _volumes(folder: Path, array: np.ndarray) -> dict[str, Input]:
    affine = made_dicom.oblique()
    scaled = nib.Nifti1Image(array, affine)
    scaled.header.set_slope_inter(2.0, -1.0)
    nib.save(scaled, folder / "scaled.nii")
    nib.save(nib.Nifti1Image(array.astype(np.float32), affine), folder / "float.nii.gz")
    nib.save(nib.Nifti2Image(array, affine), folder / "second.nii.gz")
    image = sitk.GetImageFromArray(array.T)
    for suffix in ("nrrd", "mha"):
        sitk.WriteImage(image, str(folder / f"raw.{suffix}"))
        sitk.WriteImage(image, str(folder / f"packed.{suffix}"), useCompression=True)
    names = ["scaled.nii", "float.nii.gz", "second.nii.gz"]
    names += ["raw.nrrd", "packed.nrrd", "raw.mha", "packed.mha"]
    found = {name: {name: (folder / name).read_bytes()} for name in names}
    for suffix, voxels in (("nhdr", "raw"), ("mhd", "zraw")):
        sitk.WriteImage(image, str(folder / f"apart.{suffix}"), useCompression=suffix == "mhd")
        names = [f"apart.{suffix}", f"apart.{voxels}"]
        found[names[0]] = {one: (folder / one).read_bytes() for one in names}
    return found


def _pictures(folder: Path, array: np.ndarray) -> dict[str, Input]:
    grey = array[:, :, 0].astype(np.uint8)
    colours = np.repeat(grey[..., np.newaxis], 3, axis=2)
    made = {
        "grey.png": sitk.GetImageFromArray(grey),
        "deep.png": sitk.GetImageFromArray(grey.astype(np.uint16) * 200),
        "colour.png": sitk.GetImageFromArray(colours, isVector=True),
        "plain.tif": sitk.GetImageFromArray(grey),
        "packed.tif": sitk.GetImageFromArray(array.T.astype(np.uint8)),
        "grey.bmp": sitk.GetImageFromArray(grey),
        "colour.bmp": sitk.GetImageFromArray(colours, isVector=True),
    }
    for name, image in made.items():
        sitk.WriteImage(image, str(folder / name), useCompression=name.startswith("packed"))
    return {name: {name: (folder / name).read_bytes()} for name in made}


def _dicom(folder: Path, array: np.ndarray) -> dict[str, Input]:
    affine = made_dicom.oblique()
    syntaxes = {
        "plain": None,
        "rle": RLELossless,
        "jpegls": JPEGLSLossless,
        "j2k": JPEG2000Lossless,
    }
    found = {}
    for name, syntax in syntaxes.items():
        series = made_dicom.make_series(folder / name, array, affine, syntax=syntax, slopes=1.5)
        found[f"dicom {name}"] = {file.name: file.read_bytes() for file in series.iterdir()}
    enhanced = made_dicom.make_enhanced(folder / "enhanced.dcm", array, affine)
    found["dicom enhanced"] = {"enhanced.dcm": enhanced.read_bytes()}
    found["zip"] = {"study.zip": zipped(found["dicom plain"])}
    return found


def zipped(files: Mapping[str, bytes]) -> bytes:
    """An archive of files."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return target.getvalue()


def spoil(rng: np.random.Generator, given: Input) -> Input:
    """Break one file of an input; what lies in a compressed one is broken before it is packed, mostly."""
    spoiled = dict(given)
    name = str(rng.choice(sorted(given)))
    content, inside = given[name], rng.random() < 0.7
    if name.endswith(".gz") and inside:
        spoiled[name] = gzip.compress(_broken(rng, gzip.decompress(content)), mtime=0)
    elif name.endswith(".zip") and inside:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {one: archive.read(one) for one in archive.namelist()}
        spoiled[name] = zipped(spoil(rng, files))
    elif name.endswith(".png") and inside:
        spoiled[name] = _signed_again(_broken(rng, content))
    else:
        spoiled[name] = _broken(rng, content)
    return spoiled


def _broken(rng: np.random.Generator, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        way = _WAYS[int(rng.integers(len(_WAYS)))]
        # most of what can be wrong is in the header
        end = max(1, min(len(data), HEADER_BYTES) if rng.random() < 0.8 else len(data))
        data = way(rng, data, int(rng.integers(end)))
    return bytes(data)


def _flip(rng: np.random.Generator, data: bytearray, place: int) -> bytearray:
    for index in range(place, min(place + int(rng.choice([1, 1, 8])), len(data))):
        data[index] ^= 1 << int(rng.integers(8))
    return data


def _overwrite(rng: np.random.Generator, data: bytearray, place: int) -> bytearray:
    size = int(rng.choice([2, 4, 8]))
    place -= place % size
    data[place : place + size] = WORDS[int(rng.integers(len(WORDS)))][:size]
    return data


def _cut(rng: np.random.Generator, data: bytearray, place: int) -> bytearray:
    return data[: place if rng.random() < 0.5 else int(rng.integers(len(data) + 1))]


def _drop(rng: np.random.Generator, data: bytearray, place: int) -> bytearray:
    del data[place : place + int(rng.integers(1, 64))]
    return data


def _insert(rng: np.random.Generator, data: bytearray, place: int) -> bytearray:
    data[place:place] = rng.bytes(int(rng.integers(1, 64)))
    return data


def _number(rng: np.random.Generator, data: bytearray, place: int) -> bytearray:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[:HEADER_BYTES]))
    if found:
        match = found[int(rng.integers(len(found)))]
        data[match.start() : match.end()] = NUMBERS[int(rng.integers(len(NUMBERS)))]
    return data


_WAYS: tuple[Any, ...] = (_flip, _overwrite, _overwrite, _cut, _drop, _insert, _number)


def _signed_again(content: bytes) -> bytes:
    """A PNG with true checksums, so that its chunks are believed."""
    data, place = bytearray(content), 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        end = place + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(data)

"""Files whose headers say what is not true."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image


def nifti(path: Path, dims: list[int] | None = None, **fields: Any) -> Path:
    """A file of 64 voxels whose header says otherwise."""
    kind = nib.Nifti2Image if dims and max(dims) > 32767 else nib.Nifti1Image
    image = kind(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    raw = bytearray(image.to_bytes())
    header = kind.header_class(bytes(raw[: kind.header_class.template_dtype.itemsize]), check=False)
    for name, value in fields.items():
        header[name] = value
    if dims:
        header["dim"] = [len(dims), *dims, *[1] * (7 - len(dims))]
    raw[: len(header.binaryblock)] = header.binaryblock
    content = bytes(raw)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def text(path: Path, content: str, voxels: bytes = bytes(64)) -> Path:
    path.write_bytes(content.encode() + voxels)
    return path


def nrrd(path: Path, sizes: str = "4 4 4", **fields: str) -> Path:
    given = {"type": "uint8", "dimension": "3", "sizes": sizes, "encoding": "raw", **fields}
    lines = "".join(f"{name.replace('_', ' ')}: {value}\n" for name, value in given.items())
    return text(path, f"NRRD0004\n{lines}\n")


def meta(path: Path, dims: str = "4 4 4", **fields: str) -> Path:
    given = {"ObjectType": "Image", "NDims": str(len(dims.split())), "DimSize": dims}
    given |= {"ElementType": "MET_UCHAR", **fields}
    lines = "".join(f"{name} = {value}\n" for name, value in given.items())
    own = "" if "ElementDataFile" in fields else "ElementDataFile = LOCAL\n"
    return text(path, lines + own)


def png(path: Path) -> Path:
    """A picture of a pixel whose header says 60000 x 60000."""
    Image.new("L", (1, 1)).save(path)
    raw = bytearray(path.read_bytes())
    raw[16:24] = struct.pack(">II", 60000, 60000)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    path.write_bytes(raw)
    return path


def gzip_bomb(path: Path) -> Path:
    """3 GiB of zeros behind a true header; 3 MB on the disk."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((2048, 1536, 1024))
    with path.open("wb") as file:
        file.write(gzip.compress(header.binaryblock + bytes(4)))
        zeros = gzip.compress(bytes(1 << 24), mtime=0)
        for _ in range(192):
            file.write(zeros)
    return path


def extension_bomb(path: Path, size: int, num_zeros: int = 1 << 28) -> Path:
    """An extension whose size says nothing true; zeros follow the voxels."""
    image = nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    head = bytearray(image.header.binaryblock)
    head[108:112] = np.float32(352 + 64).tobytes()
    extension = np.array([size, 6], np.int32).tobytes() + bytes(56)
    with path.open("wb") as file:
        content = bytes(head) + b"\1\0\0\0" + extension + image.dataobj.tobytes("F")
        file.write(gzip.compress(content))
        zeros = gzip.compress(bytes(1 << 24), mtime=0)
        for _ in range(num_zeros >> 24):
            file.write(zeros)
    return path

"""NIfTI files, opened by nibabel after a check of their headers.

``nibabel.load`` trusts the sizes in a header, so a file of a few bytes can make it request any amount of memory; an
extension of negative size makes it read a compressed file to its end; and it parses extensions, which may be DICOM
headers with patient data. Extensions are not needed here, so they are skipped.
"""

import gzip
import logging
import math
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener
from numpy.lib.recfunctions import structured_to_unstructured

from dynunet_bundle.errors import CaseError
from dynunet_bundle.files import case_name
from dynunet_bundle.images.grid import SPATIAL_AXES
from dynunet_bundle.images.streams import require_end, require_size
from dynunet_bundle.machine.limits import require_memory, require_place, require_room

GZIP_SUFFIX = ".gz"
GZIP_RATIO = 1032
"""Largest compression ratio of deflate: 258 bytes in two bits (RFC 1951; zlib's technical details give 1032:1)."""

MAX_OFFSET = 1 << 28
"""Largest offset of the voxels in bytes, after the extensions; a compressed file is read up to the offset."""

UNIT_MM = {"meter": 1000.0, "micron": 0.001}
"""Length in millimetres of the units of NIfTI other than the millimetre; an unknown unit is taken for it."""

ODD_PIXDIM = "odd_pixdim"
"""Key in ``extra`` of a loaded image: voxel sizes in its header that are 0, which nibabel takes for 1, or negative, of
which it takes the absolute value."""

SCALED_ITEMSIZE = np.dtype(np.float32).itemsize
IMAGE_TYPES = (nib.Nifti1Image, nib.Nifti2Image)
HEAD_BYTES = max(kind.header_class.template_dtype.itemsize for kind in IMAGE_TYPES)


logger = logging.getLogger(__name__)


class _RepairLog(logging.LoggerAdapter[logging.Logger]):
    """Log of nibabel's repairs of a header. Its own names no case, and comes twice for each time a file is opened."""

    def log(self, level: int, msg: object, *_: Any, **__: Any) -> None:
        """Warn of a repair, once in a process."""
        if level >= logging.WARNING and self.extra is not None:
            _tell_repair(str(self.extra["case"]), str(msg))


@lru_cache(maxsize=1000)
def _tell_repair(case: str, repair: str) -> None:
    logger.warning("case %s: its header is wrong: %s", case, repair)


def load_nifti(path: str | Path) -> nib.Nifti1Image:
    """Open a file like ``nibabel.load``, without extensions; the voxels are read on access.

    The size limit counts voxels in the file's data type, or in float32 if the header has a slope, as for DICOM. nibabel
    scales in float64, which takes twice as much.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.

    Returns:
        A ``Nifti1Image`` or a ``Nifti2Image``.

    Raises:
        CaseError: if the header declares more voxels than are allowed, or than the file can contain.
        OSError: if it is not a NIfTI file; nibabel raises several kinds of errors for a damaged header.
    """
    with ImageOpener(str(path)) as file:
        head = file.read(HEAD_BYTES)
    for kind in IMAGE_TYPES:
        size = kind.header_class.template_dtype.itemsize
        if kind.header_class.may_contain_header(head[:size]):
            stored = kind.header_class(head[:size], check=False)
            header = stored.copy()
            header.check_fix(_RepairLog(logger, {"case": case_name(path)}))
            image = _open(Path(path), kind, header)
            used = stored["pixdim"][1 : 1 + min(stored["dim"][0], SPATIAL_AXES)]
            image.extra[ODD_PIXDIM] = [float(size) for size in used if size <= 0]
            return image
    raise OSError("it has no NIfTI header")


def affine_mm(image: nib.Nifti1Image) -> np.ndarray:
    """Affine ``[4, 4]`` float64 from voxel indices to RAS+ millimetres, whatever the unit in the header."""
    return _in_mm(image.affine, image.header)


def _in_mm(affine: np.ndarray, header: nib.Nifti1Header) -> np.ndarray:
    scaled = np.array(affine, dtype=float)
    scaled[:SPATIAL_AXES] *= unit_mm(header)
    return scaled


def unit_mm(header: nib.Nifti1Header) -> float:
    """Length of the header's spatial unit in millimetres."""
    return UNIT_MM.get(header.get_xyzt_units()[0], 1.0)


def read_voxels(path: str | Path, image: nib.Nifti1Image) -> np.ndarray:
    """Voxels of an image that ``load_nifti`` opened, in the file's data type, or float64 if scaled.

    The colours of RGB and RGBA voxels are a last axis.

    The file is read to its end, where a compressed file has its checksum; nibabel alone does not read that far.

    Args:
        path: the file.
        image: the image of ``load_nifti``.

    Raises:
        CaseError: if the voxels are complex numbers.
        OSError: if the stream is damaged or truncated, or contains more than the header declares.
        MemoryError: if there is less memory than the voxels take.
    """
    proxy = image.dataobj
    if proxy.dtype.kind == "c":
        raise CaseError(
            case_name(path),
            f"its voxels are complex numbers ({proxy.dtype.name})",
            "Save the magnitude, or real and imaginary part as two channels.",
        )
    scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
    itemsize = proxy.dtype.itemsize + (np.dtype(np.float64).itemsize if scaled else 0)
    require_memory(math.prod(map(int, proxy.shape)) * itemsize, "reading it")
    if not str(path).lower().endswith(GZIP_SUFFIX):
        require_size(Path(path), proxy.offset, math.prod(proxy.shape) * proxy.dtype.itemsize)
        return _array_of(proxy)
    layout = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
    with gzip.open(path, "rb") as file:
        try:
            voxels = _array_of(image.ImageArrayProxy(file, layout))
            require_end(file)
        except (zlib.error, EOFError) as error:
            raise OSError(f"its compressed voxels are damaged ({error})") from None
    return voxels


def _array_of(proxy: ArrayProxy) -> np.ndarray:
    """Voxels of a file; colours, which NIfTI does not scale, as a last axis."""
    if proxy.dtype.names is None:
        return np.asanyarray(proxy)
    return structured_to_unstructured(proxy.get_unscaled())


def _open(path: Path, kind: type[nib.Nifti1Image], header: nib.Nifti1Header) -> nib.Nifti1Image:
    _require_sizes(path, header)
    _forget_unknown_codes(header)
    files = kind.filespec_to_file_map(str(path))
    voxels = kind.ImageArrayProxy(files["image"].filename, header.copy())
    affine = header.get_best_affine()
    # before nibabel, which cannot take such an affine apart
    require_place(case_name(path), _in_mm(affine, header))
    return kind(voxels, affine, header, file_map=files)


def _forget_unknown_codes(header: nib.Nifti1Header) -> None:
    """Reset undefined codes: nibabel opens a file with an undefined unit code but fails when its header is copied."""
    try:
        header.get_xyzt_units()
    except KeyError:
        header["xyzt_units"] = 0
    if header["sform_code"] > 0 and not _is_finite_qform(header):
        # the sform takes precedence
        header["qform_code"] = 0


def _is_finite_qform(header: nib.Nifti1Header) -> bool:
    try:
        return bool(np.isfinite(header.get_qform()).all())
    except ValueError:
        return False


def _require_sizes(path: Path, header: nib.Nifti1Header) -> None:
    shape, itemsize = header.get_data_shape(), header.get_data_dtype().itemsize
    scaled = header.get_slope_inter() not in ((None, None), (1.0, 0.0))
    require_room(case_name(path), shape, max(itemsize, SCALED_ITEMSIZE if scaled else 0))
    offset = header.get_data_offset()
    is_packed = path.name.lower().endswith(GZIP_SUFFIX)
    most = path.stat().st_size * (GZIP_RATIO if is_packed else 1)
    needed = offset + abs(math.prod(map(int, shape))) * itemsize
    if offset > MAX_OFFSET or needed > most:
        raise CaseError(
            case_name(path),
            f"it is truncated, or its header is damaged: the header declares {needed} bytes, {offset} of them before "
            f"the voxels, but the file can contain at most {most}",
            "Replace the damaged file.",
        )

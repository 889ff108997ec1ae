"""Write masks on exactly the voxel grid of their source files, in the same format."""

import gzip
import tempfile
import time
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import SaveImaged

from dynunet_bundle.dataset.cases import name_of, source_of
from dynunet_bundle.dicom_input.names import is_series_name
from dynunet_bundle.errors import CaseError, OutputError
from dynunet_bundle.files import (
    IMAGE_SUFFIXES,
    NIFTI_SUFFIXES,
    atomic_write,
    ensure_writable,
    sha256_of,
)
from dynunet_bundle.images.grid import SPATIAL_AXES
from dynunet_bundle.images.nifti import load_nifti
from dynunet_bundle.images.tiff_spacing import tiff_spacing, write_tiff_spacing

MASK_TYPES = (np.uint8, np.uint16, np.int32)
SAVED = "saved"
"""Key of the facts of a written mask: ``file``, ``sha256`` and ``seconds``."""

REFUSED = "refused"
"""Key, beside those, of the DICOM objects that could not be made: their reasons by kind."""

GZIP_LEVEL = 6
"""Compression level: a seventh of the time of the highest level, the default, for masks a seventh larger."""

MASK_SUFFIXES = {".nhdr": ".nrrd", ".mhd": ".mha", ".bmp": ".png"}
"""Suffix of the mask by that of the image, if they differ: a mask is a single file, and SimpleITK would read a grey BMP
as RGB."""


class SaveMaskd(SaveImaged):
    """Save each mask on the grid of its image: ``postprocessing`` of inference.json and evaluate.json.

    The file is ``output_dir/CASE.nii.gz``, or has the format of the image if that is not NIfTI: ``CASE.nrrd``,
    ``CASE.png``, ... MONAI's SaveImaged writes in place, so that a crash leaves a partial file; it writes the affine
    after the inverse transforms, which may differ from the file's in the last digits; and it drops the sform and qform
    codes. Only the geometry of the source's header is copied.

    The mask of an image in memory (of a Python program, or of an operator of MONAI Deploy) is not saved: the image has
    no file whose grid, format and name the mask could take.

    Args:
        keys: keys of the masks, MetaTensors ``[1, X, Y, Z]`` on the grid of the file in their meta data.
        output_dir: folder of the results.
        allow_missing_keys: as in MONAI.

    Raises:
        CaseError: if a mask is not on the grid of its source file.
        OutputError: if the result would replace the source file, or cannot be written.
    """

    def __init__(
        self, keys: KeysCollection, output_dir: str, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys=keys, output_dir=output_dir, allow_missing_keys=allow_missing_keys)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save the masks of one case; the data is returned with ``SAVED`` added."""
        saved = dict(data)
        for key in self.key_iterator(saved):
            mask = saved[key]
            source = source_of(mask)
            if source is None:
                continue
            begun = time.monotonic()
            file = save_mask(
                mask[0].as_tensor(),
                Path(source),
                self.output_dir,
                name_of({**saved, "image": mask}),
                np.asarray(mask.affine, dtype=float),
            )
            seconds = time.monotonic() - begun
            saved[SAVED] = {"file": file.name, "sha256": sha256_of(file), "seconds": seconds}
        return saved


def mask_array(mask: torch.Tensor) -> np.ndarray:
    """A mask in the smallest of ``MASK_TYPES`` that holds its values, as in files."""
    array = mask.cpu().numpy()
    largest = array.max(initial=0)
    return array.astype(next(kind for kind in MASK_TYPES if largest <= np.iinfo(kind).max))


def refused_objects(saved: Mapping[str, Any]) -> str:
    """The message for a mask without some of its DICOM objects; empty if all were written.

    Args:
        saved: facts of a written mask, as under ``SAVED``.
    """
    by_reason: dict[str, list[str]] = {}
    for kind, reason in saved.get(REFUSED, {}).items():
        by_reason.setdefault(reason, []).append(kind)
    parts = [f"no {' or '.join(kinds)}: {reason}" for reason, kinds in by_reason.items()]
    return f"{saved['file']} is written, but {' '.join(parts)}" if parts else ""


def save_mask(
    mask: torch.Tensor,
    source: Path,
    output_dir: Path,
    case: str,
    affine: np.ndarray | None = None,
) -> Path:
    """Write one mask with the geometry of its image file.

    The format is that of the image; NIfTI for a DICOM series, and for a format that only a user's reader knows
    (docs/extending.md). The spacing of a TIFF volume is written beside the mask as beside the image.

    Args:
        mask: ``[X, Y, Z]`` label values, in the axis order of the file; Z is 1 for a picture.
        source: the image of the mask.
        output_dir: folder of the masks.
        case: name of the case.
        affine: ``[4, 4]`` of the grid in RAS+ millimetres, for DICOM and a user's reader.

    Returns:
        Path of the result.

    Raises:
        CaseError: if the mask is not on the grid of the file.
        OutputError: if it would replace the file, or cannot be written.
    """
    has_header = source.name.lower().endswith(IMAGE_SUFFIXES) and not is_series_name(source)
    is_nifti = not has_header or source.name.lower().endswith(NIFTI_SUFFIXES)
    suffix = ".nii.gz" if is_nifti else source.suffix.lower()
    target = ensure_writable(output_dir) / f"{case}{MASK_SUFFIXES.get(suffix, suffix)}"
    if target.resolve() == source.resolve():
        raise OutputError(
            f"the mask of {case} would replace the image itself. Choose another output folder."
        )
    array = mask_array(mask)
    if not has_header:
        content = _packed(nib.Nifti1Image(array, affine))
    else:
        content = (_nifti_bytes if is_nifti else _sitk_bytes)(array, source, target.suffix, case)
    with atomic_write(target) as file:
        file.write(content)
    spacing = tiff_spacing(source, array.shape[-1]) if has_header else None
    if spacing:
        write_tiff_spacing(target, spacing)
    return target


def _nifti_bytes(array: np.ndarray, source: Path, suffix: str, case: str) -> bytes:
    reference = load_nifti(source)
    _require_grid(array.shape, (*reference.shape[:SPATIAL_AXES], 1, 1)[:SPATIAL_AXES], case)
    image = _image_like(array.reshape(reference.shape[:SPATIAL_AXES]), reference)
    return _packed(image)


def _packed(image: nib.Nifti1Image) -> bytes:
    # no time stamp, so that equal masks give equal bytes
    return gzip.compress(image.to_bytes(), compresslevel=GZIP_LEVEL, mtime=0)


def _sitk_bytes(array: np.ndarray, source: Path, suffix: str, case: str) -> bytes:
    # imported here, because NIfTI files do not need its 90 MiB
    import SimpleITK as sitk

    from dynunet_bundle.images.simpleitk import simpleitk_name

    header = sitk.ImageFileReader()
    header.SetFileName(simpleitk_name(source))
    header.ReadImageInformation()
    dims = min(header.GetDimension(), SPATIAL_AXES)
    size = header.GetSize()[:dims]
    _require_grid(array.shape, (*size, 1)[:SPATIAL_AXES], case)
    image = sitk.GetImageFromArray(array.reshape(size).T)
    image.SetSpacing(header.GetSpacing()[:dims])
    image.SetOrigin(header.GetOrigin()[:dims])
    full = np.array(header.GetDirection()).reshape(header.GetDimension(), -1)
    image.SetDirection(full[:dims, :dims].ravel().tolist())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"mask{suffix}"
        sitk.WriteImage(image, str(path), useCompression=True)
        return path.read_bytes()


def _require_grid(found: tuple[int, ...], expected: tuple[int, ...], case: str) -> None:
    if tuple(found) != tuple(expected):
        raise CaseError(
            case,
            f"its mask has shape {tuple(found)}, but the file {tuple(expected)}",
            "Report this as a bug of the preprocessing.",
        )


def _image_like(array: np.ndarray, reference: Any) -> nib.Nifti1Image:
    """A NIfTI image of ``array`` with only the affine, the form codes and the units of ``reference``."""
    image = nib.Nifti1Image(array, reference.affine)
    header = reference.header
    if isinstance(header, nib.Nifti1Header):
        image.header.set_xyzt_units(*header.get_xyzt_units())
        image.header.set_zooms(header.get_zooms()[:3])
        image.set_qform(*header.get_qform(coded=True))
        image.set_sform(*header.get_sform(coded=True))
    return image

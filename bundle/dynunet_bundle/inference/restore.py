"""Write masks that lie on the very voxels of their source files."""

import gzip
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import SaveImaged
from monai.utils import ImageMetaKey

from dynunet_bundle.errors import CaseError, OutputError
from dynunet_bundle.files import atomic_write, case_name, ensure_writable

MAX_UINT8 = 255


class SaveMaskd(SaveImaged):
    """Save each mask as ``output_dir/CASE.nii.gz`` with the geometry of the image it was computed from.

    What MONAI's SaveImaged lacks: it writes in place, so that a crash leaves half a file; it writes the affine that
    came out of the inverse transforms, which may differ from the file's in the last digits; and it drops the sform
    and qform codes. Nothing of the source's header but its geometry is copied.

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
        """Save the masks of one case; the data is passed on as it came."""
        saved = dict(data)
        for key in self.key_iterator(saved):
            mask = saved[key]
            save_mask(
                mask[0].as_tensor() if hasattr(mask, "as_tensor") else mask[0],
                Path(str(mask.meta[ImageMetaKey.FILENAME_OR_OBJ])),
                self.output_dir,
            )
        return saved


def save_mask(mask: torch.Tensor, source: Path, output_dir: Path) -> Path:
    """Write one mask with the geometry of a NIfTI file.

    Args:
        mask: ``[X, Y, Z]`` label values, in the axis order of the file.
        source: the image that the mask belongs to.
        output_dir: where ``CASE.nii.gz`` goes.

    Returns:
        Path of the result.
    """
    case = case_name(source)
    target = ensure_writable(output_dir) / f"{case}.nii.gz"
    if target.resolve() == source.resolve():
        raise OutputError(
            f"the mask of {case} would replace the image itself. Choose another output folder."
        )
    reference = nib.load(source)
    array = mask.cpu().numpy()
    array = array.astype(np.uint8 if array.max(initial=0) <= MAX_UINT8 else np.uint16)
    if array.shape != reference.shape[:3]:
        raise CaseError(
            case,
            f"its mask has shape {array.shape}, the file {reference.shape[:3]}",
            "Report this as a fault of the preprocessing.",
        )
    with atomic_write(target) as file:
        # without a time stamp the same mask gives the same bytes
        file.write(gzip.compress(_image_like(array, reference).to_bytes(), mtime=0))
    return target


def _image_like(array: np.ndarray, reference: Any) -> nib.Nifti1Image:
    """A NIfTI image of ``array`` with the affine, the form codes and the units of ``reference``, no more."""
    image = nib.Nifti1Image(array, reference.affine)
    header = reference.header
    if isinstance(header, nib.Nifti1Header):
        image.header.set_xyzt_units(*header.get_xyzt_units())
        image.header.set_zooms(header.get_zooms()[:3])
        image.set_qform(*header.get_qform(coded=True))
        image.set_sform(*header.get_sform(coded=True))
    return image

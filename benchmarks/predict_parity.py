"""Compare our masks with those of nnU-Net's export, for equal logits on real cases.

A case is prepared at another spacing than its own, by us and by nnU-Net's preprocessor. Synthetic logits, derived from
the prepared image, are passed to ``RestoreClassesd`` and to nnU-Net's export; the fraction of equal voxels is reported.
nnU-Net keeps SimpleITK's axes of the file (z, y, x); ours follow the plan's ``axcodes``, so the logits are reoriented.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

from benchmarks.measure import Measurement, measure
from benchmarks.predict_jobs import PEER, contender
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.files import NIFTI_SUFFIXES
from dynunet_bundle.images.nifti import load_nifti
from dynunet_bundle.inference.restore import RestoreClassesd
from dynunet_bundle.labels.scheme import LabelScheme

NUM_CLASSES = 5
SHARPNESS = 1.5
"""Number of classes per standard deviation of the image."""

AXCODES = "SAR"
CT = {"lower": -1000.0, "upper": 1500.0, "mean": 100.0, "std": 400.0}


@dataclass(frozen=True)
class Real:
    """A real case.

    Attributes:
        image: path relative to the folder of the data.
        spacing: target spacing in mm along the axes of the file; two values for a picture.
        channels: number of channels of the image.
        scheme: normalisation.
    """

    image: str
    spacing: tuple[float, ...]
    channels: int = 1
    scheme: str = "zscore"


REAL = (
    Real("Task04_Hippocampus/imagesTr/hippocampus_003.nii.gz", (0.77, 0.77, 1.3)),
    Real("extra/brats2013_flair_t1c/imagesTr/brats_2013_pat0005_1.nii.gz", (1.3, 1.3, 1.3), 2),
    Real("extra/open_ms_4ch/imagesTr/patient19.nii.gz", (1.4, 1.4, 1.4), 4),
    Real("extra/prostatex_t2_adc/imagesTr/ProstateX-0001.nii.gz", (0.6, 0.7, 2.2), 2),
    Real("extra/spinalcord_t2s/imagesTr/errsm30_t2s.nii.gz", (0.385, 0.385, 5.0)),
    Real("extra/spinalcord_t2_psr/imagesTr/errsm30_t2.nii.gz", (0.77, 1.3, 0.8)),
    Real("extra/totalseg_ct_organs/imagesTr/ts_ct_full.nii.gz", (2.2, 2.5, 2.7), scheme="ct"),
    Real("extra/totalseg_ct_organs/imagesTr/ts_ct_slab.nii.gz", (2.2, 2.5, 9.5), scheme="ct"),
    Real("extra/ct_aorta_dissection/imagesTr/ts_aorta.nii.gz", (2.2, 2.5, 2.7), scheme="ct"),
    Real("extra/pyradiomics_brain_lesion/imagesTr/brain1.nii.gz", (0.6, 0.6, 5.0)),
    Real("extra/pyradiomics_breast/imagesTr/breast1.nii.gz", (0.8, 0.5, 1.7)),
    Real("extra/wbc_2d_rgb/images/001.bmp", (1.3, 0.8), 3, "rgb_to_0_1"),
    Real("extra/em_2d_grey/images/00.png", (1.7, 1.7)),
)


def run(
    bundle: Path, work_dir: Path, data: Path, peers: Path, core: int, cases: Sequence[Real] = REAL
) -> dict[str, list[Measurement]]:
    """Compare the masks of all cases.

    Args:
        bundle: the bundle folder.
        work_dir: an empty folder.
        data: folder of the real cases; missing cases are left out.
        peers: environment with nnunetv2.
        core: CPU core for nnU-Net.
        cases: the cases to compare.

    Returns:
        One row per case under one title, with the fraction of equal voxels.
    """
    rows = []
    for case in cases:
        path = data / case.image
        if path.is_file():
            rows.append(_compare(bundle, work_dir, path, case, peers, core))
    return {"masks of equal logits compared with nnU-Net's; sizes are z, y, x": rows}


def _compare(
    bundle: Path, work_dir: Path, path: Path, case: Real, peers: Path, core: int
) -> Measurement:
    name = path.name.partition(".")[0]
    folder = work_dir / f"{path.parents[1].name}_{name}"
    folder.mkdir()
    mask, logits, shape = restored(bundle, path, case)
    np.save(folder / "logits.npy", logits)
    job = {
        "job": "export",
        "contender": PEER,
        "plan": {**_plan(case), "spacing": list(case.spacing[::-1])},
        "reader": "SimpleITKIO" if _is_nifti(path) else "NaturalImage2DIO",
        "images": _channel_files(path, folder),
        "logits": str(folder / "logits.npy"),
        "mask": str(folder / "mask.npy"),
    }
    done = measure(contender(PEER, job, folder, peers), core)
    if done.remark:
        return Measurement(name, remark=done.remark)
    # (z, y, x) -> (x, y, z)
    theirs = np.load(folder / "mask.npy", allow_pickle=False).T
    unequal = int((mask != theirs).sum())
    details = {
        "voxels": float(mask.size),
        "not background": float((theirs > 0).sum()),
        "unequal": float(unequal),
    }
    to = "x".join(map(str, mask.shape[::-1]))
    remark = f"{1 - unequal / mask.size:.4%} equal; {'x'.join(map(str, shape))} back to {to}"
    return Measurement(name, remark=remark, details=details)


def restored(
    bundle: Path, path: Path, case: Real
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Our mask of synthetic logits.

    Args:
        bundle: the bundle folder.
        path: the image.
        case: its spacing, channels and normalisation.

    Returns:
        Class numbers ``[X, Y, Z]`` on the grid of the file; the logits ``[C, z, y, x]`` with its axes; their shape.
    """
    codes = _codes(bundle, path, case)
    plan = {**_plan(case), "spacing": _by_plan(case.spacing, codes)}
    preprocessing = _preprocessing(bundle, plan)
    data = preprocessing({"image": str(path)})
    logits = make_logits(data["image"].as_tensor())
    restore = RestoreClassesd("pred", preprocessing, LabelScheme.from_plan(plan))
    mask = restore({**data, "pred": logits})["pred"][0].as_tensor().numpy()
    turn = ornt_transform(axcodes2ornt(AXCODES), axcodes2ornt(codes))
    turned = apply_orientation(logits.permute(1, 2, 3, 0).numpy(), turn)
    by_file = np.ascontiguousarray(turned.transpose(3, 2, 1, 0))
    return mask, by_file, by_file.shape[1:]


def make_logits(image: torch.Tensor) -> torch.Tensor:
    """Logits ``[C, *spatial]`` of intensity bands of ``[channels, *spatial]``, so that edges follow the image's."""
    height = image.mean(0)
    # + 1: only voxels darker than most are background
    height = SHARPNESS * (height - height.mean()) / height.std() + 1
    classes = torch.arange(NUM_CLASSES, dtype=torch.float32).view(-1, 1, 1, 1)
    return classes * height - classes.square() / 2


def _plan(case: Real) -> dict[str, Any]:
    dims = len(case.spacing)
    return {
        "device": "cpu",
        "spatial_dims": dims,
        "axcodes": AXCODES,
        "patch_size": [16] * dims,
        "channel_names": [f"channel_{index}" for index in range(case.channels)],
        "label_names": ["background", *(f"class_{value}" for value in range(1, NUM_CLASSES))],
        "label_values": list(range(NUM_CLASSES)),
        "normalization": [case.scheme] * case.channels,
        "intensity_statistics": [CT if case.scheme == "ct" else None] * case.channels,
    }


def _preprocessing(bundle: Path, plan: Mapping[str, Any]) -> Any:
    parser = load_workflow(bundle, "inference.json", (), plan).parser
    return parser.get_parsed_content("preprocessing")


def _codes(bundle: Path, path: Path, case: Real) -> str:
    """Orientation of the file's axes, e.g. ``LPS``."""
    load = _preprocessing(bundle, {**_plan(case), "spacing": case.spacing}).transforms[0]
    image: MetaTensor = load({"image": str(path)})["image"]
    return "".join(nib.aff2axcodes(np.asarray(image.affine)))


def _by_plan(spacing: Sequence[float], codes: str) -> list[float]:
    """Spacing along the plan's axes, from the spacing along the file's axes."""
    full = [*spacing, 1.0][:3]
    file_axis = {int(axis): number for number, axis in enumerate(axcodes2ornt(codes)[:, 0])}
    ordered = [full[file_axis[int(axis)]] for axis in axcodes2ornt(AXCODES)[:, 0]]
    return ordered[-len(spacing) :]


def _is_nifti(path: Path) -> bool:
    return path.name.endswith(NIFTI_SUFFIXES)


def _channel_files(path: Path, folder: Path) -> list[str]:
    """The image in nnU-Net's form: one NIfTI file per channel, or a picture."""
    if not _is_nifti(path):
        return [str(path)]
    image: Any = load_nifti(path)
    array = np.asanyarray(image.dataobj)
    array = array[..., np.newaxis] if array.ndim == 3 else array
    files = []
    for channel in range(array.shape[-1]):
        part = nib.Nifti1Image(array[..., channel], image.affine, image.header)
        file = folder / f"image_{channel:04d}.nii.gz"
        nib.save(part, file)
        files.append(str(file))
    return files

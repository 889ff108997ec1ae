"""A small synthetic data set in MSD layout, for demonstrations and tests: bent bodies of two touching parts."""

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from dynunet_bundle.files import write_json

LABELS = {"0": "background", "1": "head", "2": "tail"}
EXTENT_MM = np.array([40.0, 48.0, 36.0])


def make_case(rng: np.random.Generator) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """One image (float32) and its label (uint8), on the same grid."""
    spacing = np.round(rng.uniform([0.9, 0.9, 1.2], [1.1, 1.1, 1.8]), 3)
    shape = np.round(EXTENT_MM * rng.uniform(0.92, 1.08, 3) / spacing).astype(int)
    centre = (shape - 1) * spacing / 2 + rng.uniform(-3, 3, 3)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) * spacing - centre
    label = _body(grid, rng)
    tissue = 0.35 + 0.05 * ndimage.gaussian_filter(rng.standard_normal(shape), 2 / spacing) * 6
    image = np.where(label == 1, 0.9, np.where(label == 2, 0.72, tissue))
    for _ in range(4):
        blob = (
            np.linalg.norm(
                (grid - rng.uniform(-1, 1, 3) * EXTENT_MM / 2) / rng.uniform(2, 4, 3), axis=-1
            )
            < 1
        )
        image = np.where(blob & (label == 0), rng.uniform(0.6, 0.95), image)
    image = ndimage.gaussian_filter(image, 0.5 / spacing)
    bias = np.exp(0.25 * (grid / EXTENT_MM) @ rng.standard_normal(3))
    image = image * bias + rng.normal(0, rng.uniform(0.04, 0.1), shape)
    image = (image - image.min()) * 10 ** rng.uniform(1, 5)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -centre
    pair = (image.astype(np.float32), label.astype(np.uint8))
    axes = ("RAS", "LAS", "LPS", "PSR")[rng.integers(4)]
    return tuple(_reoriented(array, affine, axes) for array in pair)


def _body(grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels of a bent ellipsoid, cut by a tilted plane into head (1, in front) and tail (2)."""
    radii = rng.uniform([5, 13, 5], [7, 17, 7.5])
    bend = rng.uniform(0.01, 0.025)
    x, y, z = np.moveaxis(grid, -1, 0)
    inside = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 + ((z - bend * y**2 + 2) / radii[2]) ** 2 < 1
    front = y + rng.uniform(-0.3, 0.3) * z > rng.uniform(-2, 3)
    return np.where(inside, np.where(front, 1, 2), 0)


def _reoriented(array: np.ndarray, affine: np.ndarray, axes: str) -> nib.Nifti1Image:
    """The same volume stored with its array axes in another order or direction."""
    image = nib.Nifti1Image(array, affine)
    target = nib.orientations.axcodes2ornt(axes)
    return image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
    )


def make_phantom(out: Path, num_cases: int, num_test: int, seed: int) -> None:
    """Write images, labels and dataset.json under ``out``; the same seed gives the same voxels."""
    rng = np.random.default_rng(seed)
    entries: dict[str, list] = {"Tr": [], "Ts": []}
    for index in range(num_cases + num_test):
        part = "Tr" if index < num_cases else "Ts"
        name = f"phantom_{index:03d}.nii.gz"
        for folder, image in zip(("images", "labels"), make_case(rng), strict=True):
            path = out / f"{folder}{part}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(image, path)
        entries[part].append({"image": f"./images{part}/{name}", "label": f"./labels{part}/{name}"})
    write_json(
        out / "dataset.json",
        {
            "name": "Phantom",
            "description": "Synthetic bodies of two touching parts; see dynunet-bundle phantom",
            "tensorImageSize": "3D",
            "modality": {"0": "MRI"},
            "labels": LABELS,
            "numTraining": num_cases,
            "numTest": num_test,
            "training": entries["Tr"],
            "test": [entry["image"] for entry in entries["Ts"]],
        },
    )

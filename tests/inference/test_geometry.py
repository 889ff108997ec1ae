"""Masks are on exactly the voxels of their files: the same body, stored in many ways, gives the same mask in the world.

A 1x1x1 convolution (thresholds on the intensity) replaces a trained network, so that inference.json runs unchanged and
the correct result is known.
"""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch
from conftest import BUNDLE, save_nifti, save_picture
from helpers.predictions import THRESHOLD_PLAN
from scipy import ndimage

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.images.read import read_volume

SHAPE = (44, 38, 30)


def body() -> np.ndarray:
    """A lopsided body of two intensities on a zero margin; no symmetry hides a flip."""
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    image = np.where((x > 3) & (y > 5) & (z > 2) & (x < 40), 10.0, 0.0)
    image[((x - 20) / 11) ** 2 + ((y - 18) / 7) ** 2 + ((z - 13) / 6) ** 2 < 1] = 60
    image[((x - 27) / 5) ** 2 + ((y - 20) / 4) ** 2 + ((z - 14) / 4) ** 2 < 1] = 120
    return ndimage.gaussian_filter(image, 0.7).astype(np.float32) * (image > 0)


AFFINE = np.array([[1.0, 0, 0, -20], [0, 1.2, 0, 15], [0, 0, 1.6, 40], [0, 0, 0, 1]])


def run_inference(image: Path, output: Path, tmp_path: Path, **overrides: Any) -> None:
    """Run inference.json on an image or a folder of them."""
    network = torch.nn.Conv3d(1, 3, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 20.0, 40.0]).reshape(3, 1, 1, 1, 1))
        network.bias.copy_(
            torch.tensor([0.0, -700.0, -2500.0])
        )  # class 1 above 35, class 2 above 90
    weights = tmp_path / "thresholds.pt"
    torch.save(network.state_dict(), weights)
    workflow = load_workflow(
        BUNDLE,
        "inference.json",
        trust=True,
        settings={
            "input": str(image),
            "output_dir": str(output),
            "weights_file": str(weights),
            **THRESHOLD_PLAN,
            "precision": "auto",  # as shipped
            **overrides,
        },
    )
    workflow.run()


def predict(image: Path, output: Path, tmp_path: Path) -> nib.Nifti1Image:
    run_inference(image, output, tmp_path)
    source, mask = nib.load(image), nib.load(output / image.name)
    assert mask.shape == source.shape[:3]
    assert np.array_equal(mask.affine, source.affine)
    assert mask.get_data_dtype() == np.uint8
    return mask


def values_at(mask: nib.Nifti1Image, world: np.ndarray) -> np.ndarray:
    """Mask values at world points ``[3, N]``, 0 outside."""
    voxels = np.linalg.solve(mask.affine, np.vstack([world, np.ones(world.shape[1])]))[:3]
    return ndimage.map_coordinates(np.asarray(mask.dataobj), voxels, order=0, cval=0)


def world_points(image: nib.Nifti1Image) -> np.ndarray:
    voxels = np.indices(image.shape).reshape(3, -1)
    return (image.affine @ np.vstack([voxels, np.ones(voxels.shape[1])]))[:3]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> nib.Nifti1Image:
    folder = tmp_path_factory.mktemp("reference")
    image = save_nifti(folder / "images" / "case.nii.gz", body(), AFFINE)
    mask = predict(image, folder / "out", folder)
    for value in (1, 2):
        assert (np.asarray(mask.dataobj) == value).sum() > 100
    return mask


@pytest.mark.parametrize("axcodes", ["LAS", "LPI", "ASR", "PSL", "SRA", "IPR"])
def test_flips_and_permutations_change_nothing_in_the_world(axcodes, reference, tmp_path):
    image = nib.Nifti1Image(body(), AFFINE)
    target = nib.orientations.axcodes2ornt(axcodes)
    stored = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(AFFINE), target)
    )
    path = tmp_path / "images" / "case.nii.gz"
    path.parent.mkdir()
    nib.save(stored, path)
    mask = predict(path, tmp_path / "out", tmp_path)
    points = world_points(reference)
    assert np.array_equal(values_at(mask, points), values_at(reference, points))


def test_a_tilted_affine_tilts_the_mask_with_the_image(reference, tmp_path):
    tilt = np.eye(4)
    tilt[:3, :3] = nib.eulerangles.euler2mat(0.3, 0.2, -0.25)
    path = save_nifti(tmp_path / "images" / "case.nii.gz", body(), tilt @ AFFINE)
    mask = predict(path, tmp_path / "out", tmp_path)
    differing = np.asarray(mask.dataobj) != np.asarray(reference.dataobj)
    assert differing.sum() == 0


@pytest.mark.parametrize(
    ("spacing", "angles", "lowest"),
    [
        ((1.0, 1.2, 1.5), (0.3, 0.2, -0.25), 0.93),
        ((0.7, 0.8, 3.5), (0.0, 0.0, 0.0), 0.85),
        ((2.2, 1.1, 0.8), (0.1, -0.3, 0.2), 0.85),
    ],
    ids=["oblique", "thick slices", "oblique and anisotropic"],
)
def test_other_grids_give_the_same_body(spacing, angles, lowest, reference, tmp_path):
    """The body resampled to another grid of the same world; its outer voxels may differ, its position may not."""
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*angles) @ np.diag(spacing)
    centre = (AFFINE @ [*(np.array(SHAPE) - 1) / 2, 1])[:3]
    shape = np.ceil(np.array([64.0, 64.0, 64.0]) / spacing).astype(int)
    affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
    grid = nib.Nifti1Image(np.zeros(shape, np.uint8), affine)
    voxels = np.linalg.solve(AFFINE, np.vstack([world_points(grid), np.ones(shape.prod())]))[:3]
    image = ndimage.map_coordinates(body(), voxels, order=1, cval=0).reshape(shape)
    path = save_nifti(tmp_path / "images" / "case.nii.gz", image.astype(np.float32), affine)
    mask = predict(path, tmp_path / "out", tmp_path)
    points = world_points(reference)
    ours, theirs = values_at(mask, points), values_at(reference, points)
    assert dice(ours > 0, theirs > 0) >= lowest
    assert dice(ours == 2, theirs == 2) >= lowest - 0.1


def test_form_codes_and_units_are_kept(tmp_path):
    image = nib.Nifti1Image(body(), AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(AFFINE, code=4)
    image.header.set_xyzt_units("mm")
    path = tmp_path / "images" / "case.nii.gz"
    path.parent.mkdir()
    nib.save(image, path)
    header = predict(path, tmp_path / "out", tmp_path).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 4)
    assert header.get_xyzt_units()[0] == "mm"


def test_nothing_of_the_header_but_its_geometry_is_copied(tmp_path):
    image = nib.Nifti1Image(body(), AFFINE)
    image.header["descrip"] = b"CANARY^NAME"
    path = tmp_path / "images" / "case.nii.gz"
    path.parent.mkdir()
    nib.save(image, path)
    header = predict(path, tmp_path / "out", tmp_path).header
    assert b"CANARY" not in header.binaryblock


def test_a_volume_smaller_than_the_patch_works(tmp_path):
    small = body()[12:30, 10:26, 6:20]
    path = save_nifti(tmp_path / "images" / "case.nii.gz", small, AFFINE)
    mask = predict(path, tmp_path / "out", tmp_path)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats_give_the_same_mask_in_theirs(suffix, reference, tmp_path):
    tilt = np.eye(4)
    tilt[:3, :3] = nib.eulerangles.euler2mat(0.3, 0.2, -0.25)
    nifti = save_nifti(tmp_path / "case.nii.gz", body(), tilt @ AFFINE)
    path = tmp_path / "images" / f"case{suffix}"
    path.parent.mkdir()
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
    run_inference(path, tmp_path / "out", tmp_path)
    found, affine = read_volume(tmp_path / "out" / f"case{suffix}")
    differing = found[0] != np.asarray(reference.dataobj)
    assert differing.sum() == 0
    assert np.array_equal(affine, read_volume(path)[1])


def test_masks_have_the_values_of_the_files(reference, tmp_path):
    path = save_nifti(tmp_path / "images" / "case.nii.gz", body(), AFFINE)
    run_inference(path, tmp_path / "out", tmp_path, label_values=[0, 128, 300])
    mask = nib.load(tmp_path / "out" / "case.nii.gz")
    expected = np.array([0, 128, 300])[np.asarray(reference.dataobj)]
    assert np.array_equal(np.asarray(mask.dataobj), expected)


def test_nnunets_names_lose_their_channel(reference, tmp_path):
    images = tmp_path / "images"
    for name in ("a", "b"):
        save_nifti(images / f"{name}_0000.nii.gz", body(), AFFINE)
    run_inference(images, tmp_path / "out", tmp_path)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.nii.gz", "b.nii.gz", "run.json"]
    mask = nib.load(tmp_path / "out" / "b.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(reference.dataobj))


def test_a_picture_keeps_its_rows_and_columns(tmp_path):
    picture = body()[:, :, 13].T
    path = save_picture(tmp_path / "images" / "case.bmp", picture.astype(np.uint8))
    flat = [[1, 1, 1], [1, 2, 2], [1, 2, 2], [1, 2, 2]]
    run_inference(path, tmp_path / "out", tmp_path, patch_size=[1, 24, 24], strides=flat)
    found = read_volume(tmp_path / "out" / "case.png")[0][0, ..., 0].T
    whole = picture.astype(np.uint8)
    expected = (whole > 35).astype(int) + (whole > 90)
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) == 3


def test_real_cases_keep_their_grid(real_data, tmp_path):
    """The geometry of real single-channel files of many orientations and spacings is preserved."""
    images = [
        real_data / "Task04_Hippocampus" / "imagesTs" / "hippocampus_118.nii.gz",
        real_data / "extra" / "spinalcord_t2_psr" / "imagesTr" / "errsm30_t2.nii.gz",
        real_data / "extra" / "spinalcord_t2s" / "imagesTr" / "errsm30_t2s.nii.gz",
    ]
    for index, image in enumerate(images):
        predict(image, tmp_path / f"out{index}", tmp_path)

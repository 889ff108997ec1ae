"""Regions become the values that nnU-Net would write, with the unchanged inference.json."""

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, save_nifti
from monai.data import MetaTensor

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.case_errors import apply_to_case
from dynunet_bundle.labels.regions_to_classes import RegionsToClassesd
from dynunet_bundle.labels.scheme import LabelScheme

VALUES = [0, 1, 2, 4]
REGIONS = {"whole": [1, 2, 4], "core": [2, 4], "enhancing": [4]}
ORDER = [1, 2, 4]
NAMES = ["background", "edema", "core", "enhancing"]
LABELS = LabelScheme(NAMES, VALUES, None, REGIONS, ORDER)


def written_by_loop(found: np.ndarray) -> np.ndarray:
    """nnU-Net's documented rule, voxel by voxel: region after region, later ones overwrite earlier ones."""
    mask = np.zeros(found.shape[1:], int)
    for voxel in np.ndindex(mask.shape):
        for region, value in enumerate(ORDER):
            if found[(region, *voxel)]:
                mask[voxel] = value
    return mask


@pytest.mark.parametrize("threshold", [0.5, 0.0])
def test_later_regions_win(threshold: float):
    rng = np.random.default_rng(0)
    outputs = torch.from_numpy(rng.normal(threshold, 1, (3, 6, 5, 4)).astype(np.float32))
    outputs[:, 0, 0, 0] = threshold  # as likely as not: nnU-Net takes that for background
    outputs[:, 0, 0, 1] = torch.nan
    transform = RegionsToClassesd("pred", LABELS, threshold)
    mask = transform({"pred": outputs})["pred"]
    assert mask.shape == (1, 6, 5, 4) and mask.dtype == torch.float32
    expected = written_by_loop(outputs.numpy() > threshold)
    assert set(np.unique(expected)) == {0, 1, 2, 4}
    assert np.array_equal(np.array(VALUES)[mask[0].numpy().astype(int)], expected)


def test_without_regions_nothing_happens():
    data = {"pred": torch.rand(3, 2, 2, 2)}
    assert RegionsToClassesd("pred", LabelScheme(NAMES, VALUES))(data)["pred"] is data["pred"]


def test_masks_keep_their_file_and_affine():
    outputs = MetaTensor(torch.rand(3, 2, 2, 2), meta={"filename_or_obj": "a.nii.gz"})
    mask = RegionsToClassesd("pred", LABELS)({"pred": outputs})["pred"]
    assert mask.meta["filename_or_obj"] == "a.nii.gz"


def test_a_mask_holds_what_the_network_found_and_zero_outside_the_crop(tmp_path):
    """Known logits through the declared postprocessing, on a grid that is not reoriented or resampled."""
    image = np.zeros((12, 10, 8), np.float32)
    box = (slice(2, 11), slice(1, 9), slice(1, 7))
    rng = np.random.default_rng(1)
    image[box] = rng.uniform(1, 2, image[box].shape)
    path = save_nifti(tmp_path / "images" / "case.nii.gz", image)
    workflow = load_workflow(
        BUNDLE,
        "inference.json",
        overrides={
            "input": str(path),
            "output_dir": str(tmp_path / "masks"),
            "axcodes": "RAS",
            "spacing": [1.0, 1.0, 1.0],
            "label_names": NAMES,
            "label_values": VALUES,
            "regions": REGIONS,
            "regions_class_order": ORDER,
            "device": "cpu",
        },
    )
    case = apply_to_case({"image": str(path)}, workflow.parser.get_parsed_content("preprocessing"))
    logits = torch.from_numpy(rng.normal(0, 4, (3, *image[box].shape)).astype(np.float32))
    assert case["image"].shape[1:] == logits.shape[1:]
    workflow.parser.get_parsed_content("postprocessing")({**case, "pred": logits})
    mask = np.asarray(nib.load(tmp_path / "masks" / "case.nii.gz").dataobj)
    expected = np.zeros(image.shape, int)
    expected[box] = written_by_loop(logits.numpy() > 0)
    assert np.array_equal(mask, expected)
    assert set(np.unique(mask)) == set(VALUES)

"""The whole preprocessing of train.json: input of the network, and the way back to the voxels of the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch
from conftest import save_nifti, save_picture, tiny_plan
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from dynunet_bundle.dataset.case_errors import apply_to_case
from dynunet_bundle.dataset.select import Case
from dynunet_bundle.images.read import read_volume
from dynunet_bundle.labels.classes import ClassesToValuesd
from dynunet_bundle.labels.scheme import LabelScheme

SHAPE = (22, 18, 14)
SPACING = (0.9, 1.1, 1.8)  # right, anterior, superior
TARGET = [1.8, 1.1, 0.9]  # the same for arrays in SAR order: no resampling

Pipeline = Callable[..., Compose]


@pytest.fixture
def pipeline(train_workflow: Callable[..., Any]) -> Pipeline:
    """The real preprocessing with overrides of the plan."""

    def load(**overrides: Any) -> Compose:
        workflow = train_workflow(**{"spacing": TARGET, **overrides})
        return workflow.parser.get_parsed_content("preprocessing")

    return load


def phantom_arrays(margin: int, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Image and label without any symmetry, axes right, anterior, superior; ``margin`` empty voxels around."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))
    label = np.zeros(shape, np.uint8)
    label[((grid - np.reshape([0.2, -0.1, 0.1], (3, 1, 1, 1))) ** 2).sum(0) < 0.35] = 1
    label[(grid[0] > 0.1) & (label > 0)] = 2
    image = (100 + 50 * label + rng.normal(0, 5, shape)).astype(np.float32)
    if margin:
        outside = np.ones(shape, bool)
        # margins of different width on the two sides
        outside[margin:-margin, margin + 1 : -margin, margin : -margin - 2] = False
        image[outside] = 0
        label[outside] = 0
    return image, label


def ras_affine(degrees: float = 0) -> np.ndarray:
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ np.diag(SPACING)
    affine[:3, 3] = [-30, 12, 400]
    return affine


def store(
    folder: Path, image: np.ndarray, label: np.ndarray, axcodes: str, affine: np.ndarray
) -> Case:
    """Save a volume with its array axes permuted and flipped to ``axcodes``, at the same world position."""
    case = {}
    for key, array in (("image", image), ("label", label)):
        turn = ornt_transform(io_orientation(affine), axcodes2ornt(axcodes))
        stored = nib.Nifti1Image(array, affine).as_reoriented(turn)
        nib.save(stored, folder / f"{key}.nii.gz")
        case[key] = str(folder / f"{key}.nii.gz")
    return case


def restore(preprocessing: Compose, prepared: dict[str, Any], prediction: torch.Tensor) -> Any:
    """Invert a prediction on the prepared grid, like the postprocessing of inference.json."""
    invert = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)
    return invert({**prepared, "pred": MetaTensor(prediction)})["pred"]


def content(image: np.ndarray) -> tuple[slice, ...]:
    """The bounding box of all nonzero voxels."""
    return tuple(slice(where.min(), where.max() + 1) for where in np.nonzero(image))


STORAGES = [
    ("RAS", 0),
    ("LPS", 0),
    ("LAS", 0),
    ("PSR", 0),
    ("SAR", 0),
    ("ILP", 0),
    ("RAS", 17),
    ("PIL", -23),
]


@pytest.mark.parametrize("margin", [0, 3])
@pytest.mark.parametrize(("axcodes", "degrees"), STORAGES)
def test_the_network_sees_the_same_however_a_case_is_stored(
    pipeline: Pipeline, tmp_path: Path, axcodes: str, degrees: float, margin: int
):
    image, label = phantom_arrays(margin)
    case = store(tmp_path, image, label, axcodes, ras_affine(degrees))
    prepared = apply_to_case(case, pipeline())
    box = content(image)
    expected = image[box].transpose(2, 1, 0).astype(np.float64)
    expected = (expected - expected.mean()) / expected.std()
    np.testing.assert_allclose(prepared["image"].numpy()[0], expected, atol=1e-4)
    np.testing.assert_array_equal(prepared["label"].numpy()[0], label[box].transpose(2, 1, 0))
    assert prepared["image"].dtype == torch.float32
    assert prepared["label"].dtype == torch.uint8


@pytest.mark.parametrize("margin", [0, 3])
@pytest.mark.parametrize(("axcodes", "degrees"), STORAGES)
def test_a_prediction_comes_back_voxel_for_voxel(
    pipeline: Pipeline, tmp_path: Path, axcodes: str, degrees: float, margin: int
):
    case = store(tmp_path, *phantom_arrays(margin), axcodes, ras_affine(degrees))
    preprocessing = pipeline()
    prepared = apply_to_case(case, preprocessing)
    # a perfect network predicts the label
    back = restore(preprocessing, prepared, prepared["label"].as_tensor().float())
    stored = nib.load(case["label"])
    np.testing.assert_array_equal(back.numpy()[0], np.asanyarray(stored.dataobj))
    assert np.allclose(np.asarray(back.affine), stored.affine, atol=1e-6)


def test_without_a_label_the_way_back_is_the_same(pipeline: Pipeline, tmp_path: Path):
    case = store(tmp_path, *phantom_arrays(3), "PSR", ras_affine(17))
    preprocessing = pipeline()
    truth = apply_to_case(case, preprocessing)["label"].as_tensor().float()
    prepared = apply_to_case({"image": case["image"]}, preprocessing)
    assert "label" not in prepared
    back = restore(preprocessing, prepared, truth)
    stored = nib.load(case["label"])
    np.testing.assert_array_equal(back.numpy()[0], np.asanyarray(stored.dataobj))


@pytest.mark.parametrize("target", [[1.0, 1.0, 1.0], [2.5, 0.8, 0.8], [4.5, 1.1, 0.9]])
def test_a_resampled_prediction_comes_back_to_the_grid_of_the_file(
    pipeline: Pipeline, tmp_path: Path, target: list[float]
):
    image, label = phantom_arrays(3, shape=(44, 36, 28))
    case = store(tmp_path, image, label, "PIL", ras_affine(17))
    preprocessing = pipeline(spacing=target)
    prepared = apply_to_case(case, preprocessing)
    box = np.array([part.stop - part.start for part in content(image)][::-1])
    expected = np.round(box * [1.8, 1.1, 0.9] / np.array(target)).tolist()
    assert list(prepared["image"].shape[1:]) == list(prepared["label"].shape[1:]) == expected
    one_hot = torch.nn.functional.one_hot(prepared["label"].as_tensor()[0].long(), 3)
    back = restore(preprocessing, prepared, one_hot.movedim(-1, 0).float())
    stored = nib.load(case["label"])
    truth = np.asanyarray(stored.dataobj)
    assert back.shape == (3, *stored.shape)
    assert np.allclose(np.asarray(back.affine), stored.affine, atol=1e-6)
    # outside the crop all classes are zero, which argmax makes background
    found = back.numpy().argmax(axis=0)
    for value in (1, 2):
        overlap = 2 * ((found == value) & (truth == value)).sum()
        assert overlap / ((found == value).sum() + (truth == value).sum()) > 0.9


def test_a_2d_plan_leaves_the_slices_as_they_are(pipeline: Pipeline, tmp_path: Path):
    image, label = phantom_arrays(0)
    case = store(tmp_path, image, label, "LPS", ras_affine())
    preprocessing = pipeline(**{**tiny_plan(2), "spacing": [2.2, 1.8]})
    prepared = apply_to_case(case, preprocessing)
    assert prepared["image"].shape == (1, 14, 9, 11)
    back = restore(preprocessing, prepared, prepared["image"].as_tensor())
    assert back.shape == (1, *SHAPE)


def test_a_case_smaller_than_the_patch(pipeline: Pipeline, tmp_path: Path):
    # padding is the feed's and the sliding window's job, not the preprocessing's
    image, label = phantom_arrays(0, shape=(6, 5, 4))
    case = store(tmp_path, image, label, "LPS", ras_affine())
    preprocessing = pipeline(patch_size=[16, 16, 16])
    prepared = apply_to_case(case, preprocessing)
    assert prepared["image"].shape == (1, 4, 5, 6)
    back = restore(preprocessing, prepared, prepared["label"].as_tensor().float())
    stored = nib.load(case["label"])
    np.testing.assert_array_equal(back.numpy()[0], np.asanyarray(stored.dataobj))


def test_negative_tissue_is_not_cropped_away(pipeline: Pipeline, tmp_path: Path):
    image, label = phantom_arrays(3)
    case = store(tmp_path, -image, label, "RAS", ras_affine())
    prepared = apply_to_case(case, pipeline())
    expected = image[content(image)].transpose(2, 1, 0)
    assert prepared["image"].shape == (1, *expected.shape)


def test_channels_are_kept_apart_and_share_one_crop(pipeline: Pipeline, tmp_path: Path):
    rng = np.random.default_rng(0)
    image = np.zeros((12, 11, 10, 2), np.float32)
    image[2:8, 3:9, 1:7, 0] = rng.normal(100, 10, (6, 6, 6))
    image[4:11, 3:9, 1:7, 1] = rng.normal(-900, 300, (7, 6, 6))  # a CT that reaches further
    case = {"image": str(save_nifti(tmp_path / "two.nii.gz", image, ras_affine()))}
    ct = {"lower": -1000.0, "upper": 0.0, "mean": -500.0, "std": 250.0}
    plan = {
        "channel_names": ["MRI", "CT"],
        "normalization": ["zscore", "ct"],
        "intensity_statistics": [None, ct],
    }
    prepared = apply_to_case(case, pipeline(**plan))["image"].numpy()
    cropped = image[2:11, 3:9, 1:7].transpose(3, 2, 1, 0)
    zscored = (cropped[0] - cropped[0].mean()) / cropped[0].std()
    np.testing.assert_allclose(prepared[0], zscored, atol=1e-4)
    np.testing.assert_allclose(prepared[1], (cropped[1].clip(-1000, 0) + 500) / 250, atol=1e-5)


GAPS = {"label_values": [0, 128, 255]}
LABELS = LabelScheme(["background", "one", "two"], GAPS["label_values"])


def test_labels_with_gaps_are_classes_to_the_network_and_come_back(
    pipeline: Pipeline, tmp_path: Path
):
    image, label = phantom_arrays(3)
    values = np.array(GAPS["label_values"], np.uint8)[label]
    plain = apply_to_case(store(tmp_path, image, label, "PSR", ras_affine(17)), pipeline())
    case = store(tmp_path, image, values, "PSR", ras_affine(17))
    preprocessing = pipeline(**GAPS)
    prepared = apply_to_case(case, preprocessing)
    np.testing.assert_array_equal(prepared["label"].numpy(), plain["label"].numpy())
    back = restore(preprocessing, prepared, prepared["label"].as_tensor().float())
    mask = ClassesToValuesd("pred", LABELS)({"pred": back})["pred"]
    stored = nib.load(case["label"])
    np.testing.assert_array_equal(mask.numpy()[0], np.asanyarray(stored.dataobj))
    assert np.allclose(np.asarray(mask.affine), stored.affine, atol=1e-6)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_the_network_sees_the_same_in_every_format(pipeline: Pipeline, tmp_path: Path, suffix: str):
    case = store(tmp_path, *phantom_arrays(3), "PIL", ras_affine(17))
    converted = {}
    for key, path in case.items():
        converted[key] = path.replace(".nii.gz", suffix)
        sitk.WriteImage(sitk.ReadImage(path), converted[key])
    expected, found = (apply_to_case(one, pipeline()) for one in (case, converted))
    np.testing.assert_array_equal(found["image"].numpy(), expected["image"].numpy())
    np.testing.assert_array_equal(found["label"].numpy(), expected["label"].numpy())


def test_channels_in_files_of_their_own_are_one_image(pipeline: Pipeline, tmp_path: Path):
    image = np.random.default_rng(0).normal(100, 20, (12, 11, 10, 2)).astype(np.float32)
    plan = {
        "channel_names": ["T1", "T2"],
        "normalization": ["zscore"] * 2,
        "intensity_statistics": [None] * 2,
    }
    whole = {"image": str(save_nifti(tmp_path / "two.nii.gz", image, ras_affine(17)))}
    files = [
        str(save_nifti(tmp_path / f"a_000{channel}.nii.gz", image[..., channel], ras_affine(17)))
        for channel in (0, 1)
    ]
    expected, found = (
        apply_to_case(case, pipeline(**plan))["image"]
        for case in (whole, {"image": files, "name": "a"})
    )
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_a_picture_and_its_mask_come_back(pipeline: Pipeline, tmp_path: Path):
    rng = np.random.default_rng(0)
    picture = rng.integers(1, 255, (20, 30, 3)).astype(np.uint8)
    mask = np.zeros((20, 30), np.uint8)
    mask[2:9, 4:25] = 128
    mask[3:5, 20:24] = 255
    case = {
        "image": str(save_picture(tmp_path / "a.bmp", picture)),
        "label": str(save_picture(tmp_path / "a.png", mask)),
    }
    plan = {
        "channel_names": ["R", "G", "B"],
        "normalization": ["rgb_to_0_1"] * 3,
        "intensity_statistics": [None] * 3,
        **tiny_plan(2),
        "spacing": [1.0, 1.0],
        **GAPS,
    }
    preprocessing = pipeline(**plan)
    prepared = apply_to_case(case, preprocessing)
    # picture axes point left and posterior, SAR's point anterior and right: the picture is turned around
    assert prepared["image"].shape == (3, 1, 20, 30)
    turned = picture[::-1, ::-1].transpose(2, 0, 1)[:, np.newaxis] / 255
    np.testing.assert_allclose(prepared["image"].numpy(), turned, atol=1e-6)
    back = restore(preprocessing, prepared, prepared["label"].as_tensor().float())
    values = ClassesToValuesd("pred", LABELS)({"pred": back})["pred"]
    np.testing.assert_array_equal(values.numpy(), read_volume(case["label"])[0])


def test_a_real_case_comes_back(pipeline: Pipeline, real_data: Path):
    folder = real_data / "Task04_Hippocampus"
    case = {
        "image": str(folder / "imagesTr/hippocampus_003.nii.gz"),
        "label": str(folder / "labelsTr/hippocampus_003.nii.gz"),
    }
    preprocessing = pipeline(spacing=[1.0, 1.0, 1.0])
    prepared = apply_to_case(case, preprocessing)
    back = restore(preprocessing, prepared, prepared["label"].as_tensor().float())
    stored = nib.load(case["label"])
    np.testing.assert_array_equal(back.numpy()[0], np.asanyarray(stored.dataobj))
    assert np.allclose(np.asarray(back.affine), stored.affine, atol=1e-6)

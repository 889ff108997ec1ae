"""Bad cases are refused with their name before anything is computed; good ones pass unchanged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save_nifti
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from dynunet_bundle.dataset.case_errors import apply_to_case
from dynunet_bundle.errors import CaseError, ConfigError
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.preprocessing.check import CheckCased
from dynunet_bundle.preprocessing.reader import ImageFileReader
from dynunet_bundle.preprocessing.recipe import recipe_of

NAMES = ["background", "organ", "lesion"]
KEYS = ("image", "label")
SHAPE = (12, 10, 8)


def check(
    image: np.ndarray,
    label: np.ndarray | None = None,
    affines: tuple[np.ndarray, np.ndarray] = (np.eye(4), np.eye(4)),
    label_values: list[int] | None = None,
    ignore_value: int | None = None,
) -> dict[str, Any]:
    """Check arrays ``[C, X, Y, Z]`` of the case "case_7" for a plan of one channel and two labels."""
    data = {}
    for key, array, affine in zip(KEYS, (image, label), affines, strict=True):
        if array is not None:
            meta = {"filename_or_obj": f"folder/{key}s/case_7.nii.gz"}
            tensor = torch.from_numpy(array)
            data[key] = MetaTensor(tensor, affine=torch.as_tensor(affine), meta=meta)
    labels = LabelScheme(NAMES, label_values or (), ignore_value)
    return CheckCased(["MRI"], labels)(data)


def good_image() -> np.ndarray:
    return np.random.default_rng(0).random((1, *SHAPE)).astype(np.float32)


def good_label() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, (1, *SHAPE)).astype(np.float32)


# --- images


def test_a_good_case_passes_unchanged():
    checked = check(good_image(), good_label())
    np.testing.assert_array_equal(checked["image"].numpy(), good_image())
    np.testing.assert_array_equal(checked["label"].numpy(), good_label())
    assert checked["label"].dtype == torch.uint8
    # still MetaTensors with file and affine, as the next transforms need
    assert isinstance(checked["label"], MetaTensor)
    assert checked["label"].meta["filename_or_obj"] == "folder/labels/case_7.nii.gz"


def test_a_case_without_label_passes():
    assert check(good_image()).keys() == {"image"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float):
    image = good_image()
    image[0, 3, 4, :2] = value
    with pytest.raises(CaseError, match=r"case case_7: its image has 2 NaN or infinite voxel"):
        check(image)


def test_a_constant_image():
    with pytest.raises(CaseError, match=r"case case_7: its image is constant \(3\.5\)"):
        check(np.full((1, *SHAPE), 3.5, np.float32))


def test_a_2d_image():
    with pytest.raises(CaseError, match=r"case case_7: its image is 2D with shape \(12, 10\)"):
        check(good_image()[..., 0])


def test_another_number_of_channels():
    with pytest.raises(CaseError, match=r"case case_7: its image has 2 channels, the plan has 1"):
        check(np.concatenate([good_image()] * 2))


# --- labels


def test_label_values_that_are_not_listed_are_counted():
    label = good_label()
    label[0, 0, 0, :3] = 7
    label[0, 0, 1, 0] = -1
    message = r"not listed: -1 \(1 voxel\), 7 \(3 voxels\); expected: 0 to 2"
    with pytest.raises(CaseError, match=f"case case_7: .*{message}"):
        check(good_image(), label)


def test_a_label_value_just_beyond_the_last():
    label = good_label()
    label[0, 0, 0, 0] = 3
    with pytest.raises(CaseError, match=r"not listed: 3 \(1 voxel\)"):
        check(good_image(), label)


def test_a_nan_in_the_label():
    label = good_label()
    label[0, 0, 0, 0] = np.nan
    with pytest.raises(CaseError, match=r"case case_7: .*nan \(1 voxel\)"):
        check(good_image(), label)


def test_a_float_label_is_rounded():
    label = np.where(good_label() == 1, np.float32(0.9999), good_label())
    checked = check(good_image(), label)["label"]
    assert checked.dtype == torch.uint8
    np.testing.assert_array_equal(checked.numpy(), good_label())


@pytest.mark.parametrize("value", [0.5, 1.3, -0.4, 1.998])
def test_a_label_between_whole_numbers(value: float):
    label = good_label()
    label[0, 5, 5, 5] = value
    with pytest.raises(CaseError, match="case case_7: .*not whole numbers"):
        check(good_image(), label)


def test_an_empty_label_passes():
    # a case without any foreground is rare but valid
    assert not check(good_image(), np.zeros((1, *SHAPE), np.float32))["label"].any()


def test_a_label_with_channels_is_refused():
    with pytest.raises(CaseError, match="case case_7"):
        check(good_image(), np.concatenate([good_label()] * 2))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0, 128, 255], torch.uint8), ([0, 5, 300], torch.int32), ([0, 1, 70_000], torch.int32)],
)
def test_values_with_gaps(values: list[int], dtype: torch.dtype):
    label = np.array(values, np.float32)[good_label().astype(int)]
    checked = check(good_image(), label - np.float32(1e-4), label_values=values)["label"]
    assert checked.dtype == dtype
    np.testing.assert_array_equal(checked.numpy(), label)


def test_a_value_in_a_gap():
    label = good_label() * 127
    label[0, 0, 0, :2] = 1
    message = r"not listed: 1 \(2 voxels\); expected: 0, 127, 254"
    with pytest.raises(CaseError, match=f"case case_7: .*{message}"):
        check(good_image(), label, label_values=[0, 127, 254])


# --- image against label


def test_different_shapes():
    message = r"different shapes, \(12, 10, 8\) and \(12, 10, 7\)"
    with pytest.raises(CaseError, match=f"case case_7: image and label have {message}"):
        check(good_image(), good_label()[..., :7])


def oblique() -> np.ndarray:
    affine = np.array([[0.8, -0.3, 0, -40], [0.3, 0.8, 0, 25], [0, 0, 3, 7], [0, 0, 0, 1]])
    return affine.astype(np.float64)


def test_a_label_that_lies_elsewhere():
    moved = oblique()
    moved[2, 3] += 6.0
    with pytest.raises(CaseError, match=r"case case_7: .*a corner 2\.0 voxels apart"):
        check(good_image(), good_label(), (oblique(), moved))


@pytest.mark.parametrize("change", ["spacing", "flip"])
def test_a_label_of_the_same_origin_but_another_grid(change: str):
    other = oblique()
    # 2 % wider voxels: only the far corner shows it
    other[:3, 0] *= 1.02 if change == "spacing" else -1
    with pytest.raises(CaseError, match="case case_7: .*at different positions"):
        check(good_image(), good_label(), (oblique(), other))


def test_affines_that_differ_by_rounding_pass():
    noise = np.random.default_rng(0).normal(0, 1e-4, (3, 4))
    noisy = oblique()
    noisy[:3] += noise
    checked = check(good_image(), good_label(), (oblique(), noisy))
    np.testing.assert_array_equal(checked["label"].numpy(), good_label())


def test_an_image_affine_without_volume_names_the_case():
    flat = np.diag([1.0, 1.0, 0.0, 1.0])
    for label, label_affine in ((None, flat), (good_label(), flat), (good_label(), np.eye(4))):
        with pytest.raises(CaseError, match="case case_7"):
            check(good_image(), label, (flat, label_affine))


# --- from files, as in the pipeline

FROM_FILES = Compose(
    [
        LoadImaged(KEYS, reader=ImageFileReader, allow_missing_keys=True),
        EnsureChannelFirstd(KEYS, allow_missing_keys=True),
        CheckCased(["MRI"], LabelScheme(NAMES)),
    ]
)


@pytest.mark.parametrize("shape", [(12, 10, 8, 3), (12, 10, 8, 1, 3), (12, 10, 1, 3)])
def test_files_of_the_wrong_kind(tmp_path: Path, shape: tuple[int, ...]):
    array = np.random.default_rng(0).random(shape).astype(np.float32)
    path = save_nifti(tmp_path / "scan_3.nii.gz", array)
    with pytest.raises(CaseError, match=r"case scan_3: its image has 3 channels"):
        apply_to_case({"image": str(path)}, FROM_FILES)


def test_a_flat_file_is_a_volume_of_one_slice(tmp_path: Path):
    array = np.random.default_rng(0).random((12, 10)).astype(np.float32)
    path = save_nifti(tmp_path / "scan_3.nii.gz", array)
    image = apply_to_case({"image": str(path)}, FROM_FILES)["image"]
    np.testing.assert_array_equal(image.numpy(), array[np.newaxis, ..., np.newaxis])


def test_a_real_image_with_the_label_of_another_case(real_data: Path):
    image = real_data / "spoiled/images/hippocampus_118.nii.gz"
    for other, shape in (("010", r"\(36, 50, 31\)"), ("281", r"\(512, 512, 94\)")):
        label = real_data / f"spoiled/labels/hippocampus_{other}.nii.gz"
        with pytest.raises(CaseError, match=rf"case hippocampus_118: .*\(37, 52, 33\) and {shape}"):
            apply_to_case({"image": str(image), "label": str(label)}, FROM_FILES)


def test_real_cases_pass(real_data: Path):
    folder = real_data / "Task04_Hippocampus"
    # 003 is one of the two whose label is stored as float32
    for name in ("hippocampus_003.nii.gz", "hippocampus_004.nii.gz"):
        case = {"image": str(folder / "imagesTr" / name), "label": str(folder / "labelsTr" / name)}
        label = apply_to_case(case, FROM_FILES)["label"]
        assert label.dtype == torch.uint8
        assert label.unique().tolist() == [0, 1, 2]


# --- regions and ignored voxels


@pytest.mark.parametrize(("ignored", "dtype"), [(3, torch.uint8), (300, torch.int32)])
def test_the_ignored_value_is_allowed(ignored: int, dtype: torch.dtype):
    label = good_label()
    label[0, :2] = ignored
    with pytest.raises(CaseError, match=f"not listed: {ignored}"):
        check(good_image(), label)
    checked = check(good_image(), label, ignore_value=ignored)["label"]
    assert checked.dtype == dtype
    np.testing.assert_array_equal(checked.numpy(), label)


# --- options of a client


@pytest.mark.parametrize(
    ("options", "device", "problem"),
    [
        (
            {"overlap": 2},
            "cpu",
            "the option overlap is 2. It must be a number, at least 0 and below 1.",
        ),
        ({"overlap": None}, "cpu", "the option overlap is None. It must be a number"),
        ({"overlap": float("nan")}, "cpu", "the option overlap is nan. It must be a number"),
        ({"overlap": "0.5"}, "cpu", "the option overlap is '0.5'. It must be a number"),
        (
            {"mirroring": "maybe"},
            "cpu",
            "the option mirroring is 'maybe'. It must be true or false.",
        ),
        ({"overlap": 0.5, "skip_empty": 1}, "cpu", "the option skip_empty is 1. It must be true"),
        ({}, "gpu", "the option device is 'gpu'. It must be a device such as cpu or cuda:0."),
        ({}, "cuda:999", 'device is "cuda:999", but this machine has'),
    ],
)
def test_a_bad_option_of_a_client_is_named_when_a_case_comes(
    options: dict[str, Any], device: str, problem: str
) -> None:
    transform = CheckCased(["MRI"], LabelScheme(NAMES), options=options, device=device)
    with pytest.raises(ConfigError) as info:
        transform({})
    assert str(info.value).startswith(problem)


def test_good_options_leave_the_recipe_as_it_is() -> None:
    plain = CheckCased(["MRI"], LabelScheme(NAMES))
    options = {"mirroring": True, "overlap": 0, "skip_empty": False, "an option of the user": 7}
    chosen = CheckCased(["MRI"], LabelScheme(NAMES), options=options, device="cpu")
    assert recipe_of(chosen) == recipe_of(plain)

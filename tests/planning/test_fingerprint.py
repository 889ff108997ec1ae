"""Facts of a data set do not depend on how its files are stored; bad files are named."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import save_nifti
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from dynunet_bundle.dataset import Case, MsdDataset, load_dataset
from dynunet_bundle.errors import BundleError, CaseError, PlanError
from dynunet_bundle.planning.fingerprint import SAMPLES_PER_CASE, Fingerprint, extract, is_ct

SHAPE = (20, 30, 12)
SPACING = (1.5, 0.8, 3.0)


def dataset(*cases: Case, channel_names: tuple[str, ...] = ("MRI",)) -> MsdDataset:
    return MsdDataset("Own", channel_names, ("background", "organ"), cases, ())


def in_ras(found: Fingerprint, table: np.ndarray) -> list[list[float]]:
    return table[:, [found.axcodes.index(axis) for axis in "RAS"]].tolist()


def in_ras_of(found: Fingerprint) -> list[list[float]]:
    return in_ras(found, found.shapes_after_crop)


def save_case(
    folder: Path,
    image: np.ndarray,
    label: np.ndarray | None = None,
    axcodes: str = "RAS",
    affine: np.ndarray | None = None,
) -> Case:
    """Store a volume whose array axes are right, anterior, superior under other axes."""
    affine = np.diag([*SPACING, 1.0]) if affine is None else affine
    case = {}
    for key, array in (("image", image), ("label", label)):
        if array is not None:
            stored = nib.Nifti1Image(array, affine)
            turn = ornt_transform(io_orientation(affine), axcodes2ornt(axcodes))
            path = folder / f"{key}_{axcodes}.nii.gz"
            nib.save(stored.as_reoriented(turn), path)
            case[key] = str(path)
    return case


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PSR", "SAR"])
def test_shapes_and_spacings_do_not_depend_on_the_storage(tmp_path: Path, axcodes: str):
    facts = extract(dataset(save_case(tmp_path, np.zeros(SHAPE, np.uint8), axcodes=axcodes)))
    assert in_ras_of(facts) == [list(SHAPE)]
    np.testing.assert_allclose(in_ras(facts, facts.spacings_mm), [SPACING], rtol=1e-6)
    assert facts.intensity_statistics == [None]


def test_an_oblique_volume_is_measured_along_its_own_axes(tmp_path: Path):
    angle = np.deg2rad(20)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(SPACING)
    facts = extract(dataset(save_case(tmp_path, np.zeros(SHAPE, np.uint8), affine=affine)))
    assert in_ras_of(facts) == [list(SHAPE)]
    np.testing.assert_allclose(in_ras(facts, facts.spacings_mm), [SPACING], rtol=1e-6)


def test_cases_stay_in_order_whatever_the_threads_do(tmp_path: Path):
    shapes = [[10 + index, 20, 30 - index] for index in range(12)]
    cases = [
        {"image": str(save_nifti(tmp_path / f"{index:02d}.nii", np.zeros(shape, np.uint8)))}
        for index, shape in enumerate(shapes)
    ]
    for num_workers in (1, 4):
        assert in_ras_of(extract(dataset(*cases), num_workers)) == shapes


def test_channels_are_not_an_axis(tmp_path: Path):
    path = save_nifti(tmp_path / "two.nii.gz", np.zeros((*SHAPE, 2), np.uint8))
    facts = extract(dataset({"image": str(path)}, channel_names=("FLAIR", "T1w")))
    assert in_ras_of(facts) == [list(SHAPE)]
    assert facts.intensity_statistics == [None, None]


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PSR"])
def test_ct_statistics_do_not_depend_on_the_storage(tmp_path: Path, axcodes: str):
    rng = np.random.default_rng(1)
    image = rng.integers(-1000, 1000, SHAPE).astype(np.int16)
    label = (rng.random(SHAPE) < 0.1).astype(np.uint8)
    case = save_case(tmp_path, image, label, axcodes)
    (found,) = extract(dataset(case, channel_names=("ct",))).intensity_statistics
    values = image[label > 0].astype(np.float64)
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-3)
    assert found["std"] == pytest.approx(values.std(), abs=1e-3)
    assert found["lower"] == pytest.approx(np.percentile(values, 0.5), abs=1e-3)
    assert found["upper"] == pytest.approx(np.percentile(values, 99.5), abs=1e-3)


def test_of_a_large_foreground_a_fixed_sample_is_taken(tmp_path: Path):
    image = np.random.default_rng(2).normal(100, 20, (50, 50, 20)).astype(np.float32)
    assert image.size > 4 * SAMPLES_PER_CASE
    case = save_case(tmp_path, image, np.ones(image.shape, np.uint8))
    (first,) = extract(dataset(case, channel_names=("CT",))).intensity_statistics
    (second,) = extract(dataset(case, channel_names=("CT",))).intensity_statistics
    assert first == second
    # five standard errors of the mean of the sample
    assert first["mean"] == pytest.approx(image.mean(), abs=5 * 20 / SAMPLES_PER_CASE**0.5)
    assert first["mean"] != pytest.approx(image.mean(), abs=1e-4)  # it is a sample


@pytest.mark.parametrize("name", ["CT", "ct", " Ct "])
def test_is_ct(name: str):
    assert is_ct(name)


@pytest.mark.parametrize("name", ["MRI", "CTA", "PET-CT", ""])
def test_is_not_ct(name: str):
    assert not is_ct(name)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((20, 30), r"shape \(20, 30\), not a 3D volume"),
        ((20, 30, 12, 1, 3), "not a 3D volume"),
        ((20, 30, 12, 3), r"3 channel\(s\), dataset\.json names 1"),
    ],
)
def test_other_than_3d_images_with_the_named_channels(
    tmp_path: Path, shape: tuple[int, ...], message: str
):
    good = save_nifti(tmp_path / "good.nii.gz", np.zeros(SHAPE, np.uint8))
    bad = save_nifti(tmp_path / "bad.nii.gz", np.zeros(shape, np.uint8))
    with pytest.raises(CaseError, match=f"case bad: its image has .*{message}"):
        extract(dataset({"image": str(good)}, {"image": str(bad)}))


def test_a_file_that_is_no_image(tmp_path: Path):
    path = tmp_path / "bad.nii.gz"
    path.write_bytes(b"oops")
    with pytest.raises(CaseError, match="case bad: cannot read its image"):
        extract(dataset({"image": str(path)}))


@pytest.mark.parametrize("key", ["image", "label"])
def test_a_truncated_ct_names_the_case(tmp_path: Path, key: str):
    # its header, all that is read of an MR, is whole
    image = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)
    case = save_case(tmp_path, image, (image > 500).astype(np.uint8))
    path = Path(case[key])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.6)])
    with pytest.raises(CaseError, match="case image_RAS: cannot read"):
        extract(dataset(case, channel_names=("CT",)))


def test_a_ct_whose_label_is_another_cases(tmp_path: Path):
    case = save_case(tmp_path, np.zeros(SHAPE, np.int16), np.ones((20, 30, 13), np.uint8))
    with pytest.raises(CaseError, match="case image_RAS: image and label have different shapes"):
        extract(dataset(case, channel_names=("CT",)))


def test_a_ct_set_without_any_foreground_is_refused(tmp_path: Path):
    case = save_case(tmp_path, np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.uint8))
    with pytest.raises(BundleError):
        extract(dataset(case, channel_names=("CT",)))


def test_one_ct_case_without_foreground_adds_nothing(tmp_path: Path):
    image = np.random.default_rng(3).integers(-1000, 1000, SHAPE).astype(np.int16)
    full = save_case(tmp_path, image, (image > 0).astype(np.uint8))
    empty = save_case(tmp_path, image, np.zeros(SHAPE, np.uint8), axcodes="LPS")
    alone = extract(dataset(full, channel_names=("CT",)))
    both = extract(dataset(full, empty, channel_names=("CT",)))
    assert both.intensity_statistics == alone.intensity_statistics


def test_the_real_hippocampi(real_data: Path):
    facts = extract(load_dataset(real_data / "Task04_Hippocampus"))
    # the facts that shared/data/README.md states
    assert np.median(np.array(in_ras_of(facts)), axis=0).tolist() == pytest.approx(
        [35, 50, 36], abs=1
    )
    assert np.array(in_ras_of(facts)).min(axis=0).tolist() >= [31, 40, 24]
    assert np.array(in_ras_of(facts)).max(axis=0).tolist() <= [43, 59, 47]
    np.testing.assert_allclose(facts.spacings_mm, 1.0)


def test_the_nonzero_crop_is_measured_and_the_coarsest_axis_comes_first(tmp_path: Path):
    image = np.zeros((20, 30, 10, 2), np.float32)
    image[4:10, 5:25, 2:8, 0] = 3
    image[4:10, 5:25, 8, 1] = -2  # negative, and in another channel
    path = save_nifti(tmp_path / "case.nii.gz", image, np.diag([1.0, 1.0, 5.0, 1.0]))
    found = extract(dataset({"image": str(path)}, channel_names=("FLAIR", "T1w")))
    assert found.axcodes == "SAR"
    assert found.shapes_after_crop.tolist() == [[7, 20, 6]]
    assert found.spacings_mm.tolist() == [[5.0, 1.0, 1.0]]
    assert found.median_relative_size == pytest.approx(7 * 20 * 6 / (20 * 30 * 10))


def test_saved_facts_are_read_back(tmp_path: Path):
    case = save_case(
        tmp_path, np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), np.ones(SHAPE, np.uint8)
    )
    found = extract(dataset(case, channel_names=("CT",)))
    again = Fingerprint.from_json(json.loads(json.dumps(found.to_json())))
    assert again.to_json() == found.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"spacings_mm": None},
        {"spacings_mm": [[1.0, 1.0]]},
        {"shapes_after_crop": [[10, 10, 10], [10, 10, 10]]},
        {"median_relative_size_after_cropping": "much"},
    ],
)
def test_incomplete_facts_are_refused(change: dict):
    whole = {
        "spacings_mm": [[1.0, 1.0, 1.0]],
        "shapes_after_crop": [[10, 10, 10]],
        "median_relative_size_after_cropping": 1.0,
        "num_channels": 2,
    }
    assert Fingerprint.from_json(whole).intensity_statistics == [None, None]
    with pytest.raises(PlanError, match="fingerprint"):
        Fingerprint.from_json({**whole, **change})

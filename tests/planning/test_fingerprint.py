"""Facts of a data set do not depend on how its files are stored; bad files are named."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import save_nifti, save_picture
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from dynunet_bundle.dataset.cases import Case
from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.dataset.select import load_dataset
from dynunet_bundle.errors import CaseError, DatasetError, PlanError
from dynunet_bundle.files import read_json
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.planning.fingerprint import FINGERPRINT_SCHEMA, Fingerprint, extract_fingerprint
from dynunet_bundle.planning.planner import planned_configurations

SHAPE = (20, 30, 12)
SPACING = (1.5, 0.8, 3.0)


def dataset(*cases: Case, channel_names: tuple[str, ...] = ("MRI",)) -> DatasetDescription:
    return DatasetDescription("Own", channel_names, LabelScheme(("background", "organ")), cases, ())


def in_ras(found: Fingerprint, table: np.ndarray) -> list[list[float]]:
    return table[:, [found.axcodes.index(axis) for axis in "RAS"]].tolist()


def in_ras_of(found: Fingerprint) -> list[list[float]]:
    return in_ras(found, found.shapes_after_crop)


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    """An image without zeros, so that the crop leaves it whole."""
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.int16)


def ball(*shape: int) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(size // 3, size // 3 + 3) for size in shape)] = 1
    return label


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
    for key, array in (("image", image), ("label", ball(*image.shape) if label is None else label)):
        stored = nib.Nifti1Image(array, affine)
        turn = ornt_transform(io_orientation(affine), axcodes2ornt(axcodes))
        path = folder / f"{key}_{axcodes}.nii.gz"
        nib.save(stored.as_reoriented(turn), path)
        case[key] = str(path)
    return case


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PSR", "SAR"])
def test_shapes_and_spacings_do_not_depend_on_the_storage(tmp_path: Path, axcodes: str):
    facts = extract_fingerprint(dataset(save_case(tmp_path, noise(*SHAPE), axcodes=axcodes)))
    assert in_ras_of(facts) == [list(SHAPE)]
    np.testing.assert_allclose(in_ras(facts, facts.spacings_mm), [SPACING], rtol=1e-6)
    assert facts.label_voxels == {0: np.prod(SHAPE) - 27, 1: 27}


def test_an_oblique_volume_is_measured_along_its_own_axes(tmp_path: Path):
    angle = np.deg2rad(20)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(SPACING)
    facts = extract_fingerprint(dataset(save_case(tmp_path, noise(*SHAPE), affine=affine)))
    assert in_ras_of(facts) == [list(SHAPE)]
    np.testing.assert_allclose(in_ras(facts, facts.spacings_mm), [SPACING], rtol=1e-6)


def test_cases_stay_in_order_whatever_the_threads_do(tmp_path: Path):
    shapes = [[10 + index, 20, 30 - index] for index in range(12)]
    cases = [
        {
            "image": str(save_nifti(tmp_path / f"{index:02d}.nii", noise(*shape))),
            "label": str(save_nifti(tmp_path / f"m{index:02d}.nii", ball(*shape))),
        }
        for index, shape in enumerate(shapes)
    ]
    for num_workers in (1, 4):
        assert in_ras_of(extract_fingerprint(dataset(*cases), num_workers)) == shapes


def test_channels_are_not_an_axis(tmp_path: Path):
    image = save_nifti(tmp_path / "two.nii.gz", noise(*SHAPE, 2))
    label = save_nifti(tmp_path / "label.nii.gz", ball(*SHAPE))
    case = {"image": str(image), "label": str(label)}
    facts = extract_fingerprint(dataset(case, channel_names=("FLAIR", "T1w")))
    assert in_ras_of(facts) == [list(SHAPE)]
    assert len(facts.intensities) == 2


def test_a_test_case_adds_no_facts(tmp_path: Path):
    training = save_case(tmp_path, noise(*SHAPE))
    test = {"image": str(save_nifti(tmp_path / "t.nii.gz", noise(50, 50, 50)))}
    facts = extract_fingerprint(replace(dataset(training), test=(test,)))
    assert in_ras_of(facts) == [list(SHAPE)]


# --- intensities


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PSR"])
@pytest.mark.parametrize("channel_name", ["ct", "MRI"])
def test_statistics_do_not_depend_on_the_storage(tmp_path: Path, axcodes: str, channel_name: str):
    rng = np.random.default_rng(1)
    image = rng.integers(-1000, 1000, SHAPE).astype(np.int16)
    label = (rng.random(SHAPE) < 0.1).astype(np.uint8)
    case = save_case(tmp_path, image, label, axcodes)
    (found,) = extract_fingerprint(dataset(case, channel_names=(channel_name,))).intensities
    values = image[label > 0].astype(np.float64)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["std"] == pytest.approx(values.std())
    for name, share in {"percentile_00_5": 0.5, "median": 50, "percentile_99_5": 99.5}.items():
        assert found[name] == np.percentile(values, share, method="inverted_cdf")
    assert (found["min"], found["max"]) == (values.min(), values.max())


def test_of_a_large_foreground_every_voxel_counts(tmp_path: Path):
    image = np.random.default_rng(2).normal(100, 20, (50, 50, 20)).astype(np.float32)
    case = save_case(tmp_path, image, np.ones(image.shape, np.uint8))
    (found,) = extract_fingerprint(dataset(case, channel_names=("CT",))).intensities
    assert found["mean"] == pytest.approx(image.mean(dtype=np.float64), rel=1e-9)
    assert found["std"] == pytest.approx(image.std(dtype=np.float64), rel=1e-6)


def test_each_case_weighs_the_same_in_every_channel(tmp_path: Path):
    cases, means = [], []
    for index, voxels in enumerate((8, 400)):
        image = noise(*SHAPE, 2, seed=index) + np.int16(1000 * index)
        label = np.zeros(SHAPE, np.uint8)
        label.reshape(-1)[100 : 100 + voxels] = 1
        means.append(image[label > 0].mean(axis=0, dtype=np.float64))
        cases.append(
            {
                "image": str(save_nifti(tmp_path / f"{index}.nii.gz", image)),
                "label": str(save_nifti(tmp_path / f"m{index}.nii.gz", label)),
            }
        )
    facts = extract_fingerprint(dataset(*cases, channel_names=("CT", "PET")))
    found = [one["mean"] for one in facts.intensities]
    assert found == pytest.approx(np.mean(means, axis=0).tolist())
    assert facts.label_voxels[1] == 408


def test_a_set_without_any_foreground_is_refused(tmp_path: Path):
    case = save_case(tmp_path, noise(*SHAPE), np.zeros(SHAPE, np.uint8))
    with pytest.raises(DatasetError, match="no label has any foreground"):
        extract_fingerprint(dataset(case))


def test_one_case_without_foreground_adds_nothing(tmp_path: Path):
    full = save_case(tmp_path, noise(*SHAPE))
    empty = save_case(tmp_path, noise(*SHAPE), np.zeros(SHAPE, np.uint8), axcodes="LPS")
    alone, both = extract_fingerprint(dataset(full)), extract_fingerprint(dataset(full, empty))
    assert both.intensities == alone.intensities
    assert both.label_voxels == {0: 2 * np.prod(SHAPE) - 27, 1: 27}


# --- cases that cannot be used


@pytest.mark.parametrize("shape", [(20, 30, 12, 3), (20, 30, 12, 1, 3), (20, 30, 1, 3)])
def test_another_number_of_channels_than_named(tmp_path: Path, shape: tuple[int, ...]):
    good = save_case(tmp_path, noise(*SHAPE))
    bad = {
        "image": str(save_nifti(tmp_path / "bad.nii.gz", noise(*shape))),
        "label": str(save_nifti(tmp_path / "label.nii.gz", ball(*shape[:3]))),
    }
    with pytest.raises(CaseError, match=r"case bad: its image has 3 channels, the plan has 1"):
        extract_fingerprint(dataset(good, bad))


def test_channels_that_differ_between_cases_without_names(tmp_path: Path):
    one = save_case(tmp_path, noise(*SHAPE))
    two = {**one, "image": str(save_nifti(tmp_path / "two.nii.gz", noise(*SHAPE, 2)))}
    two["label"] = str(save_nifti(tmp_path / "label.nii.gz", ball(*SHAPE)))
    with pytest.raises(DatasetError, match="the images have 1 or 2 channels"):
        extract_fingerprint(DatasetDescription("Plain", (), LabelScheme(()), (one, two), ()))


def test_a_constant_image(tmp_path: Path):
    case = save_case(tmp_path, np.full(SHAPE, 7, np.int16))
    with pytest.raises(CaseError, match=r"case image_RAS: its image is constant \(7\)"):
        extract_fingerprint(dataset(case))


def test_a_file_that_is_not_an_image(tmp_path: Path):
    case = save_case(tmp_path, noise(*SHAPE))
    path = tmp_path / "bad.nii.gz"
    path.write_bytes(b"oops")
    with pytest.raises(CaseError, match=r"case bad: cannot read bad\.nii\.gz"):
        extract_fingerprint(dataset({**case, "image": str(path)}))


@pytest.mark.parametrize("key", ["image", "label"])
def test_a_truncated_file_names_the_case(tmp_path: Path, key: str):
    case = save_case(tmp_path, noise(*SHAPE))
    path = Path(case[key])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.6)])
    with pytest.raises(CaseError, match="case image_RAS: cannot read"):
        extract_fingerprint(dataset(case))


def test_a_label_of_another_case(tmp_path: Path):
    case = save_case(tmp_path, noise(*SHAPE), np.ones((20, 30, 13), np.uint8))
    with pytest.raises(CaseError, match="case image_RAS: image and label have different shapes"):
        extract_fingerprint(dataset(case))


def test_all_bad_cases_are_in_the_log_before_the_first_is_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    cases = []
    for name in ("a", "b"):
        image = save_nifti(tmp_path / f"{name}.nii.gz", np.full(SHAPE, 7, np.int16))
        label = save_nifti(tmp_path / f"m{name}.nii.gz", ball(*SHAPE))
        cases.append({"image": str(image), "label": str(label)})
    with caplog.at_level(logging.INFO), pytest.raises(CaseError, match="case a: .*constant"):
        extract_fingerprint(dataset(*cases))
    assert "2 cases: 2 errors, 1 warning" in caplog.text
    assert "error    b  its image is constant" in caplog.text


# --- axes


@pytest.mark.parametrize(("axis", "axcodes"), [(0, "RSA"), (1, "ASR"), (2, "SAR")])
def test_single_slices_are_cut_along_those_slices(tmp_path: Path, axis: int, axcodes: str):
    # their slice thickness says nothing: here it is finer than the voxels in the plane
    shape, spacing = [20, 24, 28], np.ones(3)
    shape[axis], spacing[axis] = 1, 0.1
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(0, min(3, size)) for size in shape)] = 1
    affine = np.diag([*spacing, 1.0])
    facts = extract_fingerprint(dataset(save_case(tmp_path, noise(*shape), label, affine=affine)))
    assert facts.axcodes == axcodes
    assert facts.shapes_after_crop[0, 0] == 1
    assert facts.spacings_mm[0].tolist() == pytest.approx([0.1, 1, 1])


def test_pictures_are_cut_along_their_one_slice(tmp_path: Path):
    picture = noise(30, 40).astype(np.uint8) + np.uint8(1)
    mask = np.zeros((30, 40), np.uint8)
    mask[3:9, 5:20] = 255
    case = {
        "image": str(save_picture(tmp_path / "a.png", np.maximum(picture, 1))),
        "label": str(save_picture(tmp_path / "m.png", mask)),
    }
    facts = extract_fingerprint(DatasetDescription("Cells", (), LabelScheme(()), (case,), ()))
    assert facts.axcodes == "SAR"
    assert facts.shapes_after_crop.tolist() == [[1, 30, 40]]
    assert facts.label_voxels == {0: 1200 - 90, 255: 90}


def test_the_nonzero_crop_is_measured_and_the_coarsest_axis_comes_first(tmp_path: Path):
    image = np.zeros((20, 30, 10, 2), np.float32)
    image[4:10, 5:25, 2:8, 0] = 3
    image[4:10, 5:25, 8, 1] = -2  # negative, and in another channel
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    case = {
        "image": str(save_nifti(tmp_path / "case.nii.gz", image, affine)),
        "label": str(save_nifti(tmp_path / "label.nii.gz", ball(20, 30, 10), affine)),
    }
    found = extract_fingerprint(dataset(case, channel_names=("FLAIR", "T1w")))
    assert found.axcodes == "SAR"
    assert found.shapes_after_crop.tolist() == [[7, 20, 6]]
    assert found.spacings_mm.tolist() == [[5.0, 1.0, 1.0]]
    assert found.median_relative_size == pytest.approx(7 * 20 * 6 / (20 * 30 * 10))


# --- saved facts


def test_saved_facts_are_read_back(tmp_path: Path):
    found = extract_fingerprint(dataset(save_case(tmp_path, noise(*SHAPE)), channel_names=("CT",)))
    again = Fingerprint.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert again.to_json() == found.to_json()
    assert again.label_voxels == found.label_voxels
    assert again.intensities == found.intensities


@pytest.mark.parametrize(
    "change",
    [
        {"spacings_mm": None},
        {"spacings_mm": [[1.0, 1.0]]},
        {"spacings_mm": [[1.0, 0.0, 1.0]]},
        {"spacings_mm": [[1.0, float("nan"), 1.0]]},
        {"shapes_after_crop": [[10, 10, 10], [10, 10, 10]]},
        {"shapes_after_crop": [[10, 0, 10]]},
        {"median_relative_size_after_cropping": "much"},
        {"axcodes": "XYZ"},
        {"label_voxels": [1, 2]},
        {"label_voxels": {"one": 5}},
    ],
)
def test_incomplete_facts_are_refused(tmp_path: Path, change: dict[str, Any]):
    whole = {
        "spacings_mm": [[1.0, 1.0, 1.0]],
        "shapes_after_crop": [[10, 10, 10]],
        "median_relative_size_after_cropping": 1.0,
        "num_channels": 2,
    }
    path = tmp_path / "facts.json"

    def read(content: Any) -> Fingerprint:
        path.write_text(json.dumps(content))
        return Fingerprint.from_json(read_json(path, PlanError, FINGERPRINT_SCHEMA))

    facts = read(whole)
    assert (facts.axcodes, facts.intensities, facts.label_voxels) == ("SAR", [], {})
    with pytest.raises(PlanError, match="fingerprint"):
        read({**whole, **change})


# --- real sets


def test_the_real_hippocampi(real_data: Path, tmp_path: Path):
    facts = extract_fingerprint(load_dataset(real_data / "Task04_Hippocampus"), cache_dir=tmp_path)
    # the facts that the notes on these data state
    assert np.median(np.array(in_ras_of(facts)), axis=0).tolist() == pytest.approx(
        [35, 50, 36], abs=1
    )
    assert np.array(in_ras_of(facts)).min(axis=0).tolist() >= [31, 40, 24]
    assert np.array(in_ras_of(facts)).max(axis=0).tolist() <= [43, 59, 47]
    np.testing.assert_allclose(facts.spacings_mm, 1.0)
    assert set(facts.label_voxels) == {0, 1, 2}


def test_a_real_set_stored_under_other_axes(real_data: Path):
    facts = extract_fingerprint(load_dataset(real_data / "extra" / "spinalcord_t2_psr"))
    # 60x55x52 voxels, posterior, superior, right: isotropic, so superior comes first
    assert facts.axcodes == "SAR"
    assert facts.shapes_after_crop.tolist() == [[55, 60, 52]]
    assert facts.label_voxels[1] == 4275


@pytest.mark.parametrize(
    ("given", "axcodes", "target"),
    [
        ((3.0, 1.0, 1.0), "SAR", (3.0, 1.0, 1.0)),
        ((1.0, 3.0, 2.0), "ASR", (3.0, 1.0, 2.0)),
        ((1.0, 2.0, 3.0), "RSA", (3.0, 1.0, 2.0)),
        ((1.0, 1.0, 1.0), "SAR", (1.0, 1.0, 1.0)),
    ],
)
def test_a_target_spacing_is_in_the_order_of_nnunets_arrays(
    given: tuple[float, ...], axcodes: str, target: tuple[float, ...]
) -> None:
    spacings, shapes = np.array([[0.9, 0.8, 0.7]] * 3), np.array([[40, 50, 60]] * 3)
    found = Fingerprint("SAR", spacings, shapes, 1.0, []).aimed_at(given)
    assert (found.axcodes, found.target_mm) == (axcodes, target)
    by_axis = dict(zip(found.axcodes, found.spacings_mm[0], strict=True))
    assert by_axis == {"S": 0.9, "A": 0.8, "R": 0.7}
    planned = planned_configurations(found, 3)
    assert planned["3d_fullres"].spacing == list(target)
    assert planned["2d"].spacing == list(target[1:])


def test_the_axis_of_single_slices_stays_first() -> None:
    spacings, shapes = np.array([[1.0, 0.8, 0.7]] * 3), np.array([[1, 50, 60]] * 3)
    found = Fingerprint("ASR", spacings, shapes, 1.0, []).aimed_at((2.0, 1.0, 0.5))
    assert (found.axcodes, found.target_mm) == ("ASR", (1.0, 2.0, 0.5))
    assert planned_configurations(found, 3)["2d"].spacing == [2.0, 0.5]

"""All problems of a data set at once, in one table."""

import gzip
import json
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
from conftest import run_script, save_nifti, save_picture

from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.dataset.select import load_dataset
from dynunet_bundle.images.read import Volume
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.survey.findings import (
    Finding,
    case_findings,
    dataset_findings,
    duplicate_findings,
    format_findings,
)
from dynunet_bundle.survey.survey import all_findings, survey_dataset


def findings_of(dataset: DatasetDescription, num_workers: int = 4) -> list[Finding]:
    return all_findings(survey_dataset(dataset, num_workers))


def spoil(data: Path) -> None:
    """Six phantoms: a NaN and a wrong value in one, shapes, an empty label, a copy, a shear; one stays good."""
    images, labels = data / "imagesTr", data / "labelsTr"

    def change(folder: Path, index: int, edit, affine=None) -> None:
        path = folder / f"phantom_{index:03d}.nii.gz"
        image = nib.load(path)
        array = np.asarray(image.dataobj).copy()
        save_nifti(path, edit(array), image.affine if affine is None else affine(image.affine))

    def put(value: float, where: tuple):
        def edit(array: np.ndarray) -> np.ndarray:
            array[where] = value
            return array

        return edit

    def sheared(affine: np.ndarray) -> np.ndarray:
        turned = affine.copy()
        turned[:3, 0] += 0.3 * affine[:3, 1]
        return turned

    change(images, 0, put(np.nan, (1, 1, 1)))
    change(labels, 0, put(9, (0, 0, slice(0, 3))))
    change(labels, 1, lambda array: array[:-1])
    change(labels, 2, np.zeros_like)
    (images / "phantom_004.nii.gz").write_bytes((images / "phantom_003.nii.gz").read_bytes())
    (labels / "phantom_004.nii.gz").write_bytes((labels / "phantom_003.nii.gz").read_bytes())
    for folder in (images, labels):
        change(folder, 5, lambda array: array, sheared)


@pytest.fixture
def spoilt(own_phantom: Path) -> DatasetDescription:
    spoil(own_phantom)
    return load_dataset(own_phantom)


def test_a_good_data_set_has_no_findings(phantom):
    dataset = load_dataset(phantom)
    assert findings_of(dataset) == []
    assert format_findings([], 8) == "8 cases: 0 errors, 0 warnings"


def test_every_problem_of_every_case_is_found(spoilt):
    findings = findings_of(spoilt, num_workers=2)
    found = {(finding.case[-3:], finding.severity, finding.problem) for finding in findings}
    expected = [
        ("000", "error", "NaN"),
        ("000", "error", "9 (3 voxels)"),
        ("001", "error", "different shapes"),
        ("002", "warning", "label is empty"),
        ("003", "warning", "identical to that of phantom_004"),
        ("005", "warning", "image: the axes of its affine are not orthogonal"),
        ("005", "warning", "label: the axes of its affine are not orthogonal"),
    ]
    assert len(found) == len(expected)
    for case, severity, words in expected:
        assert any(one[:2] == (case, severity) and words in one[2] for one in found), (case, words)
    table = format_findings(findings, 8).splitlines()
    assert table[-1] == "8 cases: 3 errors, 4 warnings"
    assert [row.split()[0] for row in table[:-1]] == ["error"] * 3 + ["warning"] * 4


def test_forms_that_disagree_are_a_warning(own_phantom):
    path = own_phantom / "imagesTr" / "phantom_000.nii.gz"
    image = nib.load(path)
    moved = image.affine.copy()
    moved[0, 3] += 5
    image.set_qform(moved, code=1)
    image.set_sform(image.affine, code=1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    (finding,) = findings_of(load_dataset(own_phantom))
    assert finding.severity == "warning"
    assert "sform and qform differ" in finding.problem


def edit_header(path: Path, edit) -> None:
    """Change bytes of an uncompressed header, as nibabel would not write it."""
    image = nib.load(path)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    edit(raw, image)
    path.write_bytes(gzip.compress(raw))


@pytest.mark.parametrize("sizes", [(0, 0, 0), (1, 0, 1), (1, -2, 1), None])
@pytest.mark.parametrize("form", [False, True])
def test_missing_forms_and_sizes_are_warnings(own_phantom, sizes, form):
    def edit(raw: bytearray, image) -> None:
        if not form:
            raw[252:256] = bytes(4)  # qform_code and sform_code
        if sizes is not None:
            raw[80:92] = struct.pack("<3f", *sizes)

    for folder in ("imagesTr", "labelsTr"):
        edit_header(own_phantom / folder / "phantom_000.nii.gz", edit)
    findings = findings_of(load_dataset(own_phantom))
    assert {finding.severity for finding in findings} <= {"warning"}
    text = " ".join(finding.problem for finding in findings)
    assert text.count("qform_code and sform_code are 0") == 2 * (not form)
    size, how = ("-2", "its absolute value, 2 mm, is taken")
    if sizes is not None and 0 in sizes:
        size, how = ("0", "it is taken for 1 mm")
    how = "the sform gives it" if form else how
    assert text.count(f"(pixdim) is {size}; {how}") == 2 * (sizes is not None)
    assert text.count("(pixdim)") == 2 * (sizes is not None)


@pytest.mark.parametrize("kind", ["beside", "inside", "ignored"])
def test_a_label_off_its_image_is_a_warning(own_phantom, kind):
    dataset = load_dataset(own_phantom)
    image = np.zeros((8, 8, 8), np.int16)
    image[:4] = np.arange(1, 257).reshape(4, 8, 8)
    label = np.zeros((8, 8, 8), np.uint8)
    label[5:] = 1
    ignore = 2 if kind == "ignored" else None
    if kind == "inside":
        label[3, 7, 7] = 1
    if kind == "ignored":
        label[:2] = 2
        dataset = dataset.named(["MRI"], LabelScheme(["background", "a"], [0, 1], ignore))
    volumes = Volume(image[None], np.eye(4)), Volume(label[None], np.eye(4))
    found = case_findings("x", *volumes, {}, dataset)
    outside = [finding for finding in found if "wholly outside the nonzero part" in finding.problem]
    assert len(outside) == (kind != "inside")
    assert all(finding.severity == "warning" for finding in found)


def test_what_dataset_json_does_not_list_is_a_warning(own_phantom):
    assert load_dataset(own_phantom).notes == ()
    content = json.loads((own_phantom / "dataset.json").read_text())
    content["training"] = content["training"][1:4]
    (own_phantom / "dataset.json").write_text(json.dumps(content), encoding="utf-8-sig")
    result = run_script("check_dataset", own_phantom)
    assert result.returncode == 0, result.stderr
    for text in (
        '"numTraining" is 6, but it lists 3 training cases',
        "imagesTr has 3 unlisted images: phantom_000.nii.gz, phantom_004.nii.gz",
        "labelsTr has 3 unlisted labels: phantom_000.nii.gz",
        "5 cases: 0 errors, 3 warnings",
    ):
        assert text in result.stdout


def test_a_damaged_file_does_not_hide_the_others(spoilt, own_phantom):
    path = own_phantom / "imagesTr" / "phantom_004.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    findings = findings_of(spoilt)
    assert any(f.case == "phantom_004" and "cannot read" in f.problem for f in findings)
    assert any(f.case == "phantom_001" for f in findings)


def test_the_script_prints_a_table_or_json(phantom, own_phantom):
    good = run_script("check_dataset", phantom)
    assert (good.returncode, good.stdout.strip()) == (0, "8 cases: 0 errors, 0 warnings")
    spoil(own_phantom)
    bad = run_script("check_dataset", own_phantom, "--json")
    assert bad.returncode == 2
    assert {finding["case"] for finding in json.loads(bad.stdout)} >= {"phantom_000", "phantom_001"}


def test_real_files_that_do_not_match_are_errors(real_data):
    spoiled = real_data / "spoiled"
    cases = tuple(
        {
            "image": str(spoiled / "images" / "hippocampus_118.nii.gz"),
            "label": str(spoiled / "labels" / f"{label}.nii.gz"),
        }
        for label in ("hippocampus_010", "hippocampus_281")
    )
    dataset = DatasetDescription(
        "Spoiled", ("MRI",), LabelScheme(("background", "a", "b")), cases, ()
    )
    errors = [one for one in findings_of(dataset) if one.severity == "error"]
    assert len(errors) == 2
    assert all("different shapes" in one.problem for one in errors)


def test_a_constant_channel_is_a_warning(tmp_path: Path):
    image = np.random.default_rng(0).random((6, 5, 4, 2), np.float32)
    image[..., 1] = 3
    label = np.ones((6, 5, 4), np.uint8)
    case = {
        "image": str(save_nifti(tmp_path / "a.nii.gz", image)),
        "label": str(save_nifti(tmp_path / "m.nii.gz", label)),
    }
    dataset = DatasetDescription(
        "Own", ("T1", "T2"), LabelScheme(("background", "organ")), (case,), ()
    )
    (finding,) = findings_of(dataset)
    assert finding.severity == "warning"
    assert finding.problem == "channel 1 of its image is constant (3)"


def test_channels_in_separate_files_are_named(tmp_path: Path):
    array = np.random.default_rng(0).random((6, 5, 4), np.float32)
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    files = [
        str(save_nifti(tmp_path / f"a_000{channel}.nii.gz", array, sheared)) for channel in (0, 1)
    ]
    label = save_nifti(tmp_path / "m.nii.gz", np.ones((6, 5, 4), np.uint8), sheared)
    case = {"image": files, "label": str(label), "name": "a"}
    dataset = DatasetDescription(
        "Own", ("T1", "T2"), LabelScheme(("background", "organ")), (case,), ()
    )
    findings = findings_of(dataset)
    assert [finding.case for finding in findings] == ["a"] * 3
    assert [finding.problem.split(":")[0] for finding in findings] == [
        "image 0",
        "image 1",
        "label",
    ]


def test_channels_of_one_name_are_a_warning(own_phantom):
    path = own_phantom / "dataset.json"
    content = {**json.loads(path.read_text()), "modality": {"0": "T1", "1": "T2", "2": "T1"}}
    path.write_text(json.dumps(content))
    (found,) = [
        finding.problem
        for finding in dataset_findings(load_dataset(own_phantom))
        if "name" in finding.problem
    ]
    assert found == 'channels 0 and 2 have the same name, "T1"'


def test_channels_on_different_grids_are_an_error_of_the_case(tmp_path: Path):
    files = [
        str(save_nifti(tmp_path / f"{name}.nii.gz", np.ones((6, 5, size), np.uint8)))
        for name, size in (("flair", 4), ("t1", 3))
    ]
    label = str(save_nifti(tmp_path / "m.nii.gz", np.ones((6, 5, 4), np.uint8)))
    cases = ({"image": files, "label": label, "name": "patient"},)
    dataset = DatasetDescription(
        "Own", ("FLAIR", "T1"), LabelScheme(("background", "organ")), cases, ()
    )
    (finding,) = findings_of(dataset)
    assert (finding.case, finding.severity) == ("patient", "error")
    assert "flair.nii.gz and t1.nii.gz have shapes" in finding.problem


@pytest.mark.parametrize("suffix", [".png", ".nrrd"])
def test_only_nifti_headers_have_two_forms_to_compare(tmp_path: Path, suffix: str):
    array = np.random.default_rng(0).integers(1, 200, (8, 9)).astype(np.uint8)
    paths = [tmp_path / f"{name}{suffix}" for name in ("a", "m")]
    for path, values in zip(paths, (array, array > 100), strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.uint8)), str(path))
    case = dict(zip(("image", "label"), map(str, paths), strict=True))
    assert findings_of(DatasetDescription("Own", (), LabelScheme(()), (case,), ())) == []


def test_a_photograph_in_the_place_of_a_mask(tmp_path: Path):
    rng = np.random.default_rng(0)
    image = rng.integers(1, 255, (30, 40, 3)).astype(np.uint8)
    image[..., 0] = np.arange(1200).reshape(30, 40) % 254 + 1
    for name, mask in (("a", image[..., 0]), ("b", image)):
        save_picture(tmp_path / "images" / f"{name}.png", image + np.uint8(len(name)))
        save_picture(tmp_path / "labels" / f"{name}.png", mask)
    findings = findings_of(load_dataset(tmp_path))
    errors = [(one.case, one.problem) for one in findings if one.severity == "error"]
    values = "its label has 254 different values from 1 to 254"
    assert errors == [("a", values), ("b", "its label has 3 channels"), ("b", values)]


def test_duplicates_give_one_warning_per_group():
    digests = [("a", "1"), ("b", "2"), ("c", "1"), ("d", ""), ("e", ""), ("f", "1")]
    (finding,) = duplicate_findings(digests)
    assert finding.case == "a"
    assert finding.problem == "its image is identical to that of c, f"


def test_real_pictures_have_no_errors(real_data):
    for folder in ("em_2d_grey", "wbc_2d_rgb"):
        findings = findings_of(load_dataset(real_data / "extra" / folder))
        assert [finding for finding in findings if finding.severity == "error"] == []


def test_labels_that_ignore_much_or_all(own_phantom):
    content = json.loads((own_phantom / "dataset.json").read_text())
    content["labels"]["9"] = "ignore"
    (own_phantom / "dataset.json").write_text(json.dumps(content))
    for index, value in ((0, 9), (1, 0), (2, 9)):
        path = own_phantom / "labelsTr" / f"phantom_{index:03d}.nii.gz"
        image = nib.load(path)
        label = np.asarray(image.dataobj).copy()
        label[:] = value
        if index == 2:
            label[0] = 0  # labelled, but empty
        save_nifti(path, label, image.affine)
    found = findings_of(load_dataset(own_phantom))
    assert [(finding.case, finding.severity) for finding in found] == [
        (f"phantom_{index:03d}", "warning") for index in range(3)
    ]
    assert "all voxels of its label are ignored" in found[0].problem
    assert all("empty" in finding.problem for finding in found[1:])

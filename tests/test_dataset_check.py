"""All problems of a data set at once, in one table."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import run_script, save_nifti

from dynunet_bundle.dataset import MsdDataset, load_dataset
from dynunet_bundle.dataset_check import check_dataset, format_findings


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
def spoilt(own_phantom: Path) -> MsdDataset:
    spoil(own_phantom)
    return load_dataset(own_phantom)


def test_a_good_data_set_has_no_findings(phantom):
    dataset = load_dataset(phantom)
    assert check_dataset(dataset) == []
    assert format_findings([], 8) == "8 cases: 0 error(s), 0 warning(s)"


def test_every_problem_of_every_case_is_found(spoilt):
    findings = check_dataset(spoilt, num_workers=2)
    found = {(finding.case[-3:], finding.severity, finding.problem) for finding in findings}
    expected = [
        ("000", "error", "NaN"),
        ("000", "error", "9 (3 voxels)"),
        ("001", "error", "different shapes"),
        ("002", "warning", "label is empty"),
        ("003", "warning", "the same as that of phantom_004"),
        ("005", "warning", "image: the axes of its affine are not at right angles"),
        ("005", "warning", "label: the axes of its affine are not at right angles"),
    ]
    assert len(found) == len(expected)
    for case, severity, words in expected:
        assert any(one[:2] == (case, severity) and words in one[2] for one in found), (case, words)
    table = format_findings(findings, 8).splitlines()
    assert table[-1] == "8 cases: 3 error(s), 4 warning(s)"
    assert [row.split()[0] for row in table[:-1]] == ["error"] * 3 + ["warning"] * 4


def test_forms_that_disagree_are_a_warning(own_phantom):
    path = own_phantom / "imagesTr" / "phantom_000.nii.gz"
    image = nib.load(path)
    moved = image.affine.copy()
    moved[0, 3] += 5
    image.set_qform(moved, code=1)
    image.set_sform(image.affine, code=1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    (finding,) = check_dataset(load_dataset(own_phantom))
    assert finding.severity == "warning"
    assert "sform and qform differ" in finding.problem


def test_a_damaged_file_does_not_hide_the_others(spoilt, own_phantom):
    path = own_phantom / "imagesTr" / "phantom_004.nii.gz"
    path.write_bytes(path.read_bytes()[:500])
    findings = check_dataset(spoilt)
    assert any(f.case == "phantom_004" and "cannot read" in f.problem for f in findings)
    assert any(f.case == "phantom_001" for f in findings)


def test_the_script_tells_people_and_machines(phantom, own_phantom):
    good = run_script("check_dataset", phantom)
    assert (good.returncode, good.stdout.strip()) == (0, "8 cases: 0 error(s), 0 warning(s)")
    spoil(own_phantom)
    bad = run_script("check_dataset", own_phantom, "--json")
    assert bad.returncode == 2
    assert {finding["case"] for finding in json.loads(bad.stdout)} >= {"phantom_000", "phantom_001"}


def test_real_misfits(real_data):
    spoiled = real_data / "spoiled"
    cases = tuple(
        {
            "image": str(spoiled / "images" / "hippocampus_118.nii.gz"),
            "label": str(spoiled / "labels" / f"{label}.nii.gz"),
        }
        for label in ("hippocampus_010", "hippocampus_281")
    )
    dataset = MsdDataset("Spoiled", ("MRI",), ("background", "a", "b"), cases, ())
    errors = [one for one in check_dataset(dataset) if one.severity == "error"]
    assert len(errors) == 2
    assert all("different shapes" in one.problem for one in errors)

"""Cases and their names, links, and errors that name the case."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import save_nifti, save_picture, touch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from monai.utils import ImageMetaKey

from dynunet_bundle.dataset.case_errors import apply_to_case
from dynunet_bundle.dataset.cases import (
    META_FILE_NAME,
    all_files,
    file_identity,
    name_of,
    unique_stem,
)
from dynunet_bundle.errors import BundleError, CaseError, FailedStepError
from dynunet_bundle.preprocessing.raw_dataset import RawDataset
from dynunet_bundle.preprocessing.reader import ImageFileReader

# --- names and files


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ({"image": "/data/t_01.nii.gz"}, "t_01"),
        ({"image": "/data/t_01.x.nrrd", "label": "/data/other.nrrd"}, "t_01.x"),
        ({"image": "/data/scan_0000.nii.gz"}, "scan_0000"),
        ({"image": ["/data/t_0000.png", "/data/t_0001.png"]}, "t_0000"),
        ({"image": ["/data/t_0000.png", "/data/t_0001.png"], "name": "t"}, "t"),
        ({"image": MetaTensor(np.zeros(2), meta={"filename_or_obj": "/data/t_2.mha"})}, "t_2"),
        ({"image": MetaTensor(np.zeros(2)), "name": "t"}, "t"),
    ],
)
def test_names(case: dict[str, Any], name: str):
    assert name_of(case) == name


def test_the_key_of_the_file_is_monais():
    assert META_FILE_NAME == ImageMetaKey.FILENAME_OR_OBJ


def test_files_by_role():
    assert all_files({"image": "a.png"}) == {"image": "a.png"}
    assert all_files({"image": ["a.png"], "label": "m.png"}) == {"image": "a.png", "label": "m.png"}
    assert all_files({"image": ["a.png", "b.png"], "label": "m.png"}) == {
        "image 0": "a.png",
        "image 1": "b.png",
        "label": "m.png",
    }


def test_identity_shows_every_change_of_every_file(tmp_path: Path):
    case = {
        "image": [str(touch(tmp_path, "a_0000.png")), str(touch(tmp_path, "a_0001.png"))],
        "label": str(touch(tmp_path, "a.png")),
    }
    seen = [file_identity(case)]
    assert file_identity(case) == seen[0]
    for path in all_files(case).values():
        Path(path).write_text("longer")
        seen.append(file_identity(case))
        modified = os.stat(path).st_mtime_ns
        os.utime(path, ns=(modified, modified + 1))
        seen.append(file_identity(case))
    assert all(one != other for index, one in enumerate(seen) for other in seen[:index])
    Path(case["image"][1]).unlink()
    with pytest.raises(CaseError, match=r"case a_0000: .*a_0001\.png is missing"):
        file_identity(case)


def test_results_of_two_cases_with_the_same_name_have_different_names():
    stems = [
        unique_stem(case)
        for case in (
            {"image": "/one/a.png"},
            {"image": "/two/a.png"},
            {"image": ["/one/a_0000.png", "/one/a_0001.png"], "name": "a"},
        )
    ]
    assert len(set(stems)) == 3
    assert all(stem.startswith("a-") for stem in stems)
    assert unique_stem({"image": "/one/a.png", "label": "/x.png"}) == stems[0]


# --- apply_to_case

LOAD = Compose([LoadImaged(("image", "label"), reader=ImageFileReader, allow_missing_keys=True)])


def damaged(path: Path, share: float) -> Path:
    """A truncated image."""
    array = np.random.default_rng(0).integers(1, 100, (12, 10, 8)).astype(np.int16)
    if ".nii" in path.name:
        save_nifti(path, array)
    elif path.suffix in (".png", ".bmp", ".tif"):
        save_picture(path, np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8))
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "nrrd", "mha", "png", "bmp", "tif"])
@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 0.95])
def test_a_truncated_file_names_the_case(tmp_path: Path, suffix: str, share: float):
    case = {"image": str(damaged(tmp_path / f"case_7.{suffix}", share))}
    message = rf"case case_7: (cannot read case_7\.{suffix} |it is truncated).*Replace"
    with pytest.raises(CaseError, match=message) as info:
        apply_to_case(case, LOAD)
    assert info.value.case == "case_7"
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("suffix", ["nrrd", "png", "bmp"])
def test_a_file_that_is_not_an_image(tmp_path: Path, suffix: str):
    path = tmp_path / f"case_7.{suffix}"
    path.write_text("oops" * 100)
    with pytest.raises(CaseError, match=rf"case case_7: cannot read case_7\.{suffix}") as info:
        apply_to_case({"image": str(path)}, LOAD)
    # SimpleITK's message starts with a position in its own source
    assert "Exception thrown" not in str(info.value)


def test_a_truncated_label_names_the_case_and_both_files(tmp_path: Path):
    image = save_nifti(tmp_path / "case_7.nii.gz", np.ones((12, 10, 8), np.uint8))
    label = damaged(tmp_path / "case_7_seg.nii.gz", 0.5)
    with pytest.raises(CaseError, match=r"case case_7:.*case_7\.nii\.gz, case_7_seg\.nii\.gz"):
        apply_to_case({"image": str(image), "label": str(label)}, LOAD)


def test_a_truncated_channel_names_the_case_and_all_its_files(tmp_path: Path):
    whole = save_nifti(tmp_path / "c_0000.nii.gz", np.ones((12, 10, 8), np.uint8))
    half = damaged(tmp_path / "c_0001.nii.gz", 0.5)
    with pytest.raises(CaseError, match=r"case c: cannot read c_0000\.nii\.gz, c_0001\.nii\.gz"):
        apply_to_case({"image": [str(whole), str(half)], "name": "c"}, LOAD)


def test_the_error_of_a_transform_is_passed_on():
    own = CaseError("case_7", "it is flat", "Blow it up.")

    def find_fault(data: Any) -> Any:
        raise own

    for transform in (find_fault, Compose([find_fault])):  # Compose wraps it in a RuntimeError
        with pytest.raises(CaseError) as info:
            apply_to_case({"image": "case_7.nii.gz"}, transform)
        assert info.value is own


def test_a_bug_in_a_transform_stays_a_bug():
    transform = Compose([EnsureChannelFirstd("image")])
    with pytest.raises(FailedStepError, match="case case_7: EnsureChannelFirstd failed") as info:
        apply_to_case({"image": "case_7.nii.gz"}, transform)
    assert info.value.exit_code == 1
    assert re.search(r"\(\w+Error in \w+\.py, line \d+\)", str(info.value))


def test_who_looks_for_a_bug_gets_all_that_it_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MONAI_DEBUG", "1")
    with pytest.raises(Exception, match="Metadata not available") as info:
        apply_to_case({"image": "case_7.nii.gz"}, Compose([EnsureChannelFirstd("image")]))
    assert not isinstance(info.value, BundleError)


def test_raw_dataset_gives_the_transformed_case_or_names_the_bad_one(tmp_path: Path):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    good = {"image": str(save_nifti(tmp_path / "good.nii.gz", array))}
    bad = {"image": str(damaged(tmp_path / "bad.nii.gz", 0.5))}
    dataset = RawDataset([good, bad], LOAD)
    assert len(dataset) == 2
    np.testing.assert_array_equal(dataset[0]["image"].numpy(), array[np.newaxis])
    with pytest.raises(CaseError, match="case bad: cannot read"):
        dataset[1]

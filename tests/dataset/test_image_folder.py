"""The images of a folder as cases: channels in separate files, incomplete cases, strays, links."""

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import save_nifti, save_picture, touch
from monai.transforms import Compose, LoadImaged

from dynunet_bundle.dataset.cases import absolute, all_files, list_images, name_of
from dynunet_bundle.dataset.image_folder import find_images, group_channels
from dynunet_bundle.errors import CaseError, DatasetError
from dynunet_bundle.preprocessing.raw_dataset import FAILURE, RawDataset
from dynunet_bundle.preprocessing.reader import ImageFileReader

LOAD = Compose([LoadImaged("image", reader=ImageFileReader)])


def test_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = touch(tmp_path, "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert find_images("a.nii.gz") == [{"image": str(path)}]


def test_all_images_of_a_folder_and_nothing_else(tmp_path: Path):
    kinds = ("b.nii", "a.NII.GZ", "c.nii.gz", "d.nrrd", "e.nhdr", "f.mha", "g.mhd")
    pictures = ("h.png", "i.bmp", "j.tif", "k.TIFF")
    touch(tmp_path, *kinds, *pictures)
    # macOS's resource fork of a.nii.gz, a killed write, the data of e.nhdr and g.mhd, other files, deeper folders
    touch(tmp_path, "._a.nii.gz", ".d.nii.gz", "e.raw", "g.zraw", "l.txt", "x.dcm", "n.jpg")
    touch(tmp_path, "deeper/e.nii.gz")
    expected = [{"image": str(tmp_path / name)} for name in sorted((*kinds, *pictures))]
    assert find_images(tmp_path) == expected


def test_a_folder_named_like_an_image_is_not_an_image(tmp_path: Path):
    touch(tmp_path, "a.nii.gz")
    (tmp_path / "b.nii.gz").mkdir()  # what some unpackers make of b.nii.gz
    assert find_images(tmp_path) == [{"image": str(tmp_path / "a.nii.gz")}]


def test_no_images(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"nowhere does not exist.*--input"):
        find_images(tmp_path / "nowhere")
    touch(tmp_path, "notes.txt")
    with pytest.raises(DatasetError, match="contains no image"):
        find_images(tmp_path)


def test_an_input_that_is_not_an_image(tmp_path: Path):
    with pytest.raises(CaseError, match=r"case scan: scan\.dcm is not an image file.*\.nrrd"):
        find_images(touch(tmp_path, "scan.dcm"))


def test_two_images_that_would_have_one_result(tmp_path: Path):
    touch(tmp_path, "a.nii", "a.nii.gz", "b.nii")
    with pytest.raises(DatasetError, match="has duplicate case names: a"):
        find_images(tmp_path)


def test_channels_of_a_case_belong_together_where_the_plan_has_as_many(tmp_path: Path):
    files = [f"{case}_000{channel}.nii.gz" for case in ("a", "a_1", "b") for channel in (0, 1)]
    touch(tmp_path, *files)
    found = find_images(tmp_path, num_channels=2)
    assert [name_of(case) for case in found] == ["a", "a_1", "b"]
    assert found[1]["image"] == [str(tmp_path / file) for file in files[2:4]]
    for other in (1, 3):
        assert find_images(tmp_path, other) == [{"image": str(tmp_path / file)} for file in files]


def test_one_channel_of_nnunet_loses_its_number(tmp_path: Path):
    touch(tmp_path, "a_0000.nii.gz", "b_0000.nii.gz")
    assert find_images(tmp_path, num_channels=1)[0] == {
        "image": [str(tmp_path / "a_0000.nii.gz")],
        "name": "a",
    }
    # four channels in one file are not a layout of nnU-Net
    assert find_images(tmp_path, num_channels=4)[0] == {"image": str(tmp_path / "a_0000.nii.gz")}


def test_a_picture_of_nnunet_holds_all_its_colours(tmp_path: Path):
    touch(tmp_path, "a_0000.png", "b_0000.png")
    found = find_images(tmp_path, num_channels=3)
    assert found[1] == {"image": [str(tmp_path / "b_0000.png")], "name": "b"}


@pytest.mark.parametrize(
    ("files", "others"),
    [
        (["a_0000.png", "b.png"], ["b.png"]),
        (["a_0000.png", "a_0002.png"], []),
        (["a_0001.png", "a_0002.png"], []),
        (["a_000.png", "a_001.png"], ["a_000.png", "a_001.png"]),
        (["_0000.png", "_0001.png"], ["_0000.png", "_0001.png"]),
    ],
)
def test_the_number_in_a_name_says_which_files_are_channels(files: list[str], others: list[str]):
    groups, rest = group_channels([Path(file) for file in files])
    assert [file.name for file in rest] == others
    grouped = {
        number: file.name for channels in groups.values() for number, file in channels.items()
    }
    assert grouped == {int(file[2:6]): file for file in files if file not in others}


# --- incomplete cases and strays

BLOCK = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def volumes(folder: Path, *names: str, channels: int = 1) -> None:
    array = BLOCK if channels == 1 else np.stack([BLOCK] * channels, axis=-1)
    for name in names:
        save_nifti(folder / f"{name}.nii.gz", array)


def found_by_name(folder: Path, num_channels: int) -> dict[str, list[str]]:
    return {
        name_of(case): [Path(file).name.split(".")[0] for file in all_files(case).values()]
        for case in find_images(folder, num_channels)
    }


COMPLETE = {"a": ["a_0000", "a_0001"], "c_1": ["c_1_0000", "c_1_0001"]}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["b_0000"], {"b": ["b_0000", "b_0001"]}),
        (["b_0001"], {"b": ["b_0000", "b_0001"]}),
        (["notes"], {"notes": ["notes"]}),
        (["b_0000", "b_0003"], {"b": ["b_0000", "b_0001"], "b_0003": ["b_0003"]}),
        (["b_12"], {"b_12": ["b_12"]}),
    ],
)
def test_an_incomplete_case_or_a_stray_changes_no_other(
    tmp_path: Path, more: list[str], expected: dict[str, list[str]]
):
    volumes(tmp_path, *COMPLETE["a"], *COMPLETE["c_1"])
    assert found_by_name(tmp_path, 2) == COMPLETE
    volumes(tmp_path, *more)
    assert found_by_name(tmp_path, 2) == COMPLETE | expected


def test_the_error_of_an_incomplete_case_names_the_channel(tmp_path: Path):
    volumes(tmp_path, "a_0000", "a_0002")
    (case,) = find_images(tmp_path, 3)
    failure = RawDataset([case], LOAD, tolerant=True)[0][FAILURE]
    assert str(failure) == (
        "case a: channel 1 is missing: cannot find a_0001.nii.gz. Add the file, or move the case away."
    )


@pytest.mark.parametrize("beside", [[], ["b_0000"], ["other"], ["b_0000", "b_0001"]])
def test_the_name_of_one_channel_does_not_depend_on_other_cases(tmp_path: Path, beside: list[str]):
    volumes(tmp_path, "a_0000", *beside)
    assert found_by_name(tmp_path, 1)["a"] == ["a_0000"]


def test_files_with_all_channels_keep_their_numbers(tmp_path: Path):
    volumes(tmp_path, "case_0000", "case_0001", "case_0007", channels=3)
    assert found_by_name(tmp_path, 3) == {
        name: [name] for name in ("case_0000", "case_0001", "case_0007")
    }
    for number in range(2):
        save_picture(tmp_path / "movie" / f"f_{number:04d}.png", np.zeros((4, 5, 3), np.uint8))
    assert list(found_by_name(tmp_path / "movie", 3)) == ["f_0000", "f_0001"]


def test_a_name_of_channels_and_of_a_file(tmp_path: Path):
    volumes(tmp_path, "a_0000", "a_0001", "a")
    with pytest.raises(DatasetError, match="duplicate case names: a"):
        find_images(tmp_path, 2)


# --- links


def test_a_case_has_the_name_of_the_link_not_of_its_target(tmp_path: Path):
    inside = tmp_path / "in"
    inside.mkdir()
    for name, target in (("p1", "d1/t1.nii.gz"), ("p2", "d2/t1.nii.gz"), ("p3", "x/SHA256E-s10")):
        touch(tmp_path, target)
        (inside / f"{name}.nii.gz").symlink_to(Path("..") / target)
    expected = [{"image": str(inside / f"p{number}.nii.gz")} for number in (1, 2, 3)]
    assert find_images(inside) == expected
    assert find_images(inside / "p3.nii.gz") == expected[2:]
    (tmp_path / "linked").symlink_to(inside)
    assert find_images(tmp_path / "linked")[0]["image"] == str(tmp_path / "linked" / "p1.nii.gz")


def test_a_link_without_its_target_is_a_case_that_fails(tmp_path: Path):
    (tmp_path / "a.nii.gz").symlink_to(".git/annex/objects/SHA256E-s10--abc")
    assert list_images(tmp_path) == [tmp_path / "a.nii.gz"]
    (case,) = find_images(tmp_path)
    with pytest.raises(
        CaseError, match=r"case a: cannot find a\.nii\.gz, the target .*git annex get"
    ):
        RawDataset([case], LOAD)[0]


def test_absolute_keeps_links_but_not_what_is_before_two_dots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    monkeypatch.chdir(tmp_path)
    assert absolute("link") == tmp_path / "link"
    assert absolute("link/../x") == tmp_path / "far" / "x"
    assert absolute(".") == tmp_path
    assert absolute(f"{tmp_path}{os.sep}link/./x") == tmp_path / "link" / "x"

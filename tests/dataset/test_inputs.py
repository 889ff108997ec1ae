"""The user's input of a prediction: an image, a folder, a JSON list."""

import json
from pathlib import Path

import pytest
from conftest import touch

from dynunet_bundle.dataset.inputs import find_inputs
from dynunet_bundle.dataset.select import load_dataset
from dynunet_bundle.dicom_input.names import is_series_name
from dynunet_bundle.errors import DatasetError


def listed(folder: Path, content) -> Path:
    path = folder / "list.json"
    path.write_text(json.dumps(content))
    return path


def test_a_list_of_files_channels_and_names(tmp_path):
    items = [
        "a.nii.gz",
        ["b_t1.nii.gz", "sub/b_t2.nii.gz"],
        {"image": "/data/c.nrrd", "name": "third"},
    ]
    assert find_inputs(listed(tmp_path, items)) == [
        {"image": str(tmp_path / "a.nii.gz")},
        {"image": [str(tmp_path / "b_t1.nii.gz"), str(tmp_path / "sub" / "b_t2.nii.gz")]},
        {"image": "/data/c.nrrd", "name": "third"},
    ]


@pytest.mark.parametrize("key", ["test", "testing"])
def test_a_dataset_json_lists_its_test_images(tmp_path, key):
    content = {"name": "x", key: ["./imagesTs/a.nii.gz"]}
    assert find_inputs(listed(tmp_path, content)) == [
        {"image": str(tmp_path / "imagesTs" / "a.nii.gz")}
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"should be non-empty\. Give a list of images"),
        ({"training": ["a.nii.gz"]}, "'testing' is a required .* Give a list of images"),
        ([3], r"\[0\]: 3 is not of type"),
        (["a.nii.gz", {"name": "b"}], r"\[1\]: 'image' is a required property"),
        ([[]], r"\[0\]: \[\] should be non-empty"),
        ([{"image": "a.nii.gz", "name": "../b"}], "not a path"),
        (["x/a.nii.gz", "y/a.nii.gz"], "duplicate case names: a"),
    ],
)
def test_a_malformed_list_is_refused_by_its_item(tmp_path, content, message):
    with pytest.raises(DatasetError, match=message):
        find_inputs(listed(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    [[""], [["a.nii.gz", ""]], [{"image": ""}], {"test": [""]}, {"test": [{"image": ""}]}],
)
def test_an_empty_path_is_not_a_path(tmp_path, content, monkeypatch):
    touch(tmp_path, "scan.dcm")
    monkeypatch.chdir(tmp_path)
    assert is_series_name(".")
    with pytest.raises(DatasetError, match="'' is not a path"):
        find_inputs(listed(tmp_path, content))
    with pytest.raises(DatasetError, match="a path is empty"):
        find_inputs("")
    assert not is_series_name("")
    with pytest.raises(DatasetError, match="a path is empty"):
        load_dataset("")


def test_a_dataset_json_of_one_folder_a_patient_and_of_nnunets_raw_form(tmp_path):
    touch(tmp_path, "p1/t1.nii.gz", "p2/t1.nii.gz", "x_0000.nii.gz", "x_0001.nii.gz")
    found = find_inputs(listed(tmp_path, {"test": ["p1/t1.nii.gz", "./p2/t1.nii.gz"]}))
    assert [case["name"] for case in found] == ["p1", "p2"]
    (case,) = find_inputs(listed(tmp_path, {"test": ["./x.nii.gz"]}), num_channels=2)
    assert case["name"] == "x"
    assert [Path(file).name for file in case["image"]] == ["x_0000.nii.gz", "x_0001.nii.gz"]


def test_a_list_keeps_the_names_of_links(tmp_path):
    for number in (1, 2):
        touch(tmp_path, f"d{number}/t1.nii.gz")
        (tmp_path / f"p{number}.nii.gz").symlink_to(f"d{number}/t1.nii.gz")
    found = find_inputs(listed(tmp_path, ["p1.nii.gz", "p2.nii.gz"]))
    assert found == [{"image": str(tmp_path / f"p{number}.nii.gz")} for number in (1, 2)]


def test_a_file_and_a_folder_still_work(tmp_path):
    touch(tmp_path / "in", "a.nii.gz", "b.nrrd")
    assert [Path(case["image"]).name for case in find_inputs(tmp_path / "in")] == [
        "a.nii.gz",
        "b.nrrd",
    ]
    assert len(find_inputs(tmp_path / "in" / "a.nii.gz")) == 1


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_a_missing_input_is_an_error(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=name):
        find_inputs(tmp_path / name)

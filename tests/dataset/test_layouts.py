"""The Decathlon's layout, nnU-Net's, and plain folders all become the same description."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import touch

from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.dataset.reference_labels import labels_by_case
from dynunet_bundle.dataset.select import load_dataset
from dynunet_bundle.errors import CaseError, DatasetError
from dynunet_bundle.labels.scheme import LabelScheme

MakeDataset = Callable[..., Path]


def names(cases: tuple[dict[str, Any], ...]) -> list[str]:
    return [name_of(case) for case in cases]


# --- the Decathlon's


def test_a_valid_data_set(make_dataset: MakeDataset):
    root = make_dataset()
    dataset = load_dataset(root)
    assert dataset.name == "Task77_Thing"
    assert dataset.channel_names == ("FLAIR", "T1w")
    assert dataset.labels.names == ("background", "edema", "tumour")
    assert dataset.labels.values == (0, 1, 2)
    assert dataset.training == tuple(
        {
            "image": str(root / f"imagesTr/t_0{i}.nii.gz"),
            "label": str(root / f"labelsTr/t_0{i}.nii.gz"),
        }
        for i in range(3)
    )
    assert [Path(case["image"]).name for case in dataset.test] == ["t_90.nii.gz", "t_91.nii.gz"]
    assert all(case.keys() == {"image"} for case in dataset.test)


def test_more_than_ten_labels_are_in_order_of_their_numbers(make_dataset: MakeDataset):
    labels = {str(value): f"organ {value}" for value in range(12)}
    dataset = load_dataset(make_dataset(labels=labels))
    assert dataset.labels.names[9:] == ("organ 9", "organ 10", "organ 11")
    assert dataset.labels.values == tuple(range(12))


@pytest.mark.parametrize(
    "labels",
    [
        {"255": "nucleus", "0": "background", "128": "cytoplasm"},
        {"nucleus": 255, "background": 0, "cytoplasm": 128},
    ],
    ids=["value to name", "name to value"],
)
def test_label_tables_with_gaps_in_both_forms(make_dataset: MakeDataset, labels: dict[str, Any]):
    dataset = load_dataset(make_dataset(labels=labels))
    assert dataset.labels.values == (0, 128, 255)
    assert dataset.labels.names == ("background", "cytoplasm", "nucleus")


def test_test_cases_are_optional_and_may_be_objects(make_dataset: MakeDataset):
    assert load_dataset(make_dataset(test=None)).test == ()
    entries = [{"image": "./imagesTs/t_90.nii.gz", "label": "never/looked/at.nii.gz"}]
    (case,) = load_dataset(make_dataset(test=entries)).test
    assert case.keys() == {"image"}


def test_channels_in_separate_files(make_dataset: MakeDataset):
    files = ["./imagesTr/t_00.nii.gz", "./imagesTr/t_01.nii.gz"]
    root = make_dataset(training=[{"image": files, "label": "./labelsTr/t_00.nii.gz"}])
    (case,) = load_dataset(root).training
    assert case["image"] == [str(root / "imagesTr/t_00.nii.gz"), str(root / "imagesTr/t_01.nii.gz")]


@pytest.mark.parametrize("numbers", [[0], [0, 1], [7]])
def test_names_that_end_like_channels_stay_whole(make_dataset: MakeDataset, numbers: list[int]):
    # the Decathlon's own names end in three digits, others' in four
    entries = [
        {
            "image": f"./imagesTr/scan_{number:04d}.nii.gz",
            "label": f"./labelsTr/scan_{number:04d}.nii.gz",
        }
        for number in numbers
    ]
    root = make_dataset()
    touch(root, *(path for entry in entries for path in entry.values()))
    dataset = load_dataset(make_dataset(training=entries))
    assert names(dataset.training) == [f"scan_{number:04d}" for number in numbers]
    assert dataset.training[0]["image"] == str(root / entries[0]["image"])


def test_a_folder_that_does_not_exist(tmp_path: Path):
    with pytest.raises(DatasetError, match=rf"{tmp_path}/DATA does not exist.*--dataset_dir") as e:
        load_dataset(tmp_path / "DATA")
    assert "has no dataset.json" not in str(e.value)
    with pytest.raises(DatasetError, match=r"a\.zip is a file"):
        load_dataset(touch(tmp_path, "a.zip"))


def test_a_folder_of_an_unknown_layout(tmp_path: Path):
    with pytest.raises(DatasetError, match=rf"{tmp_path} is empty.*--dataset_dir.*imagesTr"):
        load_dataset(tmp_path)
    own = touch(tmp_path, "notes.txt")
    with pytest.raises(DatasetError, match=rf"{tmp_path} has no dataset\.json.*--dataset_dir"):
        load_dataset(tmp_path)
    image = touch(tmp_path, "case.nii.gz")
    with pytest.raises(DatasetError, match=r"has images, but no dataset\.json.*imagesTr"):
        load_dataset(tmp_path)
    own.unlink()
    image.unlink()
    (tmp_path / "images").mkdir()  # no labels
    with pytest.raises(DatasetError, match=r"no dataset\.json.*images and labels"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{oops", "not valid JSON"), ("[1]", "is not of type 'object'")]
)
def test_a_dataset_json_that_is_not_an_object(make_dataset: MakeDataset, text: str, message: str):
    root = make_dataset()
    (root / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=rf"dataset\.json.*{message}"):
        load_dataset(root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": None}, "'modality' is a required property"),
        ({"labels": None}, "'labels' is a required property"),
        ({"labels": {}}, "labels: {} should be non-empty"),
        ({"labels": ["background", "edema"]}, "labels: .* not of type 'object'"),
        ({"labels": {"1": "a", "2": "b"}}, r'"labels" must give .* the background 0'),
        ({"labels": {"-1": "a", "0": "b"}}, r'"labels" must give .* the background 0'),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "give each class a different value"),
        ({"labels": {"0": "a", "00": "b"}}, "give each class a different value"),
        ({"labels": {"background": "zero", "edema": "one"}}, "values that are not whole numbers"),
        ({"labels": {"0": "a", "1.5": "b"}}, "values that are not whole numbers"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "need regions_class_order"),
        ({"labels": {"background": 0, "edema": 1, "ignore": 1}}, "ignore_value is 1"),
        ({"modality": {"1": "MRI"}}, '"modality" must be numbered'),
        ({"modality": {"0": "a", "2": "b"}}, r'"modality" must be numbered 0\.\.1 without gaps'),
        ({"training": {"image": "x"}}, "training: .* not of type 'array'"),
        ({"training": None}, "'training' is a required property"),
        ({"training": []}, "lists no training cases"),
        ({"training": ["./imagesTr/t_00.nii.gz"]}, r"training\[0\]: .* not of type 'object'"),
        ({"training": [{"image": "a.nii.gz"}]}, r"training\[0\]: 'label' is a required"),
        ({"training": [{"image": "a.nii.gz", "label": 3}]}, r"training\[0\]\.label: 3 is not"),
        ({"training": [{"image": "a.nii.gz", "label": ["b"]}]}, r"training\[0\]\.label: .* not of"),
        ({"training": [{"image": [], "label": "b.nii.gz"}]}, r"training\[0\]\.image: .*non-empty"),
        ({"training": [{"image": ["a", 3], "label": "b"}]}, r"training\[0\]\.image\[1\]: 3 is not"),
        ({"training": [7]}, r"training\[0\]: 7 is not of type 'object'"),
        ({"test": 4}, "test: 4 is not of type 'array'"),
        ({"test": [{"label": "x"}]}, r"test\[0\]: 'image' is a required property"),
    ],
)
def test_malformed_dataset_json(make_dataset: MakeDataset, changes: dict[str, Any], message: str):
    with pytest.raises(DatasetError, match=rf"dataset\.json.*{message}"):
        load_dataset(make_dataset(**changes))


def test_a_case_that_is_listed_twice(make_dataset: MakeDataset):
    twice = {"image": "./imagesTr/t_01.nii.gz", "label": "./labelsTr/t_01.nii.gz"}
    # two files of the same name are the same case in any folder, since results are named by the file
    other = {"image": "./more/t_01.nii", "label": "./labelsTr/t_00.nii.gz"}
    for entries in ([twice, twice], [twice, other]):
        with pytest.raises(DatasetError, match='"training" has duplicate case names: t_01'):
            load_dataset(make_dataset(training=entries))


def test_missing_files_are_counted_and_listed(make_dataset: MakeDataset):
    root = make_dataset(num_cases=8)
    (root / "labelsTr/t_02.nii.gz").unlink()
    (root / "imagesTs/t_90.nii.gz").unlink()
    with pytest.raises(CaseError, match=r"case t_02: 2 missing files") as info:
        load_dataset(root)
    assert str(root / "labelsTr/t_02.nii.gz") in str(info.value)
    assert str(root / "imagesTs/t_90.nii.gz") in str(info.value)
    for index in range(8):
        (root / f"imagesTr/t_{index:02d}.nii.gz").unlink()
    with pytest.raises(CaseError, match=r"10 missing files.* and 5 more"):
        load_dataset(root)


def test_a_missing_channel_is_listed(make_dataset: MakeDataset):
    files = ["./imagesTr/t_00.nii.gz", "./imagesTr/gone.nii.gz"]
    root = make_dataset(training=[{"image": files, "label": "./labelsTr/t_00.nii.gz"}])
    with pytest.raises(CaseError, match=r"case t_00: 1 missing file .*gone\.nii\.gz"):
        load_dataset(root)


def listed(root: Path, *pairs: tuple[Any, str], **names: str) -> Path:
    """A data set of these images and labels, as empty files, with one channel; ``names`` by number of the entry."""
    entries = [{"image": image, "label": label} for image, label in pairs]
    for number, name in names.items():
        entries[int(number.removeprefix("entry_"))]["name"] = name
    for image, label in pairs:
        touch(root, *(image if isinstance(image, list) else [image]), label)
    content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "a"}}
    (root / "dataset.json").write_text(json.dumps(content | {"training": entries}))
    return root


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("i/img00.nii.gz", "l/label00.nii.gz")], ["img00"]),
        ([("i/c_00_0000.nii.gz", "l/c_00.nii.gz")], ["c_00"]),
        ([(["i/c_0000.nii.gz", "i/c_0001.nii.gz"], "l/c.nii.gz")], ["c"]),
        ([("p1/t1.nii.gz", "p1/seg.nii.gz"), ("p2/t1.nii.gz", "p2/seg.nii.gz")], ["p1", "p2"]),
        ([("p1/i/t.nii.gz", "p1/l/t.nii.gz"), ("p2/i/t.nii.gz", "p2/l/t.nii.gz")], ["p1", "p2"]),
        (
            [("a/p1/t.nii.gz", "a/p1/s.nii.gz"), ("b/p1/t.nii.gz", "b/p1/s.nii.gz")],
            ["a_p1", "b_p1"],
        ),
        ([("p1/x.nii.gz", "p1/s.nii.gz"), ("p2/y.nii.gz", "p2/s.nii.gz")], ["x", "y"]),
    ],
)
def test_pairs_of_different_names(tmp_path: Path, pairs: list[Any], expected: list[str]):
    dataset = load_dataset(listed(tmp_path, *pairs))
    assert names(dataset.training) == expected
    labels = [str(tmp_path / label) for _, label in pairs]
    assert [case["label"] for case in dataset.training] == labels
    assert list(labels_by_case(tmp_path).items()) == list(zip(expected, labels, strict=True))


def test_the_name_of_an_entry_is_honoured(tmp_path: Path):
    pairs = [("p1/t1.nii.gz", "p1/seg.nii.gz"), ("p2/t1.nii.gz", "p2/seg.nii.gz")]
    dataset = load_dataset(listed(tmp_path, *pairs, entry_0="first", entry_1="second"))
    assert names(dataset.training) == ["first", "second"]
    with pytest.raises(DatasetError, match=r"training\[1\] has the name '\.\./x'.*not a path"):
        load_dataset(listed(tmp_path, *pairs, entry_1="../x"))
    with pytest.raises(DatasetError, match="duplicate case names: x"):
        load_dataset(listed(tmp_path, *pairs, entry_0="x", entry_1="x"))


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (["p3/t1.nii.gz"], ["p3"]),
        (["p3/t1.nii.gz", "p4/t1.nii.gz"], ["p3", "p4"]),
        (["ts/x.nii.gz"], ["x"]),
    ],
)
def test_a_file_name_that_cases_share_names_no_test_case(
    tmp_path: Path, test: list[str], expected: list[str]
):
    root = listed(tmp_path, ("p1/t1.nii.gz", "p1/seg.nii.gz"), ("p2/t1.nii.gz", "p2/seg.nii.gz"))
    touch(root, *test)
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(content | {"test": test}))
    assert names(load_dataset(root).test) == expected


def test_nnunets_raw_form_is_read(make_dataset: MakeDataset):
    root = make_dataset(num_cases=3)
    for file in [*(root / "imagesTr").iterdir(), *(root / "imagesTs").iterdir()]:
        for channel in (0, 1):
            touch(file.parent, file.name.replace(".nii", f"_{channel:04d}.nii"))
        file.unlink()
    dataset = load_dataset(root)
    assert names(dataset.training) == ["t_00", "t_01", "t_02"]
    assert names(dataset.test) == ["t_90", "t_91"]
    files = [root / f"imagesTr/t_01_000{channel}.nii.gz" for channel in (0, 1)]
    assert dataset.training[1]["image"] == list(map(str, files))
    files[1].unlink()
    with pytest.raises(CaseError, match=r"case t_01: 1 missing file .*t_01_0001\.nii\.gz"):
        load_dataset(root)


def test_a_linked_data_set_has_the_name_of_the_link(make_dataset: MakeDataset, tmp_path: Path):
    root = make_dataset()
    root.rename(tmp_path / "a81b")
    (tmp_path / "Task05_Own").symlink_to("a81b")
    dataset = load_dataset(tmp_path / "Task05_Own")
    assert dataset.name == "Task05_Own"
    assert dataset.training[0]["image"].startswith(str(tmp_path / "Task05_Own"))


def test_a_link_to_a_missing_file_says_fetch(make_dataset: MakeDataset):
    root = make_dataset()
    file = root / "imagesTr" / "t_01.nii.gz"
    file.unlink()
    file.symlink_to("../.dvc/cache/ab/cdef")
    with pytest.raises(CaseError, match=r"case t_01: 1 missing file.*dvc pull"):
        load_dataset(root)


# --- nnU-Net's


@pytest.fixture
def nnunet(tmp_path: Path) -> MakeDataset:
    """Write a data set in nnU-Net's layout with the given empty files; keywords replace keys of dataset.json."""

    def make(*files: str, **changes: Any) -> Path:
        root = tmp_path / "Dataset012_Own"
        content = {
            "channel_names": {"0": "FLAIR", "1": "T1w"},
            "labels": {"background": 0, "edema": 1, "tumour": 2},
            "numTraining": 2,
            "file_ending": ".nii.gz",
        }
        touch(root, *files)
        content = {k: v for k, v in (content | changes).items() if v is not None}
        (root / "dataset.json").write_text(json.dumps(content))
        return root

    return make


TWO_CASES = [
    *(f"imagesTr/{case}_000{channel}.nii.gz" for case in ("b_10", "a") for channel in (1, 0)),
    "labelsTr/a.nii.gz",
    "labelsTr/b_10.nii.gz",
]


def test_nnunets_files_of_a_case_belong_together(nnunet: MakeDataset):
    root = nnunet(*TWO_CASES, "imagesTs/c_0000.nii.gz", "imagesTs/c_0001.nii.gz")
    dataset = load_dataset(root)
    assert dataset.name == "Dataset012_Own"
    assert dataset.channel_names == ("FLAIR", "T1w")
    assert dataset.labels.names == ("background", "edema", "tumour")
    assert dataset.labels.values == (0, 1, 2)
    assert dataset.training == tuple(
        {
            "image": [str(root / f"imagesTr/{name}_000{channel}.nii.gz") for channel in (0, 1)],
            "label": str(root / f"labelsTr/{name}.nii.gz"),
            "name": name,
        }
        for name in ("a", "b_10")
    )
    (test,) = dataset.test
    assert test == {
        "image": [str(root / f"imagesTs/c_000{channel}.nii.gz") for channel in (0, 1)],
        "name": "c",
    }


def test_one_channel_in_nnunets_layout(nnunet: MakeDataset):
    files = ["imagesTr/a_0000.nrrd", "labelsTr/a.nrrd", "imagesTr/a_0000.json", "labelsTr/b.nrrd"]
    root = nnunet(*files, channel_names={"0": "CT"}, file_ending=".nrrd")
    (case,) = load_dataset(root).training
    assert case["image"] == [str(root / "imagesTr/a_0000.nrrd")]
    assert names((case,)) == ["a"]


def test_a_picture_holds_all_its_colours(nnunet: MakeDataset):
    # as nnU-Net's own Dataset120_RoadSegmentation is laid out
    files = ["imagesTr/img-1_0000.png", "labelsTr/img-1.png"]
    settings = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png"}
    root = nnunet(*files, **settings)
    (case,) = load_dataset(root).training
    assert case["image"] == [str(root / "imagesTr/img-1_0000.png")]
    assert case["name"] == "img-1"


def test_channels_with_gaps(nnunet: MakeDataset):
    root = nnunet(*TWO_CASES)
    (root / "imagesTr/b_10_0000.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"imagesTr must be named CASE_0000\.nii\.gz.*gaps") as e:
        load_dataset(root)
    assert "case b_10 has 1 image file " in str(e.value)
    assert "b_10_0000.nii.gz is missing" in str(e.value)


def test_a_case_that_lacks_its_last_channel(nnunet: MakeDataset):
    root = nnunet(*TWO_CASES)
    (root / "imagesTr/b_10_0001.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"case b_10 has 1 image file.* has 2 channel"):
        load_dataset(root)


def test_a_case_that_lacks_its_label(nnunet: MakeDataset):
    root = nnunet(*TWO_CASES)
    (root / "labelsTr/b_10.nii.gz").unlink()
    with pytest.raises(
        CaseError, match=r"case b_10: 1 missing file.*label labelsTr/CASE.*labelsTr/b_10\.nii\.gz"
    ):
        load_dataset(root)


def test_a_stray_image_does_not_ungroup_the_others(nnunet: MakeDataset):
    dataset = load_dataset(nnunet(*TWO_CASES, "imagesTr/notes.nii.gz"))
    assert names(dataset.training) == ["a", "b_10"]


def test_images_without_channel_numbers(nnunet: MakeDataset):
    with pytest.raises(DatasetError, match=r"must be named CASE_0000\.nii\.gz"):
        load_dataset(nnunet("imagesTr/a.nii.gz", "labelsTr/a.nii.gz"))


def test_explicit_paths(nnunet: MakeDataset, tmp_path: Path):
    far = touch(tmp_path / "elsewhere", "t1.nii.gz")
    listed = {
        "b": {"images": ["raw/one.nii.gz", str(far)], "label": "masks/b.nii.gz"},
        "a": {"images": ["raw/two.nii.gz", "raw/one.nii.gz"], "label": "masks/x.nii.gz"},
    }
    files = ["raw/one.nii.gz", "raw/two.nii.gz", "masks/b.nii.gz", "masks/x.nii.gz"]
    # files in the usual folders are ignored
    root = nnunet(*files, "imagesTr/c_0000.nii.gz", dataset=listed)
    dataset = load_dataset(root)
    assert names(dataset.training) == ["a", "b"]
    assert dataset.training[1] == {
        "image": [str(root / "raw/one.nii.gz"), str(far)],
        "label": str(root / "masks/b.nii.gz"),
        "name": "b",
    }


@pytest.mark.parametrize(
    "files",
    [
        ["raw/one.nii.gz"],
        {"images": ["raw/one.nii.gz"]},
        {"images": [], "label": "masks/a.nii.gz"},
        {"images": ["raw/one.nii.gz"], "label": ["masks/a.nii.gz"]},
    ],
)
def test_malformed_explicit_paths(nnunet: MakeDataset, files: Any):
    with pytest.raises(DatasetError, match=r"dataset\.json: dataset\.a(\.images|\.label)?: "):
        load_dataset(nnunet("raw/one.nii.gz", "masks/a.nii.gz", dataset={"a": files}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_ending": None}, """'file_ending' is a required .*"training"; one of nnU-Net"""),
        ({"channel_names": None}, "'modality' is a required property"),
        ({"channel_names": {"0": "a", "2": "b"}}, '"channel_names" must be numbered'),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "need regions_class_order"),
        ({"labels": {"background": 0, "edema": 1, "ignore": 1}}, "ignore_value is 1"),
        ({"file_ending": ".mha"}, "lists no training cases"),
    ],
)
def test_malformed_dataset_json_of_nnunet(
    nnunet: MakeDataset, changes: dict[str, Any], message: str
):
    with pytest.raises(DatasetError, match=rf"dataset\.json.*{message}"):
        load_dataset(nnunet(*TWO_CASES, **changes))


# --- plain folders


def test_plain_folders_are_paired_by_name(tmp_path: Path):
    root = tmp_path / "cells"
    touch(root, "images/b.bmp", "images/a.bmp", "labels/a.png", "labels/b.png")
    touch(root, "images/.hidden.bmp", "labels/notes.txt")
    assert load_dataset(root) == DatasetDescription(
        "cells",
        (),
        LabelScheme(()),
        tuple(
            {
                "image": str(root / f"images/{name}.bmp"),
                "label": str(root / f"labels/{name}.png"),
            }
            for name in "ab"
        ),
        (),
    )


def test_folders_of_the_decathlon_without_their_json_are_not_plain(tmp_path: Path):
    # without the file, there are no names
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(DatasetError, match=r"has no dataset\.json"):
        load_dataset(tmp_path)


def test_plain_channels_in_separate_files(tmp_path: Path):
    touch(tmp_path, "images/a_0000.nii.gz", "images/a_0001.nii.gz", "labels/a.nii.gz")
    (case,) = load_dataset(tmp_path).training
    assert [Path(file).name for file in case["image"]] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert case["name"] == "a"


def test_a_plain_case_without_a_channel_is_named(tmp_path: Path):
    files = ["a_0000", "a_0001", "b_0000", "c_0000", "c_0001"]
    touch(tmp_path, *(f"images/{name}.nii.gz" for name in files))
    touch(tmp_path, *(f"labels/{name}.nii.gz" for name in "abc"))
    with pytest.raises(DatasetError, match=r"case b has no b_0001\.nii\.gz in .*has 2 channels"):
        load_dataset(tmp_path)


def test_plain_files_numbered_like_channels_are_cases(tmp_path: Path):
    for number in range(3):
        touch(tmp_path, f"images/frame_{number:04d}.png", f"labels/frame_{number:04d}.png")
    cases = load_dataset(tmp_path).training
    assert names(cases) == ["frame_0000", "frame_0001", "frame_0002"]
    assert cases[0]["image"] == str(tmp_path / "images/frame_0000.png")


def test_files_without_a_partner(tmp_path: Path):
    touch(tmp_path, "images/a.png", "images/b.png", "labels/b.png", "labels/c.png")
    with pytest.raises(
        DatasetError, match=r"2 files in .*without a partner of the same name: a, c\."
    ):
        load_dataset(tmp_path)


@pytest.mark.parametrize("double", ["images/a.tif", "labels/a.nii.gz"])
def test_two_files_of_one_name(tmp_path: Path, double: str):
    touch(tmp_path, "images/a.png", "labels/a.png", double)
    with pytest.raises(
        DatasetError, match=f"{(tmp_path / double).parent} has duplicate case names: a"
    ):
        load_dataset(tmp_path)


def test_empty_plain_folders(tmp_path: Path):
    touch(tmp_path, "images/notes.txt", "labels/notes.txt")
    with pytest.raises(DatasetError, match=f"{tmp_path} lists no training cases"):
        load_dataset(tmp_path)


def test_names_for_plain_folders():
    plain = DatasetDescription(
        "cells", (), LabelScheme(()), ({"image": "a.png", "label": "a.png"},), ()
    )
    assert plain.labels.values == ()
    labels = LabelScheme(["background", "cell"], [0, 255])
    named = plain.named(["R", "G", "B"], labels)
    assert named.channel_names == ("R", "G", "B")
    assert named.labels == labels
    assert named.training == plain.training


# --- real sets


def test_real_sets_are_understood(real_data: Path):
    cells = load_dataset(real_data / "extra" / "wbc_2d_rgb")
    assert len(cells.training) == 200
    assert Path(cells.training[0]["image"]).name == "001.bmp"
    assert Path(cells.training[0]["label"]).name == "001.png"
    cord = load_dataset(real_data / "extra" / "spinalcord_t2_psr")
    assert cord.labels.names == ("background", "cord")
    assert names(cord.training) == ["errsm30_t2"]

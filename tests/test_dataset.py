"""dataset.json, the folds, the images of a folder, and errors that name the case."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_nifti
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from dynunet_bundle.dataset import (
    RawDataset,
    apply_to_case,
    find_images,
    load_dataset,
    select_cases,
    split_folds,
)
from dynunet_bundle.errors import CaseError, DatasetError, PlanError

MakeDataset = Callable[..., Path]


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Write a data set of empty files; keywords replace keys of dataset.json, None takes one out."""

    def make(num_cases: int = 3, **changes: Any) -> Path:
        root = tmp_path / "Task77_Thing"
        numbers = reversed(range(num_cases))  # the order in the file is not the order of cases
        training = [
            {"image": f"./imagesTr/t_{i:02d}.nii.gz", "label": f"./labelsTr/t_{i:02d}.nii.gz"}
            for i in numbers
        ]
        content = {
            "modality": {"1": "T1w", "0": "FLAIR"},
            "labels": {"0": "background", "1": "edema", "2": "tumour"},
            "training": training,
            "test": ["./imagesTs/t_91.nii.gz", "./imagesTs/t_90.nii.gz"],
        }
        for files in training:
            for path in files.values():
                touch(root / path)
        for path in content["test"]:
            touch(root / path)
        content = {k: v for k, v in (content | changes).items() if v is not None}
        (root / "dataset.json").write_text(json.dumps(content))
        return root

    return make


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


# --- load_dataset


def test_a_valid_data_set(make_dataset: MakeDataset):
    root = make_dataset()
    dataset = load_dataset(root)
    assert dataset.name == "Task77_Thing"
    assert dataset.channel_names == ("FLAIR", "T1w")
    assert dataset.label_names == ("background", "edema", "tumour")
    assert dataset.training == tuple(
        {
            "image": str(root / f"imagesTr/t_0{i}.nii.gz"),
            "label": str(root / f"labelsTr/t_0{i}.nii.gz"),
        }
        for i in range(3)
    )
    assert [Path(case["image"]).name for case in dataset.test] == ["t_90.nii.gz", "t_91.nii.gz"]
    assert all(case.keys() == {"image"} for case in dataset.test)


def test_paths_are_absolute_for_a_relative_folder(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
):
    root = make_dataset()
    monkeypatch.chdir(root.parent)
    assert load_dataset(root.name) == load_dataset(root)


def test_more_than_ten_labels_are_in_order_of_their_numbers(make_dataset: MakeDataset):
    labels = {str(value): f"organ {value}" for value in range(12)}
    dataset = load_dataset(make_dataset(labels=labels))
    assert dataset.label_names[9:] == ("organ 9", "organ 10", "organ 11")


def test_test_cases_are_optional_and_may_be_objects(make_dataset: MakeDataset):
    assert load_dataset(make_dataset(test=None)).test == ()
    entries = [{"image": "./imagesTs/t_90.nii.gz", "label": "never/looked/at.nii.gz"}]
    (case,) = load_dataset(make_dataset(test=entries)).test
    assert case.keys() == {"image"}


def test_a_folder_without_dataset_json(tmp_path: Path):
    with pytest.raises(DatasetError, match=rf"{tmp_path} has no dataset\.json.*--dataset_dir"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{oops", "not valid JSON"), ("[1]", "must hold a JSON object, not list")]
)
def test_dataset_json_that_is_none(make_dataset: MakeDataset, text: str, message: str):
    root = make_dataset()
    (root / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=rf"dataset\.json.*{message}"):
        load_dataset(root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": None}, 'needs "modality"'),
        ({"labels": None}, 'needs "labels"'),
        ({"labels": {}}, 'needs "labels"'),
        ({"labels": ["background", "edema"]}, 'needs "labels"'),
        ({"labels": {"0": "a", "2": "b"}}, r'"labels" must be numbered 0\.\.1 without gaps'),
        ({"labels": {"1": "a", "2": "b"}}, r'"labels" must be numbered 0\.\.1'),
        ({"labels": {"background": 0, "edema": 1}}, '"labels" must be numbered.*background'),
        ({"modality": {"1": "MRI"}}, '"modality" must be numbered'),
        ({"training": None}, 'needs "training"'),
        ({"training": {"image": "x"}}, 'needs "training", a list'),
        ({"training": []}, "lists no training cases"),
        ({"training": ["./imagesTr/t_00.nii.gz"]}, 'each "training" case needs image and label'),
        ({"training": [{"image": "a.nii.gz"}]}, "needs image and label"),
        ({"training": [{"image": "a.nii.gz", "label": 3}]}, "needs image and label"),
        ({"training": [7]}, "needs image and label as paths, not 7"),
        ({"test": 4}, 'needs "test", a list'),
        ({"test": [{"label": "x"}]}, 'each "test" case needs image'),
    ],
)
def test_malformed_dataset_json(make_dataset: MakeDataset, changes: dict[str, Any], message: str):
    with pytest.raises(DatasetError, match=rf"dataset\.json.*{message}"):
        load_dataset(make_dataset(**changes))


def test_a_case_that_is_listed_twice(make_dataset: MakeDataset):
    twice = {"image": "./imagesTr/t_01.nii.gz", "label": "./labelsTr/t_01.nii.gz"}
    # another folder does not make another case: results are named by the file
    other = {"image": "./more/t_01.nii", "label": "./labelsTr/t_00.nii.gz"}
    for entries in ([twice, twice], [twice, other]):
        with pytest.raises(DatasetError, match='"training" lists t_01 more than once'):
            load_dataset(make_dataset(training=entries))


def test_missing_files_are_counted_and_listed(make_dataset: MakeDataset):
    root = make_dataset(num_cases=8)
    (root / "labelsTr/t_02.nii.gz").unlink()
    (root / "imagesTs/t_90.nii.gz").unlink()
    with pytest.raises(CaseError, match=r"case t_02: 2 file\(s\)") as info:
        load_dataset(root)
    assert str(root / "labelsTr/t_02.nii.gz") in str(info.value)
    assert str(root / "imagesTs/t_90.nii.gz") in str(info.value)
    for index in range(8):
        (root / f"imagesTr/t_{index:02d}.nii.gz").unlink()
    with pytest.raises(CaseError, match=r"10 file\(s\).* and 5 more"):
        load_dataset(root)


# --- folds

# from scikit-learn 1.9.1: [v.tolist() for _, v in KFold(k, shuffle=True, random_state=seed).split(range(n))]
KFOLD = {
    (10, 5, 12345): [[0, 7], [3, 9], [4, 6], [1, 8], [2, 5]],
    (23, 5, 12345): [
        [3, 8, 10, 17, 19],
        [0, 7, 12, 15, 16],
        [6, 11, 14, 18, 20],
        [9, 13, 21, 22],
        [1, 2, 4, 5],
    ],
    (7, 3, 7): [[0, 2, 5], [3, 6], [1, 4]],
}


@pytest.mark.parametrize(("arguments", "expected"), KFOLD.items())
def test_folds_are_those_of_scikit_learn(
    arguments: tuple[int, int, int], expected: list[list[int]]
):
    assert [fold.tolist() for fold in split_folds(*arguments)] == expected


def test_the_default_seed_is_that_of_nnunet():
    assert [fold.tolist() for fold in split_folds(10, 5)] == KFOLD[10, 5, 12345]


@pytest.mark.parametrize(("num_cases", "num_folds"), [(4, 5), (0, 2), (5, 1), (5, 0), (5, -1)])
def test_impossible_splits(num_cases: int, num_folds: int):
    with pytest.raises(DatasetError, match=rf"{num_cases} case.*{num_folds} folds.*--num_folds"):
        split_folds(num_cases, num_folds)


PLANNED = {
    "channel_names": ["FLAIR", "T1w"],
    "label_names": ["background", "edema", "tumour"],
}


def test_each_case_is_held_out_once_and_trained_on_in_all_other_folds(make_dataset: MakeDataset):
    root = make_dataset(num_cases=11)
    everything = list(load_dataset(root).training)
    held_out = []
    for fold in range(4):
        part = {"fold": fold, "num_folds": 4, **PLANNED}
        validation = select_cases(str(root), "validation", **part)
        training = select_cases(str(root), "training", **part)
        assert [case for case in everything if case not in validation] == training
        assert len(training) + len(validation) == 11
        held_out += validation
    assert sorted(held_out, key=lambda case: case["image"]) == everything


def test_fold_0_of_ten_cases_is_that_of_scikit_learn(make_dataset: MakeDataset):
    cases = select_cases(str(make_dataset(num_cases=10)), "validation", **PLANNED)
    assert [Path(case["label"]).name for case in cases] == ["t_00.nii.gz", "t_07.nii.gz"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": ["T1w", "FLAIR"]}, "the plan's channels are .*T1w.*Task77_Thing"),
        ({"label_names": ["background", "edema"]}, "the plan's labels are"),
    ],
)
def test_a_plan_of_another_data_set(
    make_dataset: MakeDataset, changes: dict[str, Any], message: str
):
    with pytest.raises(PlanError, match=rf"{message}.*scripts/plan\.py"):
        select_cases(str(make_dataset(num_cases=10)), "training", **(PLANNED | changes))


@pytest.mark.parametrize("fold", [5, -1])
def test_a_fold_that_does_not_exist(make_dataset: MakeDataset, fold: int):
    with pytest.raises(DatasetError, match=f"no fold {fold}.*from 0 to 4"):
        select_cases(str(make_dataset(num_cases=10)), "training", fold=fold, **PLANNED)


def test_a_part_that_does_not_exist(make_dataset: MakeDataset):
    with pytest.raises(DatasetError, match='not "test"'):
        select_cases(str(make_dataset(num_cases=10)), "test", **PLANNED)


# --- find_images


def test_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = touch(tmp_path / "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert find_images("a.nii.gz") == [{"image": str(path)}]


def test_all_images_of_a_folder_and_nothing_else(tmp_path: Path):
    for name in ("b.nii", "a.NII.GZ", "c.nii.gz"):
        touch(tmp_path / name)
    # a Mac's shadow of a.nii.gz, a killed write, other files, deeper folders
    for name in ("._a.nii.gz", ".d.nii.gz", "notes.txt", "x.dcm", "deeper/e.nii.gz"):
        touch(tmp_path / name)
    expected = [{"image": str(tmp_path / name)} for name in ("a.NII.GZ", "b.nii", "c.nii.gz")]
    assert find_images(tmp_path) == expected


def test_a_folder_called_like_an_image_is_no_image(tmp_path: Path):
    touch(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").mkdir()  # what some unpackers make of b.nii.gz
    assert find_images(tmp_path) == [{"image": str(tmp_path / "a.nii.gz")}]


def test_no_images(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"nowhere does not exist.*--input"):
        find_images(tmp_path / "nowhere")
    touch(tmp_path / "notes.txt")
    with pytest.raises(DatasetError, match="holds no image"):
        find_images(tmp_path)


def test_an_input_that_is_not_nifti(tmp_path: Path):
    with pytest.raises(CaseError, match=r"case scan: scan\.dcm is not a NIfTI file"):
        find_images(touch(tmp_path / "scan.dcm"))


def test_two_images_that_would_have_one_result(tmp_path: Path):
    for name in ("a.nii", "a.nii.gz", "b.nii"):
        touch(tmp_path / name)
    with pytest.raises(DatasetError, match="holds a more than once"):
        find_images(tmp_path)


# --- apply_to_case

LOAD = Compose([LoadImaged(("image", "label"), allow_missing_keys=True)])


def damaged(path: Path, share: float) -> Path:
    """A NIfTI file of which only the first part is left."""
    array = np.random.default_rng(0).integers(1, 100, (12, 10, 8)).astype(np.int16)
    content = save_nifti(path, array).read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("name", ["case_7.nii.gz", "case_7.nii"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.8])
def test_a_truncated_file_names_the_case(tmp_path: Path, name: str, share: float):
    case = {"image": str(damaged(tmp_path / name, share))}
    with pytest.raises(CaseError, match=rf"case case_7: cannot read {name} .*Replace") as info:
        apply_to_case(case, LOAD)
    assert info.value.case == "case_7"
    assert "\n" not in str(info.value)


def test_a_truncated_label_names_the_case_and_both_files(tmp_path: Path):
    image = save_nifti(tmp_path / "case_7.nii.gz", np.ones((12, 10, 8), np.uint8))
    label = damaged(tmp_path / "case_7_seg.nii.gz", 0.5)
    with pytest.raises(CaseError, match=r"case case_7:.*case_7\.nii\.gz, case_7_seg\.nii\.gz"):
        apply_to_case({"image": str(image), "label": str(label)}, LOAD)


def test_the_error_of_a_transform_comes_out_as_it_was():
    own = CaseError("case_7", "it is flat", "Blow it up.")

    def find_fault(data: Any) -> Any:
        raise own

    for transform in (find_fault, Compose([find_fault])):  # Compose wraps it in a RuntimeError
        with pytest.raises(CaseError) as info:
            apply_to_case({"image": "case_7.nii.gz"}, transform)
        assert info.value is own


def test_a_bug_in_a_transform_stays_a_bug():
    with pytest.raises(RuntimeError, match="EnsureChannelFirstd"):
        apply_to_case({"image": "case_7.nii.gz"}, Compose([EnsureChannelFirstd("image")]))


def test_raw_dataset_gives_the_transformed_case_or_names_the_bad_one(tmp_path: Path):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    good = {"image": str(save_nifti(tmp_path / "good.nii.gz", array))}
    bad = {"image": str(damaged(tmp_path / "bad.nii.gz", 0.5))}
    dataset = RawDataset([good, bad], LOAD)
    assert len(dataset) == 2
    np.testing.assert_array_equal(dataset[0]["image"].numpy(), array)
    with pytest.raises(CaseError, match="case bad: cannot read"):
        dataset[1]

"""The cases of one part of a fold, for a plan of the same data set."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import touch

from dynunet_bundle.dataset.cases import Case, name_of
from dynunet_bundle.dataset.select import FoldCases, load_dataset, names_for
from dynunet_bundle.errors import DatasetError, PlanError
from dynunet_bundle.labels.scheme import LABEL_IDS, LabelScheme

MakeDataset = Callable[..., Path]

PLANNED = {
    "channel_names": ["FLAIR", "T1w"],
    "label_names": ["background", "edema", "tumour"],
}


def cases_of(root: str, part: str, channel_names: list[str], **settings: Any) -> list[Case]:
    """``training`` or ``validation`` of ``FoldCases``, from the ids of a plan."""
    labels = LabelScheme.from_plan(settings)
    own = {key: value for key, value in settings.items() if key not in LABEL_IDS}
    return getattr(FoldCases(root, channel_names, labels, **own), part)


def test_paths_are_absolute_for_a_relative_folder(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
):
    root = make_dataset()
    monkeypatch.chdir(root.parent)
    assert load_dataset(root.name) == load_dataset(root)


# --- cases of a fold


def test_each_case_is_held_out_once_and_trained_on_in_all_other_folds(make_dataset: MakeDataset):
    root = make_dataset(num_cases=11)
    everything = list(load_dataset(root).training)
    held_out = []
    for fold in range(4):
        part = {"fold": fold, "num_folds": 4, **PLANNED}
        validation = cases_of(str(root), "validation", **part)
        training = cases_of(str(root), "training", **part)
        assert [case for case in everything if case not in validation] == training
        assert len(training) + len(validation) == 11
        held_out += validation
    assert sorted(held_out, key=lambda case: case["image"]) == everything


def test_fold_0_of_ten_cases_is_that_of_scikit_learn(make_dataset: MakeDataset):
    cases = cases_of(str(make_dataset(num_cases=10)), "validation", **PLANNED)
    assert [Path(case["label"]).name for case in cases] == ["t_00.nii.gz", "t_07.nii.gz"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": ["T1w", "FLAIR"]}, "the plan's channels are .*T1w.*Task77_Thing"),
        ({"label_names": ["background", "edema"]}, "the plan's labels are"),
        ({"label_values": [0, 128, 255]}, r"the plan's label values are \[0, 128, 255\]"),
    ],
)
def test_a_plan_of_another_data_set(
    make_dataset: MakeDataset, changes: dict[str, Any], message: str
):
    with pytest.raises(PlanError, match=rf"{message}.*dynunet-bundle plan"):
        cases_of(str(make_dataset(num_cases=10)), "training", **(PLANNED | changes))


def test_values_with_gaps_must_be_the_plans_too(make_dataset: MakeDataset):
    labels = {"0": "background", "128": "edema", "255": "tumour"}
    root = str(make_dataset(num_cases=10, labels=labels))
    planned = {**PLANNED, "label_values": [0, 128, 255]}
    assert len(cases_of(root, "training", **planned)) == 8
    with pytest.raises(PlanError, match=r"label values are \[0, 1, 2\].* are \[0, 128, 255\]"):
        cases_of(root, "training", **PLANNED)


def test_plain_folders_accept_the_names_of_any_plan(tmp_path: Path):
    names = [f"{folder}/{index}.png" for folder in ("images", "labels") for index in range(5)]
    touch(tmp_path, *names)
    labels = LabelScheme(["back", "cell"], [0, 255])
    cases = FoldCases(str(tmp_path), ["R", "G", "B"], labels).validation
    assert [Path(case["image"]).name for case in cases] == ["0.png"]


@pytest.mark.parametrize("fold", [5, -1])
def test_a_fold_that_does_not_exist(make_dataset: MakeDataset, fold: int):
    with pytest.raises(DatasetError, match=f"no fold {fold}.*from 0 to 4"):
        cases_of(str(make_dataset(num_cases=10)), "training", fold=fold, **PLANNED)


def test_the_file_of_folds_decides(make_dataset: MakeDataset, tmp_path: Path):
    root = str(make_dataset(num_cases=6))
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": ["t_03", "t_01"], "val": ["t_05", "t_02"]}]))
    part = {**PLANNED, "splits_file": str(splits)}

    def selected(which: str) -> list[str]:
        return [Path(case["image"]).name[:4] for case in cases_of(root, which, **part)]

    assert (selected("training"), selected("validation")) == (["t_01", "t_03"], ["t_02", "t_05"])
    with pytest.raises(DatasetError, match=r"no fold 1: .*splits\.json has 1 fold"):
        cases_of(root, "training", fold=1, **part)


def test_without_the_file_of_folds_they_are_drawn(make_dataset: MakeDataset, tmp_path: Path):
    root = str(make_dataset(num_cases=10))
    drawn = cases_of(root, "validation", **PLANNED)
    default = str(tmp_path / "configs/tasks/splits/none.json")
    assert cases_of(root, "validation", splits_file=default, **PLANNED) == drawn


def test_a_file_of_folds_that_is_gone_is_an_error(make_dataset: MakeDataset, tmp_path: Path):
    # formerly a warning; but the folds may have been edited, and drawn ones would mix what they held apart
    root, absent = str(make_dataset(num_cases=10)), str(tmp_path / "none.json")
    with pytest.raises(DatasetError, match=r"none.json does not exist.*Restore the file"):
        cases_of(root, "validation", splits_file=absent, **PLANNED)


def test_the_folds_of_a_bundle_that_was_moved(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = str(make_dataset(num_cases=6))
    own = touch(tmp_path / "new", "Task.json")
    own.write_text(json.dumps([{"train": ["t_03"], "val": ["t_05"]}]))
    monkeypatch.setattr("dynunet_bundle.dataset.folds.OWN_SPLITS", own.parent)
    labels = LabelScheme.from_plan(PLANNED)
    cases = FoldCases(
        root, PLANNED["channel_names"], labels, splits_file="/old/configs/tasks/splits/Task.json"
    )
    assert [name_of(case) for case in cases.validation] == ["t_05"]
    assert cases.source == str(own)
    elsewhere = replace(cases, splits_file="/old/splits/Task.json")
    assert elsewhere.source == "5 folds drawn with seed 12345"
    assert replace(cases, fold="all").source == "all cases"


def test_one_case_cannot_be_split(make_dataset: MakeDataset):
    root = str(make_dataset(num_cases=1))
    with pytest.raises(DatasetError, match=r"1 case cannot be split into 5.*--fold full"):
        cases_of(root, "training", **PLANNED)
    assert len(cases_of(root, "training", fold="all", **PLANNED)) == 1


def test_a_file_of_folds_of_other_cases(make_dataset: MakeDataset, tmp_path: Path):
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps([{"train": ["t_00"], "val": ["old_case"]}]))
    with pytest.raises(DatasetError, match=r"outside the data set: old_case\."):
        cases_of(str(make_dataset()), "training", splits_file=str(splits), **PLANNED)


def test_the_overlay_of_another_data_set_is_named(make_dataset: MakeDataset, tmp_path: Path):
    # the folds are right for that data set: nobody should correct or delete them
    splits = tmp_path / "hearts.json"
    root = make_dataset()
    for val in (["heart_01"], ["t_01"]):
        splits.write_text(json.dumps([{"train": ["heart_00"], "val": val}]))
        settings = {**PLANNED, "splits_file": str(splits), "plan": {"task_name": "hearts"}}
        expected = (
            f"the overlay is of hearts, and the data set is {root.name}: .* outside .*, heart_00"
        )
        with pytest.raises(PlanError, match=expected) as raised:
            cases_of(str(root), "training", **settings)
        assert "delete" not in str(raised.value)
        assert "dynunet-bundle plan" in str(raised.value)


@pytest.mark.parametrize(("fold", "told"), [("all", "full"), (0, "0")])
def test_the_log_names_a_fold_as_the_user_does_and_its_source_once(
    make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture, fold: int | str, told: str
):
    caplog.set_level("INFO", "dynunet_bundle")
    for part in ("training", "validation"):
        cases_of(str(make_dataset(num_cases=10)), part, fold=fold, **PLANNED)
    assert all(line.startswith(f"fold {told}, ") for line in caplog.messages)
    assert sum("folds: " in line for line in caplog.messages) == 1


# --- names from saved facts


def test_names_that_were_saved():
    facts = {
        "channel_names": ["CT"],
        "label_names": ["background", "organ"],
        "label_values": [0, 255],
    }
    dataset = names_for("Own", facts)
    assert (dataset.name, dataset.channel_names) == ("Own", ("CT",))
    assert dataset.labels == LabelScheme(("background", "organ"), (0, 255))
    assert dataset.training == dataset.test == ()


def test_regions_that_were_saved():
    facts = {
        "channel_names": ["MRI"],
        "label_names": ["background", "edema", "core"],
        "label_values": [0, 1, 2],
        "ignore_value": 3,
        "regions": {"whole": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
    }
    dataset = names_for("Own", facts)
    assert dataset.labels.ids() == {name: facts[name] for name in LABEL_IDS}
    assert dataset.labels.file_values == (0, 1, 2, 3)
    with pytest.raises(PlanError, match="need regions_class_order"):
        names_for("Own", {**facts, "regions_class_order": None})


def test_names_from_the_numbers_of_nnunets_facts():
    dataset = names_for(
        "Own", {"modality": "MRI", "num_channels": 2, "num_classes_with_background": 3}
    )
    assert dataset.channel_names == ("MRI", "MRI")
    assert dataset.labels == LabelScheme(("background", "class_1", "class_2"), (0, 1, 2))


@pytest.mark.parametrize("facts", [{}, {"modality": "MRI", "num_channels": "many"}])
def test_facts_without_names_and_numbers(facts: dict[str, Any]):
    with pytest.raises(PlanError, match="has no channels or labels"):
        names_for("Own", facts)

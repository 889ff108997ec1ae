"""The prepared store: built once, rebuilt only if necessary, consistent after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, save_nifti
from monai.transforms import Compose, Transform

from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.dataset.select import Case
from dynunet_bundle.errors import CaseError, OutputError
from dynunet_bundle.preprocessing.crop import is_nonzero
from dynunet_bundle.preprocessing.positions import (
    POSITIONS_PER_CLASS,
    sample_labelled,
    sample_positions,
)
from dynunet_bundle.preprocessing.recipe import recipe_of
from dynunet_bundle.preprocessing.store import PreparedDataset

NUM_CASES = 4
SHAPE = (14, 16, 12)

Pipeline = Callable[..., Compose]


@pytest.fixture
def pipeline(train_workflow: Callable[..., Any]) -> Pipeline:
    """The real preprocessing with overrides of the tiny plan (2 mm)."""

    def load(**overrides: Any) -> Compose:
        return train_workflow(**overrides).parser.get_parsed_content("preprocessing")

    return load


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Four small raw cases; the last lacks class 2."""
    made = []
    for index in range(NUM_CASES):
        rng = np.random.default_rng(index)
        image = rng.normal(100, 20, SHAPE).astype(np.float32)
        label = np.zeros(SHAPE, np.uint8)
        label[3:9, 4:10, 2:8] = 1
        if index < NUM_CASES - 1:
            label[6:12, 4:10, 2:8] = 2
        raw = tmp_path / "raw"
        made.append(
            {
                "image": str(save_nifti(raw / f"i{index}.nii.gz", image)),
                "label": str(save_nifti(raw / f"l{index}.nii.gz", label)),
            }
        )
    return made


def prepare(
    cases: list[Case], transform: Compose, folder: Path, **settings: Any
) -> PreparedDataset:
    dataset = PreparedDataset(cases, transform, str(folder), num_classes=3, **settings)
    dataset.cases()
    return dataset


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a store, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def versions(folder: Path) -> dict[str, tuple[int, int]]:
    """Values that change whenever a file is written again, even with the same bytes."""
    stats = {path.name: path.stat() for path in folder.iterdir()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def rewritten(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Names of the cases with any file that was written again."""
    assert before.keys() == after.keys()
    return {name.split("-")[0] for name in before if before[name] != after[name]}


def files_of(folder: Path, case: str, ending: str) -> Path:
    (path,) = folder.glob(f"{case}-*{ending}")
    return path


# --- what is in it


def test_a_case_as_the_network_sees_it(cases: list[Case], pipeline: Pipeline, tmp_path: Path):
    transform = pipeline()
    dataset = prepare(cases, transform, tmp_path / "store")
    assert len(dataset) == NUM_CASES
    for index, raw in enumerate(cases):
        expected = transform(raw)
        item = dataset[index]
        assert item.keys() == {"image", "label", "name"} and item["name"] == name_of(raw)
        assert item["image"].shape == item["label"].shape == (1, 6, 8, 7)
        assert item["image"].dtype == torch.float32
        assert item["label"].dtype == torch.uint8
        np.testing.assert_array_equal(item["image"].numpy(), expected["image"].numpy())
        np.testing.assert_array_equal(item["label"].numpy(), expected["label"].numpy())
        # training collates and moves them: plain tensors
        assert type(item["image"]) is torch.Tensor


def test_the_facts_of_the_cases(cases: list[Case], pipeline: Pipeline, tmp_path: Path):
    dataset = prepare(cases[::-1], pipeline(), tmp_path / "store")
    assert [case.name for case in dataset.cases()] == ["i3", "i2", "i1", "i0"]
    assert [case.present for case in dataset.cases()] == [(1,), (1, 2), (1, 2), (1, 2)]
    for case in dataset.cases():
        assert case.shape == (6, 8, 7)
        label = np.load(case.label)
        positions = np.load(case.positions)
        assert positions.shape == (2, POSITIONS_PER_CLASS, 3)
        assert positions.dtype == np.int16
        for value in case.present:
            assert (label[0][tuple(positions[value - 1].T)] == value).all()
        # region reading needs C order and no pickles
        assert np.load(case.image, mmap_mode="r").flags.c_contiguous


def test_half_precision_is_stored_and_given_as_single(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
):
    single = prepare(cases, pipeline(), tmp_path / "single")
    half = prepare(cases, pipeline(), tmp_path / "half", dtype="float16")
    assert np.load(single.cases()[0].image).dtype == np.float32
    assert np.load(half.cases()[0].image).dtype == np.float16
    item = half[0]["image"]
    assert item.dtype == torch.float32
    torch.testing.assert_close(item, single[0]["image"], atol=2e-3, rtol=1e-3)
    assert item.ne(single[0]["image"]).any()


def test_the_number_of_threads_does_not_show(cases: list[Case], pipeline: Pipeline, tmp_path: Path):
    prepare(cases, pipeline(), tmp_path / "one", num_workers=1)
    prepare(cases, pipeline(), tmp_path / "four", num_workers=4)
    one = contents(tmp_path / "one")
    assert len(one) == 4 * NUM_CASES
    assert one == contents(tmp_path / "four")


def test_two_cases_of_one_name_do_not_share_files(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
):
    other = save_nifti(
        tmp_path / "elsewhere/i0.nii.gz",
        np.random.default_rng(9).normal(0, 1, SHAPE).astype(np.float32),
    )
    both = [cases[0], {"image": str(other), "label": cases[0]["label"]}]
    dataset = prepare(both, pipeline(), tmp_path / "store")
    assert dataset[0]["image"].ne(dataset[1]["image"]).any()


def test_labels_with_gaps_are_stored_as_classes(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
):
    plain = prepare(cases[:1], pipeline(), tmp_path / "plain")
    label = np.asanyarray(nib.load(cases[0]["label"]).dataobj)
    save_nifti(Path(cases[0]["label"]), label.astype(np.int16) * 200)  # 0, 200, 400
    gaps = prepare(cases[:1], pipeline(label_values=[0, 200, 400]), tmp_path / "gaps")
    assert gaps.cases()[0].present == (1, 2)
    assert torch.equal(gaps[0]["label"], plain[0]["label"])
    assert np.load(gaps.cases()[0].label).dtype == np.uint8


def test_a_case_has_its_own_name_where_its_files_have_others(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
):
    named = {**cases[0], "image": [cases[0]["image"]], "name": "patient"}
    (case,) = prepare([named], pipeline(), tmp_path / "store").cases()
    assert case.name == "patient"
    assert Path(case.image).name.startswith("patient-")


# --- when it is built again


def test_a_second_run_builds_nothing(cases: list[Case], pipeline: Pipeline, tmp_path: Path):
    store = tmp_path / "store"
    prepare(cases, pipeline(), store)
    before = versions(store)
    prepare(cases, pipeline(), store)
    assert versions(store) == before


def test_training_and_validation_share_a_store(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
):
    store = tmp_path / "store"
    prepare(cases[:3], pipeline(), store)
    before = versions(store)
    prepare(cases[3:], pipeline(), store)
    # another fold does not prepare anything again
    prepare(cases[1:], pipeline(), store)
    after = versions(store)
    assert len(after) == 4 * NUM_CASES
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("plan", "settings"), [({"spacing": [1.0, 1.0, 1.0]}, {}), ({}, {"dtype": "float16"})]
)
def test_another_recipe_builds_all_again(
    cases: list[Case],
    pipeline: Pipeline,
    tmp_path: Path,
    plan: dict[str, Any],
    settings: dict[str, Any],
):
    store = tmp_path / "store"
    prepare(cases, pipeline(), store)
    before = versions(store)
    prepare(cases, pipeline(**plan), store, **settings)
    assert rewritten(before, versions(store)) == {"i0", "i1", "i2", "i3"}
    prepare(cases, pipeline(**plan), tmp_path / "fresh", **settings)
    assert contents(store) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("key", ["image", "label"])
def test_a_touched_source_is_built_again_alone(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path, key: str
):
    store = tmp_path / "store"
    prepare(cases, pipeline(), store)
    before = versions(store)
    modified = os.stat(cases[1][key]).st_mtime_ns
    os.utime(cases[1][key], ns=(modified, modified + 1))
    prepare(cases, pipeline(), store)
    assert rewritten(before, versions(store)) == {"i1"}


def test_a_touched_channel_is_built_again_alone(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
):
    store = tmp_path / "store"
    plan = {
        "channel_names": ["T1", "T2"],
        "normalization": ["zscore"] * 2,
        "intensity_statistics": [None] * 2,
    }
    # each case has the image of the next one as its second channel
    double = [
        {**case, "image": [case["image"], other["image"]]}
        for case, other in zip(cases[:2], cases[1:3], strict=True)
    ]
    prepare(double, pipeline(**plan), store)
    before = versions(store)
    modified = os.stat(double[1]["image"][1]).st_mtime_ns
    os.utime(double[1]["image"][1], ns=(modified, modified + 1))
    dataset = prepare(double, pipeline(**plan), store)
    assert rewritten(before, versions(store)) == {"i1"}
    assert dataset[0]["image"].shape[0] == 2


def test_a_changed_source_shows_its_new_content(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
):
    store = tmp_path / "store"
    prepare(cases, pipeline(), store)
    before = versions(store)
    save_nifti(Path(cases[2]["label"]), np.full(SHAPE, 2, np.uint8))
    dataset = prepare(cases, pipeline(), store)
    assert rewritten(before, versions(store)) == {"i2"}
    assert dataset[2]["label"].unique().tolist() == [2]
    assert dataset.cases()[2].present == (2,)


def moved(cases: list[Case], folder: Path) -> list[Case]:
    return [{key: str(folder / Path(path).name) for key, path in case.items()} for case in cases]


def refuse_to_build(data: Any) -> Any:
    raise AssertionError("a case is prepared again")


@pytest.mark.parametrize("way", ["moved", "copied", "copied with new times"])
def test_a_data_set_elsewhere_is_not_prepared_again(
    cases: list[Case],
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log: pytest.LogCaptureFixture,
    way: str,
):
    store, there = tmp_path / "store", tmp_path / "there"
    prepare(cases, pipeline(), store)
    before = contents(store)
    if way == "moved":
        (tmp_path / "raw").rename(there)
    else:
        shutil.copytree(tmp_path / "raw", there)
        for file in there.iterdir() if way == "copied with new times" else ():
            os.utime(file, ns=(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr("dynunet_bundle.preprocessing.store.apply_to_case", refuse_to_build)
        dataset = prepare(moved(cases, there), pipeline(), store)
        assert "4 of 4 cases were prepared under an earlier path" in log.text
        # and the next time, the sidecars fit at once
        patch.setattr("dynunet_bundle.preprocessing.store.adopt_moved", refuse_to_build)
        prepare(moved(cases, there), pipeline(), store)
    after = contents(store)
    assert {name: after[name] for name in before} == before
    assert [case.name for case in dataset.cases()] == ["i0", "i1", "i2", "i3"]
    if way != "moved":
        # the first data set is prepared again; the links keep the content of the second
        save_nifti(Path(cases[0]["label"]), np.full(SHAPE, 2, np.uint8))
        assert prepare(cases, pipeline(), store)[0]["label"].unique().tolist() == [2]
        assert dataset[0]["label"].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("change", ["content", "recipe", "array", "no links"])
def test_another_case_elsewhere_is_prepared(
    cases: list[Case],
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
):
    store, there = tmp_path / "store", tmp_path / "there"
    for case in cases:  # equal sizes whatever the voxels
        for key, path in case.items():
            nib.save(nib.load(path), path.removesuffix(".gz"))
            case[key] = path.removesuffix(".gz")
    prepare(cases, pipeline(), store)
    shutil.copytree(tmp_path / "raw", there)
    transform, others = pipeline(), moved(cases, there)
    if change == "content":
        path = Path(others[0]["label"])
        stat = path.stat()
        raw = bytearray(path.read_bytes())
        raw[-1] = 2
        path.write_bytes(raw)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "recipe":
        transform = pipeline(spacing=[3.0, 3.0, 3.0])
    elif change == "array":
        files_of(store, "i0", ".image.npy").write_bytes(b"")
    else:
        monkeypatch.setattr(os, "link", partial(os.link, src_dir_fd=-2))
    dataset = prepare(others, transform, store)
    fresh = prepare(others, transform, tmp_path / "fresh")
    for index in range(NUM_CASES):
        for key in ("image", "label"):
            assert torch.equal(dataset[index][key], fresh[index][key])


@pytest.mark.parametrize("array", ["image", "label", "positions"])
@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_damaged_array_is_built_again(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path, array: str, damage: str
):
    store = tmp_path / "store"
    prepare(cases, pipeline(), store)
    whole, before = contents(store), versions(store)
    path = files_of(store, "i1", f".{array}.npy")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    prepare(cases, pipeline(), store)
    assert contents(store) == whole
    assert rewritten(before, versions(store)) == {"i1"}


@pytest.mark.parametrize("text", ["", '{"name": "i1", "ide', "{}", "null", "[1]", "\x00\xff"])
def test_a_corrupt_sidecar_is_built_again(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path, text: str
):
    store = tmp_path / "store"
    prepare(cases, pipeline(), store)
    whole, before = contents(store), versions(store)
    files_of(store, "i1", ".json").write_text(text, encoding="latin-1")
    prepare(cases, pipeline(), store)
    assert contents(store) == whole
    assert rewritten(before, versions(store)) == {"i1"}


# --- when it cannot be built

KILLED = """
import sys, time
import numpy as np
from dynunet_bundle.preprocessing.store import PreparedDataset
from dynunet_bundle.configs.workflow import load_workflow
import json

bundle, store, request = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
workflow = load_workflow(bundle, "train.json", (), request["plan"])
transform = workflow.parser.get_parsed_content("preprocessing")
dataset = PreparedDataset(request["cases"], transform, store, num_classes=3, num_workers=1)
save, count = np.save, 0

def save_or_stall(file, array, **settings):
    # case by case come image, label, positions: this is the label of the third case
    global count
    count += 1
    if count == 8:
        file.write(b"half")
        file.flush()
        print("stalled", flush=True)
        time.sleep(600)
    save(file, array, **settings)

np.save = save_or_stall
dataset.cases()
"""


def test_a_killed_preparation_is_finished_by_the_next(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
):
    store, plan = tmp_path / "store", {"spacing": [2.0, 2.0, 2.0], "device": "cpu"}
    plan["label_names"] = ["background", "head", "tail"]
    prepare(cases, pipeline(), tmp_path / "uninterrupted")
    request = json.dumps({"plan": plan, "cases": cases})
    command = [sys.executable, "-c", KILLED, str(BUNDLE), str(store), request]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert any(line == "stalled\n" for line in process.stdout)
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    # interrupted in the middle: two complete cases, half an array of the third, nothing of the fourth
    names = contents(store).keys()
    assert len([name for name in names if name.endswith(".json")]) == 2
    assert len([name for name in names if name.endswith(".part")]) == 1
    before = versions(store)
    prepare(cases, pipeline(), store)
    assert contents(store) == contents(tmp_path / "uninterrupted")
    after = versions(store)
    kept = [name for name in before if name.startswith(("i0", "i1"))]
    assert len(kept) == 8
    assert [after[name] for name in kept] == [before[name] for name in kept]


def test_a_bad_case_is_named_and_leaves_nothing(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
):
    store = tmp_path / "store"
    Path(cases[1]["image"]).write_bytes(b"not an image")
    with pytest.raises(CaseError, match="case i1: cannot read"):
        prepare(cases, pipeline(), store, num_workers=1)
    names = contents(store).keys()
    # its neighbours are complete or absent, and those before it stay
    assert {name.split("-")[0] for name in names} >= {"i0"}
    assert all(len([n for n in names if n.startswith(case)]) in (0, 4) for case in ("i0", "i2"))
    assert not [name for name in names if "i1" in name or name.endswith(".part")]


def test_a_case_that_went_bad_is_not_served_from_the_store(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
):
    store = tmp_path / "store"
    prepare(cases, pipeline(), store)
    image = np.full(SHAPE, np.nan, np.float32)
    save_nifti(Path(cases[1]["image"]), image)
    with pytest.raises(CaseError, match="case i1: .* NaN"):
        prepare(cases, pipeline(), store)


def test_a_source_that_is_missing(cases: list[Case], pipeline: Pipeline, tmp_path: Path):
    Path(cases[1]["label"]).unlink()
    with pytest.raises(CaseError, match=r"case i1: .*l1\.nii\.gz is missing"):
        prepare(cases, pipeline(), tmp_path / "store")


def test_a_case_without_label_cannot_be_prepared_for_training(
    cases: list[Case], pipeline: Pipeline, tmp_path: Path
):
    with pytest.raises(CaseError, match="case i0: it has no label"):
        prepare([{"image": cases[0]["image"]}], pipeline(), tmp_path / "store")


def test_a_store_where_a_file_is(cases: list[Case], pipeline: Pipeline, tmp_path: Path):
    (tmp_path / "store").write_text("")
    with pytest.raises(OutputError, match="store"):
        prepare(cases, pipeline(), tmp_path / "store")


# --- positions


def label_of(**boxes: tuple[slice, slice, slice]) -> np.ndarray:
    label = np.zeros((1, 6, 7, 8), np.uint8)
    for name, box in boxes.items():
        label[0][box] = int(name[1:])
    return label


def test_positions_lie_in_their_class_and_everywhere_in_it():
    label = label_of(c1=np.s_[0:2, 0:7, 0:8], c3=np.s_[5:6, 6:7, 7:8])
    positions, present = sample_positions(label, 4, "case")
    assert present == [1, 3]
    assert positions.shape == (3, POSITIONS_PER_CLASS, 3)
    drawn = {tuple(voxel) for voxel in positions[0].tolist()}
    assert drawn == {tuple(voxel) for voxel in np.argwhere(label[0] == 1).tolist()}
    assert not positions[1].any()  # class 2 is absent
    assert (positions[2] == [5, 6, 7]).all()


def test_positions_are_drawn_evenly():
    label = label_of(c1=np.s_[0:6, 0:7, 0:8])
    positions, _ = sample_positions(label, 2, "case")
    middle = positions[0].mean(axis=0)
    # four standard errors
    np.testing.assert_allclose(middle, [2.5, 3.0, 3.5], atol=4 * 2.3 / POSITIONS_PER_CLASS**0.5)


def test_positions_of_a_case_without_foreground():
    positions, present = sample_positions(label_of(), 3, "case")
    assert present == []
    assert positions.shape == (2, POSITIONS_PER_CLASS, 3)


def test_positions_follow_from_the_name():
    label = label_of(c1=np.s_[0:6, 0:7, 0:8])
    first, second, other = (sample_positions(label, 2, name)[0] for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


# --- the description of the transforms

DESCRIBED = """
import json, sys
from dynunet_bundle.preprocessing.recipe import recipe_of
from dynunet_bundle.configs.workflow import load_workflow

workflow = load_workflow(sys.argv[1], "train.json", (), {"device": "cpu"})
print(json.dumps(recipe_of(workflow.parser.get_parsed_content("preprocessing")), sort_keys=True))
"""


def test_a_description_is_the_same_in_every_process(pipeline: Pipeline):
    def run(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", DESCRIBED, str(BUNDLE)]
        result = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment
        )
        return result.stdout.splitlines()[-1]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, ("1", "2"))
    assert first == second
    assert "ResampleToSpacingd" in first
    default = pipeline(spacing=[1.0, 1.0, 1.0], label_names=["background", "one", "two"])
    assert json.dumps(recipe_of(default), sort_keys=True) == first


def test_use_does_not_change_a_description(cases: list[Case], pipeline: Pipeline):
    # train and validate share one transform object, and the first one uses it
    transform = pipeline()
    before = json.dumps(recipe_of(transform))
    transform(cases[0])
    assert json.dumps(recipe_of(transform)) == before


@pytest.mark.parametrize(
    "override",
    [
        {"spacing": [2.0, 2.0, 2.5]},
        {"axcodes": "RAS"},
        {"label_names": ["background", "all"], "label_values": [0, 1]},
        {"label_values": [0, 128, 255]},
        {
            "normalization": ["ct"],
            "intensity_statistics": [{"lower": 0.0, "upper": 9.0, "mean": 4.0, "std": 2.0}],
        },
    ],
)
def test_every_setting_shows_in_the_description(pipeline: Pipeline, override: dict[str, Any]):
    assert recipe_of(pipeline()) == recipe_of(pipeline())
    assert recipe_of(pipeline(**override)) != recipe_of(pipeline())


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (Colour.RED, "red"),
        ((1, [2, "x"]), [1, [2, "x"]]),
        ({3: (4,)}, {"3": [4]}),
        (np.arange(3), [0, 1, 2]),
        (torch.tensor([1.0, 2.0]), [1.0, 2.0]),
        (torch.float16, "torch.float16"),
        (np.dtype("int16"), "int16"),
        (is_nonzero, "is_nonzero"),
        (partial(is_nonzero, image=3), ["is_nonzero", [], {"image": 3}]),
        (np.random.RandomState(7), "RandomState"),
    ],
)
def test_descriptions_are_json(thing: Any, expected: Any):
    assert recipe_of(thing) == expected
    assert json.loads(json.dumps(recipe_of(thing))) == expected


class Foreign(Transform):
    """A user's transform, from a module that is neither MONAI's nor ours."""

    def __init__(self, size: int, folder: Path) -> None:
        self.size = size
        self.folder = folder
        self.names = {"b", "a"}

    def __call__(self, data: Any) -> Any:
        return data


def test_a_transform_that_moves_to_another_module_keeps_the_store(monkeypatch):
    before = recipe_of(Foreign(1, Path("a")))
    monkeypatch.setattr(Foreign, "__module__", "somewhere.else")
    assert recipe_of(Foreign(1, Path("a"))) == before


def test_the_settings_of_a_users_own_transform_count():
    first, second = recipe_of(Foreign(1, Path("a"))), recipe_of(Foreign(2, Path("a")))
    assert first != second
    assert recipe_of(Foreign(1, Path("b"))) != first
    (settings,) = first.values()
    assert settings == {"size": 1, "folder": "a", "names": ["a", "b"]}


# --- voxels that nobody labelled


def test_no_patch_is_centred_on_an_ignored_voxel():
    label = np.zeros((1, *SHAPE), np.uint8)
    label[0, 2:5], label[0, 8:10] = 2, 1
    plain, present = sample_positions(label, 3, "case")
    label[0, 5:8] = 255
    label[0, 0] = 255
    positions, still_present = sample_positions(label, 3, "case")
    # background became ignored: the positions of the classes do not change
    assert np.array_equal(positions, plain)
    assert present == still_present == [1, 2]


def test_labelled_voxels_are_drawn_evenly_and_none_of_the_others():
    label = np.full((1, *SHAPE), 255, np.uint8)
    label[0, 3:6, 4:8, 1:7] = np.random.default_rng(0).integers(0, 3, (3, 4, 6))
    (positions,) = sample_labelled(label, "case")
    assert positions.shape == (POSITIONS_PER_CLASS, 3) and positions.dtype == np.int16
    counts = np.zeros(SHAPE, int)
    np.add.at(counts, tuple(positions.T), 1)
    assert (counts[label[0] == 255] == 0).all()
    drawn = counts[3:6, 4:8, 1:7]
    # 4096 draws from 72 voxels: 57 each, with a standard deviation of 7.5
    assert drawn.sum() == POSITIONS_PER_CLASS and drawn.min() > 25 and drawn.max() < 95
    assert np.array_equal(sample_labelled(label, "case")[0], positions)


@pytest.mark.parametrize("value", [0, 255])
def test_without_a_choice_there_is_no_row_of_labelled_voxels(value: int):
    assert sample_labelled(np.full((1, *SHAPE), value, np.uint8), "case") is None


def test_a_store_of_sparse_labels(cases: list[Case], pipeline: Pipeline, tmp_path: Path):
    sparse = nib.load(cases[1]["label"])
    label = np.asarray(sparse.dataobj).copy()
    label[:, :, :4] = 9
    save_nifti(Path(cases[1]["label"]), label)
    transform = pipeline(ignore_value=9)
    prepared = prepare(cases, transform, tmp_path / "store").cases()
    assert [case.sparse for case in prepared] == [False, True, False, False]
    assert np.load(prepared[0].positions).shape[0] == 2
    rows = np.load(prepared[1].positions)
    assert rows.shape[0] == 3
    stored = np.load(prepared[1].label)[0]
    assert set(np.unique(stored)) == {0, 1, 2, 255}
    at = stored[tuple(np.moveaxis(rows.astype(int), -1, 0))]
    assert (at[0] == 1).all() and (at[1] == 2).all()
    assert set(np.unique(at[2])) == {0, 1, 2}
    # read from the store, not prepared again
    assert prepare(cases, transform, tmp_path / "store").cases() == prepared


def test_only_an_ignored_value_makes_a_store_of_its_own(pipeline: Pipeline, tmp_path: Path):
    def recipe(**overrides: Any) -> str:
        return PreparedDataset([], pipeline(**overrides), str(tmp_path), 3).recipe_hash

    regions = {"regions": {"all": [1, 2], "tail": [2]}, "regions_class_order": [1, 2]}
    assert recipe() == recipe(**regions) != recipe(ignore_value=9)

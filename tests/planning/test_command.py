"""scripts/plan.py without its command line: what it writes, what it keeps, and what it refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BUNDLE, save_nifti, save_picture

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.dataset.folds import default_folds
from dynunet_bundle.dataset.select import FoldCases
from dynunet_bundle.errors import ConfigError, DatasetError, PlanError
from dynunet_bundle.images import read as volumes_module
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.planning.command import PlanRequest, plan_dataset
from dynunet_bundle.planning.plan import PLAN_IDS

SHAPE = (24, 20, 28)


def overlay_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Six labelled volumes in MSD layout, called Own."""
    root = tmp_path / "data" / "Own"
    entries = []
    for index in range(6):
        rng = np.random.default_rng(index)
        image = rng.normal(100, 20, SHAPE).astype(np.float32)
        label = np.zeros(SHAPE, np.uint8)
        label[4:12, 4:12, 4:12] = 1
        entry = {"image": f"imagesTr/c{index}.nii.gz", "label": f"labelsTr/c{index}.nii.gz"}
        save_nifti(root / entry["image"], image)
        save_nifti(root / entry["label"], label)
        entries.append(entry)
    labels = {"0": "background", "1": "organ"}
    content = {"modality": {"0": "MRI"}, "labels": labels, "training": entries}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Colour pictures with masks of 0, 128 and 255 in two plain folders, called Cells."""

    def make(num_cases: int = 6, colours: int = 3) -> Path:
        root = tmp_path / "data" / "Cells"
        for index in range(num_cases):
            rng = np.random.default_rng(index)
            shape = (64, 80) if colours == 1 else (64, 80, colours)
            mask = np.zeros((64, 80), np.uint8)
            mask[10:40, 10:50] = 128
            mask[20:30, 20:30] = 255
            image = rng.integers(1, 200, shape).astype(np.uint8)
            save_picture(root / "images" / f"p{index}.bmp", image)
            save_picture(root / "labels" / f"p{index}.png", mask)
        return root

    return make


def request_for(root: Path, tmp_path: Path, **changes: Any) -> PlanRequest:
    return replace(
        PlanRequest(tmp_path / "tasks", str(root), num_workers=1, cache_dir=tmp_path / "cache"),
        **changes,
    )


# --- what is written


def test_volumes_get_a_3d_plan_facts_and_folds(volumes: Path, tmp_path: Path):
    text = plan_dataset(request_for(volumes, tmp_path))
    tasks = tmp_path / "tasks"
    plan = overlay_of(tasks, "Own_3d")
    assert tuple(plan) == (*PLAN_IDS, "splits_file")
    assert plan["splits_file"] == str(tasks / "splits" / "Own.json")
    assert (plan["task_name"], plan["spatial_dims"]) == ("Own", 3)
    assert (plan["channel_names"], plan["label_names"]) == (["MRI"], ["background", "organ"])
    assert (plan["label_values"], plan["architecture"]) == ([0, 1], "DynUNet")
    facts = overlay_of(tasks / "fingerprints", "Own")
    assert facts["num_training"] == 6
    assert facts["channel_names"] == ["MRI"]
    assert overlay_of(tasks / "splits", "Own") == default_folds([f"c{i}" for i in range(6)], 5)
    for part in ("Own: found", "decided for 3d_fullres by nnU-Net's rules, planner plain"):
        assert part in text
    for path in ("Own_3d.json", "fingerprints/Own.json", "splits/Own.json"):
        assert str(tasks / path) in text


@pytest.mark.parametrize(
    ("configuration", "suffix", "dims"), [(None, "3d", 3), ("3d_fullres", "3d", 3), ("2d", "2d", 2)]
)
def test_the_name_of_the_overlay_tells_the_dimension(
    volumes: Path, tmp_path: Path, configuration: str | None, suffix: str, dims: int
):
    plan_dataset(request_for(volumes, tmp_path, configuration=configuration))
    (overlay,) = (tmp_path / "tasks").glob("*.json")
    assert overlay.name == f"Own_{suffix}.json"
    assert json.loads(overlay.read_text())["spatial_dims"] == dims


def test_the_overlay_can_be_written_elsewhere(volumes: Path, tmp_path: Path):
    out = tmp_path / "deep" / "plan.json"
    plan_dataset(request_for(volumes, tmp_path, out=out))
    assert overlay_of(out.parent, "plan")["task_name"] == "Own"
    assert (out.parent / "fingerprints" / "Own.json").is_file()
    assert not (tmp_path / "tasks").exists()
    assert overlay_of(out.parent, "plan")["splits_file"] == str(out.parent / "splits" / "Own.json")


def test_the_announced_folds_are_read(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    text = plan_dataset(request_for(volumes, tmp_path, out=Path("deep/plan.json")))
    splits = tmp_path / "deep" / "splits" / "Own.json"
    # as the user typed the folder, while the overlay has the whole path
    written = text.partition("\nwritten\n")[2]
    assert " deep/splits/Own.json\n" in written and str(splits) not in written
    own = [{"train": ["c0", "c1", "c2"], "val": ["c5"]}]
    splits.write_text(json.dumps(own))
    monkeypatch.chdir(volumes)
    overlay = tmp_path / "deep" / "plan.json"
    overrides = {"dataset_dir": str(volumes), "output_dir": str(tmp_path / "run")}
    workflow = load_workflow(BUNDLE, "train.json", [str(overlay)], overrides)
    cases = workflow.parser.get_parsed_content("cases")
    assert [name_of(case) for case in cases.training] == ["c0", "c1", "c2"]
    assert [name_of(case) for case in cases.validation] == ["c5"]
    assert cases.source == str(splits)


@pytest.mark.parametrize(
    ("num_cases", "advice"),
    [
        (1, "1 case. Pass to train --fold full; several folds need two cases."),
        (2, "2 cases. Pass to train --num_folds 2, or --fold full for every case."),
        (3, "3 cases. Pass to train --num_folds 2 to 3, or --fold full for every case."),
    ],
)
def test_the_plan_of_few_cases_says_how_to_train(
    pictures: Callable[..., Path], tmp_path: Path, num_cases: int, advice: str
):
    text = plan_dataset(request_for(pictures(num_cases), tmp_path))
    assert advice in text
    # the next command trains on as many cases
    assert text.endswith(" --fold full" if num_cases == 1 else f" --num_folds {num_cases}")
    assert "splits_file" not in overlay_of(tmp_path / "tasks", "Cells_2d")


@pytest.mark.parametrize("planner", ["resenc_m", "resenc_l", "resenc_xl"])
def test_residual_planners_name_their_network(volumes: Path, tmp_path: Path, planner: str):
    text = plan_dataset(request_for(volumes, tmp_path, planner=planner))
    architecture = overlay_of(tmp_path / "tasks", "Own_3d")["architecture"]
    assert architecture == "ResidualEncoderUNet"
    assert f"planner {planner}" in text
    assert "residual encoder" in text


def test_a_preset_needs_its_task(volumes: Path, tmp_path: Path):
    renamed = volumes.rename(volumes.parent / "Task04_Own")
    text = plan_dataset(request_for(renamed, tmp_path, preset="seed"))
    plan = overlay_of(tmp_path / "tasks", "Task04_Own_3d")
    assert plan["patch_size"] == [40, 56, 40]
    assert "decided by the seed's preset" in text
    plan_dataset(request_for(renamed, tmp_path, preset="seed", configuration="2d"))
    assert overlay_of(tmp_path / "tasks", "Task04_Own_2d")["patch_size"] == [56, 40]


def test_doubts_about_dicom_are_for_volumes(
    pictures: Callable[..., Path],
    volumes: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    for root, expected in ((pictures(5), False), (volumes, True)):
        caplog.clear()
        plan_dataset(request_for(root, tmp_path, more_doubts=lambda plan: ["no code"]))
        assert ("no code" in caplog.messages) is expected


def test_too_few_cases_get_no_folds_file(pictures: Callable[..., Path], tmp_path: Path):
    plan_dataset(request_for(pictures(4), tmp_path))
    assert not (tmp_path / "tasks" / "splits").exists()
    plan_dataset(request_for(pictures(5), tmp_path))
    assert (tmp_path / "tasks" / "splits" / "Cells.json").is_file()


def test_planning_again_reads_no_image(
    volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    request = request_for(volumes, tmp_path)
    first = plan_dataset(request)
    before = (tmp_path / "tasks" / "Own_3d.json").read_bytes()
    monkeypatch.setattr(volumes_module, "_read_file", lambda path: pytest.fail(f"{path} was read"))
    assert plan_dataset(request) == first
    assert (tmp_path / "tasks" / "Own_3d.json").read_bytes() == before


# --- names


def test_plain_colour_pictures_are_named_by_what_is_found(
    pictures: Callable[..., Path], tmp_path: Path
):
    root = pictures()
    text = plan_dataset(request_for(root, tmp_path))
    # single slices: 2d is the only choice, so nobody has to ask for it
    plan = overlay_of(tmp_path / "tasks", "Cells_2d")
    assert plan["spatial_dims"] == 2
    assert plan["channel_names"] == ["R", "G", "B"]
    assert plan["label_names"] == ["background", "class_128", "class_255"]
    assert plan["label_values"] == [0, 128, 255]
    assert plan["spacing"] == [1.0, 1.0]
    assert plan["patch_size"] == [64, 80]
    assert plan["normalization"] == ["zscore"] * 3
    assert "decided for 2d" in text
    # what the plan says selects the cases it was made from
    splits = str(tmp_path / "tasks" / "splits" / "Cells.json")
    labels = LabelScheme.from_plan(plan)
    cases = FoldCases(str(root), plan["channel_names"], labels, splits_file=splits)
    assert len(cases.training) == 4


def test_plain_pictures_of_one_channel(pictures: Callable[..., Path], tmp_path: Path):
    plan_dataset(request_for(pictures(colours=1), tmp_path))
    assert overlay_of(tmp_path / "tasks", "Cells_2d")["channel_names"] == ["channel_0"]


def test_plain_folders_take_the_users_names(pictures: Callable[..., Path], tmp_path: Path):
    names = {
        "channel_names": ["rgb_to_0_1"] * 3,
        "label_names": ["nothing", "cytoplasm", "nucleus"],
    }
    text = plan_dataset(request_for(pictures(), tmp_path, **names))
    plan = overlay_of(tmp_path / "tasks", "Cells_2d")
    assert plan["channel_names"] == names["channel_names"]
    assert plan["normalization"] == names["channel_names"]
    assert plan["label_names"] == names["label_names"]
    assert plan["label_values"] == [0, 128, 255]
    assert (
        overlay_of(tmp_path / "tasks" / "fingerprints", "Cells")["label_names"]
        == (names["label_names"])
    )
    assert "cytoplasm" in text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"channel_names": ["grey"]}, r"--channel_names has 1 name, but there are 3 channels"),
        (
            {"label_names": ["nothing", "cell"]},
            r"--label_names has 2 names, but there are 3 labels \(0, 128, 255\)",
        ),
    ],
)
def test_a_wrong_number_of_names(
    pictures: Callable[..., Path], tmp_path: Path, names: dict[str, Any], message: str
):
    with pytest.raises(ConfigError, match=message):
        plan_dataset(request_for(pictures(), tmp_path, **names))
    assert not (tmp_path / "tasks").exists()


@pytest.mark.parametrize(
    "names", [{"channel_names": ["CT"]}, {"label_names": ["background", "liver"]}]
)
def test_names_beside_dataset_json(volumes: Path, tmp_path: Path, names: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"Own names its channels and labels in dataset\.json"):
        plan_dataset(request_for(volumes, tmp_path, **names))
    assert not (tmp_path / "tasks").exists()


# --- from saved facts


def test_saved_facts_give_the_same_plan(pictures: Callable[..., Path], tmp_path: Path):
    names = {"label_names": ["nothing", "cytoplasm", "nucleus"]}
    plan_dataset(request_for(pictures(), tmp_path, **names))
    facts = tmp_path / "tasks" / "fingerprints" / "Cells.json"
    again = tmp_path / "again" / "plan.json"
    request = PlanRequest(tmp_path / "tasks", fingerprint=str(facts), out=again)
    text = plan_dataset(request)
    plan = overlay_of(tmp_path / "tasks", "Cells_2d")
    # without cases there are no folds
    del plan["splits_file"]
    assert overlay_of(again.parent, "plan") == plan
    assert "nucleus" in text
    # without cases there is nothing to write beside it
    assert [path.name for path in again.parent.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("content", ["[1]", "{}", "{oops"])
def test_malformed_facts_are_refused(tmp_path: Path, content: str):
    facts = tmp_path / "facts.json"
    facts.write_text(content)
    request = PlanRequest(tmp_path / "tasks", fingerprint=str(facts), out=tmp_path / "plan.json")
    with pytest.raises(PlanError, match=r"facts\.json|fingerprint"):
        plan_dataset(request)
    assert not (tmp_path / "plan.json").exists()


# --- folds of a user


def test_folds_that_a_user_edited_are_kept(volumes: Path, tmp_path: Path):
    plan_dataset(request_for(volumes, tmp_path))
    splits = tmp_path / "tasks" / "splits" / "Own.json"
    own = [{"train": ["c0", "c1", "c2"], "val": ["c5"]}]
    splits.write_text(json.dumps(own))
    before = splits.read_bytes()
    text = plan_dataset(request_for(volumes, tmp_path, configuration="2d"))
    assert splits.read_bytes() == before
    assert str(splits) in text


def test_folds_of_cases_that_are_gone_are_refused_before_anything_is_written(
    volumes: Path, tmp_path: Path
):
    plan_dataset(request_for(volumes, tmp_path))
    content = json.loads((volumes / "dataset.json").read_text())
    content["training"] = content["training"][1:]
    (volumes / "dataset.json").write_text(json.dumps(content))
    tasks = tmp_path / "tasks"
    before = {path: path.read_bytes() for path in tasks.rglob("*.json")}
    with pytest.raises(
        DatasetError, match=r"splits/Own\.json: fold 0 .*outside the data set: c0.* delete it"
    ):
        plan_dataset(request_for(volumes, tmp_path, planner="resenc_m", overwrite=True))
    assert {path: path.read_bytes() for path in tasks.rglob("*.json")} == before


# --- what does not go together


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu_memory_gb": 0}, "--gpu_memory_gb is 0; it must be positive"),
        ({"gpu_memory_gb": float("nan")}, "must be positive"),
        ({"fingerprint": "f.json"}, "--fingerprint needs --out"),
        (
            {"fingerprint": "f.json", "out": Path("o.json"), "preset": "seed"},
            "cannot be combined with --preset",
        ),
        (
            {"fingerprint": "f.json", "out": Path("o.json"), "channel_names": ["CT"]},
            "cannot be combined with --channel_names or --label_names",
        ),
        ({"preset": "seed", "target_spacing": (1.0, 1.0, 1.0)}, "--preset has spacings of its own"),
        ({"preset": "seed", "planner": "resenc_m"}, "--preset seed has 2d and 3d_fullres"),
        ({"preset": "seed", "configuration": "3d_lowres"}, "--preset seed has 2d and 3d_fullres"),
    ],
)
def test_arguments_that_do_not_go_together(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        plan_dataset(request_for(tmp_path / "nowhere", tmp_path, **changes))


def test_pictures_have_no_3d_plan(pictures: Callable[..., Path], tmp_path: Path):
    with pytest.raises(PlanError, match="there is no 3d_fullres .* these fit: 2d"):
        plan_dataset(request_for(pictures(), tmp_path, configuration="3d_fullres"))
    assert not (tmp_path / "tasks").exists()


# --- real sets


@pytest.mark.parametrize(
    ("folder", "overlay", "values", "channels"),
    [
        ("em_2d_grey", "em_2d_grey_2d", [0, 255], ["channel_0"]),
        ("wbc_2d_rgb", "wbc_2d_rgb_2d", [0, 128, 255], ["R", "G", "B"]),
        ("spinalcord_t2_psr", "spinalcord_t2_psr_3d", [0, 1], ["T2"]),
    ],
)
def test_real_sets_are_planned(
    real_data: Path,
    tmp_path: Path,
    folder: str,
    overlay: str,
    values: list[int],
    channels: list[str],
):
    plan_dataset(request_for(real_data / "extra" / folder, tmp_path))
    plan = overlay_of(tmp_path / "tasks", overlay)
    assert plan["label_values"] == values
    assert plan["channel_names"] == channels
    assert len(plan["strides"]) >= 3


def test_a_plan_of_pictures_speaks_of_pixels_and_tells_a_repeated_channel_once(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    mask = np.zeros((40, 48), np.uint8)
    mask[10:20, 10:30] = 1
    for index in range(6):
        save_picture(tmp_path / "Own_2" / "images" / f"p{index}.png", colours)
        save_picture(tmp_path / "Own_2" / "labels" / f"p{index}.png", mask)
    names = ["rgb_to_0_1"] * 3
    text = plan_dataset(
        request_for(tmp_path / "Own_2", tmp_path, name="cells", channel_names=names)
    )
    rows = text.partition("next:")[0]
    for wanted in ("pixels (all)", " px ", "rgb_to_0_1 for each channel", "channel 1, rgb_to_0_1"):
        assert wanted in rows, wanted
    for absent in (" mm", "voxels ", "array axes", "rgb_to_0_1, rgb"):
        assert absent not in rows, absent
    assert "planning: task cells;" in log.text


def test_channels_without_names_are_not_normalized_by_their_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 48), np.uint8)
    mask[10:20, 10:30] = 1
    for index in range(6):
        grey = rng.integers(0, 256, (40, 48), np.uint8)
        save_picture(tmp_path / "Own_2" / "images" / f"p{index}.png", grey)
        save_picture(tmp_path / "Own_2" / "labels" / f"p{index}.png", mask)
    text = plan_dataset(request_for(tmp_path / "Own_2", tmp_path))
    assert "the default, as the channels have no names" in text
    assert "by the channel's name" not in text
    assert "  channel 0 " in text

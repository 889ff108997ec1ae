"""A plan that can be made but is doubtful says so, and an overlay that weights need is not changed."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import save_nifti, save_picture

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.planning.command import PlanRequest, plan_dataset


def volumes(folder: Path, low: float, high: float, channel: str = "MRI", classes: int = 1) -> Path:
    """A data set of five images with values from ``low`` to ``high``, and class 1 in their middle."""
    names = {"background": 0, **{f"class {number}": number for number in range(1, classes + 1)}}
    content = {"channel_names": {"0": channel}, "labels": names, "numTraining": 5}
    content |= {"file_ending": ".nii.gz"}
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(content))
    rng = np.random.default_rng(0)
    for case in "abcde":
        label = np.zeros((24, 24, 24), np.uint8)
        label[6:18, 6:18, 6:18] = 1
        image = rng.uniform(low, high, label.shape).astype(np.float32)
        image[6, 6, 6:8] = low, high
        save_nifti(folder / "imagesTr" / f"{case}_0000.nii.gz", image)
        save_nifti(folder / "labelsTr" / f"{case}.nii.gz", label)
    return folder


def plan(folder: Path, out: Path, **given: object) -> PlanRequest:
    return PlanRequest(tasks_dir=out, dataset_dir=str(folder), out=out / "plan.json", **given)


def doubts(caplog: pytest.LogCaptureFixture, request: PlanRequest) -> list[str]:
    caplog.clear()
    caplog.set_level(logging.WARNING)
    plan_dataset(request)
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "dynunet_bundle.planning.command"
    ]


@pytest.mark.parametrize(
    ("low", "high", "channel", "found"),
    [
        (-1000, 1500, "MRI", True),
        (-120, 250, "scan", True),
        (-1000, 1500, "CT", False),
        (0, 1500, "MRI", False),
        (-3, 3, "MRI", False),  # standardized values
        (-20000, 30000, "MRI", False),
    ],
)
def test_values_of_ct_under_another_name_are_told(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    low: float,
    high: float,
    channel: str,
    found: bool,
) -> None:
    told = doubts(caplog, plan(volumes(tmp_path / "data", low, high, channel), tmp_path))
    assert len(told) == found
    if found:
        assert f'channel "{channel}"' in told[0] and "name the channel CT" in told[0]


def test_a_class_that_no_label_has_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (told,) = doubts(caplog, plan(volumes(tmp_path / "data", 0, 9, classes=2), tmp_path))
    assert told.startswith('no training label has the class "class 2" (2)')


def test_colours_that_are_not_normalized_as_such_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    for case in "abcde":
        picture = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
        label = np.zeros((32, 32), np.uint8)
        label[8:24, 8:24] = 1
        save_picture(tmp_path / "data" / "images" / f"{case}.png", picture)
        save_picture(tmp_path / "data" / "labels" / f"{case}.png", label)
    (told,) = doubts(caplog, plan(tmp_path / "data", tmp_path))
    assert "R, G, B have values" in told and "name each of them rgb_to_0_1" in told
    named = plan(tmp_path / "data", tmp_path, channel_names=["rgb_to_0_1"] * 3, overwrite=True)
    assert doubts(caplog, named) == []


def test_the_task_has_the_name_that_the_user_gives(tmp_path: Path) -> None:
    data = volumes(tmp_path / "data", 0, 9)
    plan_dataset(PlanRequest(tmp_path, dataset_dir=str(data), name="Liver CT $(x)"))
    (overlay,) = tmp_path.glob("Liver*_3d.json")
    content = json.loads(overlay.read_text())
    assert content["task_name"] == overlay.stem.removesuffix("_3d") and "$" not in overlay.name
    assert Path(content["splits_file"]).is_file()


def test_another_plan_in_the_same_file_needs_overwrite(tmp_path: Path) -> None:
    data = volumes(tmp_path / "data", 0, 9)
    plan_dataset(plan(data, tmp_path))
    before = (tmp_path / "plan.json").read_bytes()
    plan_dataset(plan(data, tmp_path))
    assert (tmp_path / "plan.json").read_bytes() == before
    with pytest.raises(ConfigError, match=r"holds another plan \(.*architecture.*--overwrite"):
        plan_dataset(plan(data, tmp_path, planner="resenc_m"))
    assert (tmp_path / "plan.json").read_bytes() == before
    hostile = {"task_name": "a\x1b[2Jb", "axcodes": "$__import__('os').system('x')\n"}
    (tmp_path / "plan.json").write_text(json.dumps(hostile))
    with pytest.raises(ConfigError) as info:
        plan_dataset(plan(data, tmp_path))
    assert str(info.value).isprintable()
    plan_dataset(plan(data, tmp_path, planner="resenc_m", overwrite=True))
    assert (tmp_path / "plan.json").read_bytes() != before

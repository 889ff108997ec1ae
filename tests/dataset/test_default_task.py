"""Data that the default plan does not fit are refused or told, with the command that plans them."""

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import BUNDLE

from dynunet_bundle.commands.main import run_program
from dynunet_bundle.dataset.default_task import DEFAULT_TASK, MAX_PATCHES
from dynunet_bundle.dataset.inputs import find_inputs
from dynunet_bundle.dataset.phantom import make_phantom
from dynunet_bundle.dataset.select import FoldCases
from dynunet_bundle.errors import PlanError
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.planning.plan import PLAN_IDS

CONFIGS = ("train.json", "inference.json", "evaluate.json")


def default_plan(name: str = "train.json") -> dict:
    config = json.loads((BUNDLE / "configs" / name).read_text())
    return {key: config[key] for key in PLAN_IDS}


def write_image(path: Path, shape: tuple[int, ...], spacing_mm: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), affine), path)


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A data set whose dataset.json names other classes."""
    make_phantom(tmp_path / "Own", num_cases=5, num_test=1, seed=0)
    return tmp_path / "Own"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A data set of two folders, without names."""
    for folder in ("images", "labels"):
        for case in range(5):
            write_image(tmp_path / "Own" / folder / f"c{case}.nii.gz", (40, 50, 40))
    return tmp_path / "Own"


def fold_cases(root: Path, **changes: object) -> FoldCases:
    plan = {**default_plan(), **changes}
    labels = LabelScheme.from_plan(plan)
    return FoldCases(str(root), plan["channel_names"], labels, plan=plan)


@pytest.mark.parametrize("name", CONFIGS[:2])
def test_the_task_is_that_of_the_configs(name: str) -> None:
    assert default_plan(name)["task_name"] == DEFAULT_TASK


@pytest.mark.parametrize("kind", ["named", "plain"])
def test_training_without_an_overlay_is_refused_before_cases_are_prepared(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = request.getfixturevalue(kind)
    with pytest.raises(PlanError, match=f"Run dynunet-bundle plan {root} and pass its overlay"):
        run_program(["train", str(root), "-o", str(tmp_path / "run")])
    assert not list(tmp_path.glob("run/prepared/*"))
    with pytest.raises(PlanError, match="dynunet-bundle plan"):
        _ = fold_cases(root).training


def test_the_default_plan_may_be_meant(plain: Path) -> None:
    assert len(fold_cases(plain, task_name="Own").training) == 4
    (plain.parent / DEFAULT_TASK).symlink_to(plain)
    assert len(fold_cases(plain.parent / DEFAULT_TASK).training) == 4


def test_large_cases_under_the_same_names_are_told(
    named: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads((named / "dataset.json").read_text())
    content["labels"] = dict(enumerate(default_plan()["label_names"]))
    (named / "dataset.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        _ = fold_cases(named).training
    assert not caplog.records
    for file in (named / "imagesTr").iterdir():
        write_image(file, (100, 100, 100))
    with caplog.at_level(logging.WARNING):
        _ = fold_cases(named).training
        _ = fold_cases(named, task_name="Own").training
    (told,) = (record.getMessage() for record in caplog.records)
    assert "100 x 100 x 100 voxels" in told and f"dynunet-bundle plan {named}" in told


def test_images_of_other_classes_need_a_model_that_is_named(
    named: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = str(named / "imagesTs")
    with pytest.raises(PlanError, match="the classes head, tail.*--model"):
        run_program(["predict", "-i", images, "-o", str(tmp_path / "masks")])
    with caplog.at_level(logging.WARNING):
        assert len(find_inputs(images, plan=default_plan())) == 1
    assert "the classes head, tail" in caplog.text


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "is_told"),
    [
        ((40, 56, 40), 1.0, False),
        ((60, 70, 60), 1.0, False),
        ((60, 70, 60), 2.0, True),
        ((40 * MAX_PATCHES, 57, 40), 1.0, True),
        ((512, 512, 1), 0.1, True),
        ((64, 64), 1.0, True),
    ],
)
def test_images_of_another_size_or_dimension_are_told(
    shape: tuple[int, ...],
    spacing_mm: float,
    is_told: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_image(tmp_path / "a.nii.gz", shape, spacing_mm)
    with caplog.at_level(logging.WARNING):
        find_inputs(tmp_path, plan=default_plan())
        find_inputs(tmp_path, plan={**default_plan(), "task_name": "Own"})
        find_inputs(tmp_path)
    assert len(caplog.records) == is_told

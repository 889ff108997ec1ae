"""A training that cannot go on says why in one line, and leaves the last good state as it was."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import save_nifti
from fault_checks import LAST, assert_error, load, names
from fault_runs import (  # noqa: F401 - the_runs is a fixture
    Runs,
    Training,
    probe,
    the_runs,
)

pytestmark = pytest.mark.fault


def all_finite(content: Any) -> bool:
    if isinstance(content, torch.Tensor):
        return bool(torch.isfinite(content).all())
    items = content.values() if isinstance(content, dict) else content
    return all(map(all_finite, items)) if isinstance(content, (dict, list, tuple)) else True


# at these rates weights are too large for float32 after one step, or products of them after two
@pytest.mark.parametrize(
    ("rate", "iteration", "what"),
    [(1e30, 2, "the loss is"), pytest.param(1e9, 3, "the gradient is", marks=pytest.mark.slow)],
)
def test_a_rate_that_is_far_too_high(
    runs: Runs,
    tmp_path: Path,
    rate: float,
    iteration: int,
    what: str,
) -> None:
    training = runs.training(
        tmp_path, learning_rate=rate, gradient_clip=1e30, iterations_per_epoch=1
    )
    done = training.run()
    line = assert_error(done, 1, what, f"in iteration {iteration}", "lower --learning_rate")
    state = load(training.models / LAST)
    assert state["iteration"] == iteration - 1
    assert all_finite(state["model"])
    assert all_finite(state["optimizer"])
    assert all_finite(load(training.models / "model.pt"))
    status = training.status()
    assert (status["state"], f"error: {status['message']}") == ("failed", line)
    if what == "the loss is":
        batch = json.loads((training.run_dir / "bad_batch.json").read_text())
        assert (batch["epoch"], batch["iteration"], batch["loss"]) == (iteration, iteration, "nan")
        cases = [sample["case"] for sample in batch["samples"]]
        assert len(cases) == 2
        assert all(case in line for case in cases)
        # the feed counts samples through the training: two a batch
        assert [sample["sample"] for sample in batch["samples"]] == [2, 3]


def test_a_gpu_that_is_full(runs: Runs, tmp_path: Path) -> None:
    training = runs.training(tmp_path)
    done = training.run(probe("OutOfMemory", network="@network", at=3))
    needed = (
        "batch_size 2",
        "patch_size [16, 16, 16]",
        "--batch_size",
        "--patch_size",
        "dynunet-bundle plan",
    )
    assert_error(done, 1, "too little memory", *needed)
    assert load(training.models / LAST)["epoch"] == 1
    assert training.status()["state"] == "failed"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_gpu_that_is_full(runs: Runs, tmp_path: Path) -> None:
    training = runs.training(tmp_path, device="cuda:0", amp=True)
    done = training.run(probe("LimitGpu", fraction=1e-5, at=3))
    assert_error(done, 1, "too little memory", "batch_size 2", "patch_size [16, 16, 16]")
    assert load(training.models / LAST)["epoch"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_with_a_value_that_is_no_number(
    own_phantom: Path, tmp_path: Path, value: float
) -> None:
    path = own_phantom / "imagesTr" / "phantom_002.nii.gz"
    image = nib.load(path)
    array = np.asarray(image.dataobj).astype(np.float32)
    array[3, 4, 5] = value
    save_nifti(path, array, image.affine)
    training = Training(tmp_path / "own", own_phantom, tmp_path / "store")
    assert_error(training.run(), 2, "case phantom_002", "1 NaN or infinite voxel", "Repair")
    assert names(training.models) == set()
    assert not [name for name in names(training.store) if name.startswith("phantom_002")]
    assert not [name for name in names(training.store) if name.endswith(".part")]

"""The parity check of exported models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_nifti
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from dynunet_bundle.delivery.export.parity import (
    Times,
    compare,
    image_patches,
    run_on,
    synthetic_patches,
    time_patch,
)
from dynunet_bundle.errors import CaseError


def logits_of(*rows: list[float]) -> torch.Tensor:
    """Logits ``[1, outputs, 1, 1, voxels]``, one row per output."""
    return torch.tensor(rows, dtype=torch.float32)[None, :, None, None, :]


CLASSES = logits_of([5, 0, 0, 0, 5, 5], [0, 5, 5, 0, 0, 0], [0, 0, 0, 5, 0, 0])


def test_equal_results_are_equal():
    parity = compare(CLASSES, CLASSES, regions=False)
    assert (parity.max_difference, parity.dice, parity.max_logit) == (0, 1, 5)
    assert parity.problem("fp32") == ""


def test_dice_is_that_of_all_patches_and_classes_together():
    # one of the six labelled voxels is lost, in the first patch
    first = CLASSES.clone()
    first[0, :, 0, 0, 2] = torch.tensor([5.0, 0, 0])
    ours, theirs = torch.cat([CLASSES, CLASSES]), torch.cat([first, CLASSES])
    parity = compare(ours, theirs, regions=False)
    assert parity.dice == pytest.approx(2 * 5 / (6 + 5))
    assert parity.max_difference == 5
    assert "below 0.999" in parity.problem("fp32")
    assert "below 0.99" in parity.problem("fp16")


def test_a_class_that_only_the_exported_model_finds_counts():
    without = CLASSES.clone()
    without[0, 2] = -1
    without[0, 0, 0, 0, 3] = 1
    assert compare(without, CLASSES, regions=False).dice == pytest.approx(2 * 2 / (2 + 3))
    assert compare(without, without, regions=False).dice == 1


def test_regions_are_compared_one_by_one():
    reference = logits_of([5, 5, -5, -5], [5, -5, -5, -5])
    other = logits_of([5, 5, -5, -5], [5, 5, -5, -5])
    parity = compare(reference, other, regions=True)
    assert parity.dice == pytest.approx(2 * 3 / (3 + 4))
    # as classes the second output never wins
    assert compare(reference, other, regions=False).dice == 1


def test_swapped_classes_fail_in_every_precision():
    parity = compare(CLASSES, CLASSES[:, [0, 2, 1]], regions=False)
    assert parity.dice == 0
    assert all(parity.problem(precision) for precision in ("fp32", "fp16", "bf16"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_fails(value):
    spoiled = CLASSES.clone()
    spoiled[0, 0, 0, 0, 0] = value
    assert "finite" in compare(CLASSES, spoiled, regions=False).problem("fp16")


def test_empty_masks_do_not_hide_other_logits():
    empty = logits_of([5, 5, 5], [-5, -5, -5])
    parity = compare(empty, 0.5 * empty, regions=False)
    assert parity.dice == 1
    assert "logits differ by up to 2.5, with a largest logit of 5" in parity.problem("fp32")
    assert compare(empty, empty * 1.0005, regions=False).problem("fp32") == ""


def test_patches_run_alone_and_as_a_batch():
    sizes = []

    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return 2 * x.half()

    patches = torch.arange(4.0)[:, None]
    result = run_on(Double(), patches)
    assert torch.equal(result, 2 * patches)
    assert result.dtype == torch.float32
    assert sizes == [1, 3]
    run_on(Double(), patches[:1])
    assert sizes == [1, 3, 1]


def test_timing_runs_as_often_as_it_says():
    calls = []
    times = time_patch(torch.nn.Identity(), torch.zeros(1), repeats=3, warm_up=2)
    assert isinstance(times, Times)
    assert times.wall_ms >= 0
    network = torch.nn.Identity()
    network.register_forward_hook(lambda *_: calls.append(1))
    time_patch(network, torch.zeros(1), repeats=3, warm_up=2)
    assert len(calls) == 5


@pytest.mark.parametrize("shape", [(2, 16, 24, 7), (1, 20, 12)])
def test_made_up_patches_are_the_same_each_time(shape):
    patches = synthetic_patches(shape, 3)
    assert patches.shape == (3, *shape)
    assert torch.equal(patches, synthetic_patches(shape, 3))
    assert not torch.equal(patches[0], patches[1])
    assert 0.3 < patches.std() < 2
    # neighbours are alike, as in an image
    flat = patches[..., 1:] * patches[..., :-1]
    assert flat.mean() > 0.1


READ = Compose([LoadImaged("image", image_only=True), EnsureChannelFirstd("image")])


@pytest.fixture
def cases(tmp_path: Path) -> list[dict[str, str]]:
    """Two images whose voxels all differ; the second is smaller than a patch."""
    sizes = {"a": (20, 18, 12), "b": (6, 18, 12)}
    return [
        {"image": str(save_nifti(tmp_path / f"{name}.nii.gz", unique(size, offset)))}
        for offset, (name, size) in enumerate(sizes.items(), 1)
    ]


def unique(size: tuple[int, ...], offset: int) -> np.ndarray:
    return (np.arange(np.prod(size), dtype=np.float32) + 10_000 * offset).reshape(size)


def test_patches_are_parts_of_the_images(cases):
    shape = (1, 8, 9, 10)
    patches = image_patches(cases, READ, shape, 3)
    assert patches.shape == (3, *shape)
    assert type(patches) is torch.Tensor
    assert torch.equal(patches, image_patches(cases, READ, shape, 3))
    a, b = unique((20, 18, 12), 1), unique((6, 18, 12), 2)
    for patch in patches[:2, 0].numpy():
        x, y, z = np.argwhere(a == patch[0, 0, 0])[0]
        assert np.array_equal(a[x : x + 8, y : y + 9, z : z + 10], patch)
    assert not torch.equal(patches[0], patches[1])
    # six voxels of image, one of padding before and behind
    assert not patches[2, 0, [0, 7]].any()
    assert np.isin(patches[2, 0, 1:7].numpy(), b).all()


def test_a_plan_of_slices_takes_slices(cases):
    patches = image_patches(cases[:1], READ, (1, 9, 10), 2)
    assert patches.shape == (2, 1, 9, 10)
    a = unique((20, 18, 12), 1)
    x, y, z = np.argwhere(a == patches[0, 0, 0, 0].item())[0]
    assert np.array_equal(a[x, y : y + 9, z : z + 10], patches[0, 0].numpy())


def test_no_more_images_are_read_than_patches_are_wanted(cases):
    missing = {"image": "nowhere.nii.gz"}
    assert len(image_patches([*cases, missing], READ, (1, 8, 8, 8), 2)) == 2
    with pytest.raises(CaseError, match="nowhere"):
        image_patches([missing], READ, (1, 8, 8, 8), 2)

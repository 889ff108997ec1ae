"""What only a CUDA device shows: the feed computes there what it computes on the CPU, AMP trains, masks agree."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE, TINY

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.feed.loader import DaliLoader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


SHIPPED = json.loads((BUNDLE / "configs" / "train.json").read_text())["augmentation"]
SEED_LIST = json.loads((BUNDLE / "configs" / "seed_augmentation.json").read_text())["augmentation"]
KINDS = {**SHIPPED, "brightness_contrast": SEED_LIST["brightness_contrast"]}
PATCHES = {"3d": [16, 16, 16], "dummy 2d": [4, 16, 20], "2d": [16, 20]}


def feeds(train_workflow, patch_size, augmentation, **settings) -> list[DaliLoader]:
    """The same feed on the GPU and on the CPU."""
    store = {"store_dtype": settings.pop("store_dtype", "float32")}
    dataset = train_workflow(device="cpu", **store).parser.get_parsed_content("train#dataset")
    return [
        DaliLoader(dataset, patch_size, 4, 4, augmentation, seed=3, device=device, **settings)
        for device in ("cuda:0", "cpu")
    ]


def assert_alike(
    loaders: list[DaliLoader], tolerance: float, share: float = 0, label_share: float = 0
) -> None:
    """All values and labels but a share agree, and there are values to compare."""
    for on_gpu, on_cpu in zip(*loaders, strict=True):
        assert on_gpu["image"].is_cuda and on_gpu["label"].is_cuda
        assert on_gpu["image"].dtype == torch.float32 and on_gpu["label"].dtype == torch.uint8
        assert on_gpu["image"].shape == on_cpu["image"].shape
        assert (on_gpu["label"].cpu() != on_cpu["label"]).float().mean() <= label_share
        off = (on_gpu["image"].cpu() - on_cpu["image"]).abs() > tolerance
        assert off.float().mean() <= share
        assert on_cpu["image"].std() > 0.1
    for loader in loaders:
        loader.close()


@pytest.mark.parametrize("form", PATCHES)
@pytest.mark.parametrize(
    "kinds",
    [
        (),
        ("noise", "brightness", "contrast", "mirror"),
        *((kind,) for kind in KINDS if kind not in ("rotation", "scaling", "low_resolution")),
    ],
    ids=" ".join,
)
def test_intensities_and_mirrors_are_on_the_gpu_what_they_are_on_the_cpu(
    train_workflow, form, kinds
):
    config = {kind: {**KINDS[kind], "prob": 1.0} for kind in kinds}
    # a power below 1 enlarges what is rounded in the darkest voxels
    tolerance = 1e-3 if {"gamma", "gamma_inverted"} & set(kinds) else 1e-4
    assert_alike(feeds(train_workflow, PATCHES[form], config), tolerance)


@pytest.mark.parametrize("form", PATCHES)
@pytest.mark.parametrize(
    "kinds", [("rotation",), ("scaling",), ("rotation", "scaling", "mirror")], ids=" ".join
)
def test_patches_are_placed_on_the_gpu_as_on_the_cpu(train_workflow, form, kinds):
    config = {kind: {**KINDS[kind], "prob": 1.0} for kind in kinds}
    # a point halfway between two voxels may fall to either
    assert_alike(feeds(train_workflow, PATCHES[form], config), 1e-3, label_share=0.01)


@pytest.mark.parametrize("form", PATCHES)
def test_low_resolution(train_workflow, form):
    config = {"low_resolution": {**KINDS["low_resolution"], "prob": 1.0}}
    # as above, here of the image
    assert_alike(feeds(train_workflow, PATCHES[form], config), 1e-4, share=0.01)


@pytest.mark.parametrize("form", PATCHES)
@pytest.mark.parametrize("store_dtype", ["float32", "float16"])
def test_the_full_list_is_on_the_gpu_what_it_is_on_the_cpu(train_workflow, form, store_dtype):
    # often enough that most samples have several, rotation among them
    config = {kind: {**settings, "prob": 0.6} for kind, settings in KINDS.items()}
    loaders = feeds(train_workflow, PATCHES[form], config, store_dtype=store_dtype)
    # powers and stretches enlarge what interpolation rounds differently
    assert_alike(loaders, 2e-2, 0.02, 0.01)


@pytest.mark.parametrize("form", PATCHES)
def test_cubic_scaling(train_workflow, form):
    config = {"scaling": {**SEED_LIST["scaling"], "prob": 1.0}}
    assert_alike(feeds(train_workflow, PATCHES[form], config), 1e-2, label_share=0.01)


def test_neighbouring_slices_and_zeros_outside(train_workflow):
    config = {kind: {**settings, "prob": 0.6} for kind, settings in KINDS.items()}
    settings = {"volumes_per_batch": 2, "zero_outside": True}
    assert_alike(feeds(train_workflow, PATCHES["2d"], config, **settings), 2e-2, 0.02, 0.01)


def test_a_feed_on_the_gpu_is_exact(train_workflow):
    config = {kind: {**settings, "prob": 0.6} for kind, settings in KINDS.items()}
    first, _ = feeds(train_workflow, PATCHES["3d"], config)
    expected = list(first)
    again, _ = feeds(train_workflow, PATCHES["3d"], config, num_threads=4, prefetch=3)
    again.num_iterations = 2
    again.load_state_dict({**again.state_dict(), "iteration": 2})
    for ours, theirs in zip(again, expected[2:], strict=True):
        assert torch.equal(ours["image"], theirs["image"])
        assert torch.equal(ours["label"], theirs["label"])


def test_training_with_mixed_precision_and_a_float16_store(train_workflow, tmp_path):
    train_workflow(device="cuda:0", amp=True, store_dtype="float16").run()
    log = [json.loads(line) for line in (tmp_path / "run" / "train_log.jsonl").open()]
    assert len(log) == TINY["epochs"]
    assert all(np.isfinite(record["loss"]) for record in log)
    state = torch.load(tmp_path / "models" / "checkpoint_last.pt", weights_only=True)
    assert state["scaler"]["scale"] > 0


def predict(phantom: Path, weights: Path, output: Path, device: str) -> list[np.ndarray]:
    plan = {key: value for key, value in TINY.items() if "epoch" not in key}
    overrides = {
        **{
            key: plan[key]
            for key in json.loads(weights.with_suffix(".json").read_text())["plan"]
            if key in plan
        },
        "dataset_dir": str(phantom),
        "weights_file": str(weights),
        "output_dir": str(output),
        "device": device,
        "amp": False,
    }
    load_workflow(BUNDLE, "inference.json", overrides=overrides).run()
    return [np.asarray(nib.load(path).dataobj) for path in sorted(output.glob("*.nii.gz"))]


def test_masks_agree_between_devices(train_workflow, phantom, tmp_path):
    train_workflow(device="cuda:0", epochs=1).run()
    weights = tmp_path / "models" / "model.pt"
    ours, theirs = (
        predict(phantom, weights, tmp_path / device, device) for device in ("cuda:0", "cpu")
    )
    for a, b in zip(ours, theirs, strict=True):
        assert (a == b).mean() > 0.999

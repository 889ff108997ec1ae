"""The last state of a training serves as weights: those of its last epoch, with its own plan."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BUNDLE
from monai.networks.nets import DynUNet
from torch.optim.swa_utils import AveragedModel

from dynunet_bundle.errors import WeightsError
from dynunet_bundle.networks.dynunet import DeepSupervisedDynUNet, inference_state_dict
from dynunet_bundle.networks.model_json import CHECKPOINTS, model_plan
from dynunet_bundle.networks.weights import (
    learnt_mirroring,
    load_weights,
    read_weights,
    save_weights,
)
from dynunet_bundle.planning.plan import PLAN_IDS

SETTINGS: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "kernel_size": [[3, 3]] * 4,
    "strides": [[1, 1]] + [[2, 2]] * 3,
    "filters": [2, 3, 4, 5],
}
TRAIN = json.loads((BUNDLE / "configs" / "train.json").read_text())
PLAN = {name: TRAIN[name] for name in PLAN_IDS} | {"spatial_dims": 2}


def network(seed: int) -> DeepSupervisedDynUNet:
    torch.manual_seed(seed)
    return DeepSupervisedDynUNet(**SETTINGS)


def plain() -> DynUNet:
    return DynUNet(**SETTINGS, upsample_kernel_size=SETTINGS["strides"][1:])


@pytest.fixture(params=[False, True], ids=["weights", "averaged"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A state as the training writes it; seed 1 is the network that is evaluated."""
    averaged = AveragedModel(network(1)).state_dict() if request.param else None
    state = {
        "epoch": 9,
        "model": network(2 if request.param else 1).state_dict(),
        "averaged": averaged,
        "plan": PLAN,
        "cases": {},
    }
    torch.save(state, tmp_path / CHECKPOINTS[0])
    return tmp_path / CHECKPOINTS[0]


@pytest.mark.parametrize("with_model", [True, False])
def test_the_weights_are_those_of_the_last_epoch(checkpoint: Path, with_model: bool) -> None:
    if with_model:
        # of the best epoch, and their JSON has their SHA-256
        best = inference_state_dict(network(3))
        save_weights(checkpoint.with_name("model.pt"), best, PLAN, {"mirror_axes": [0, 1, 2]})
    target = plain()
    load_weights(target, checkpoint, model_plan(checkpoint))
    expected = inference_state_dict(network(1))
    assert all(torch.equal(value, expected[key]) for key, value in target.state_dict().items())
    assert model_plan(checkpoint) == PLAN
    assert learnt_mirroring(checkpoint) == ([0, 1] if with_model else None)


def test_another_plan_is_refused(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match="another plan.*spacing"):
        load_weights(plain(), checkpoint, {**PLAN, "spacing": [3.0, 3.0]})


def test_only_weights_are_packaged(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match=r"names of its cases\. Pass a model\.pt"):
        read_weights(checkpoint)


def test_a_damaged_state_is_refused(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-2000])
    assert model_plan(checkpoint) == {}
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(plain(), checkpoint, PLAN)

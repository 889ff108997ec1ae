"""Weights load into the network of their plan only; everything else is refused with one line."""

import copy
import hashlib
import json
import pickle
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import monai
import pytest
import torch
from conftest import BUNDLE
from monai.networks.nets import DynUNet

import dynunet_bundle
from dynunet_bundle.errors import WeightsError
from dynunet_bundle.networks.dynunet import DeepSupervisedDynUNet, inference_state_dict
from dynunet_bundle.networks.weights import (
    inference_network,
    load_weights,
    save_weights,
    told_apart,
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
PLAN = {name: TRAIN[name] for name in PLAN_IDS}


def make_network(seed: int, **overrides: Any) -> DynUNet:
    torch.manual_seed(seed)
    settings = {**SETTINGS, **overrides}
    return DynUNet(**settings, upsample_kernel_size=settings["strides"][1:])


def trained_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return inference_state_dict(DeepSupervisedDynUNet(**SETTINGS))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Saved weights of PLAN with their sidecar."""
    path = tmp_path / "model.pt"
    save_weights(path, trained_state(), PLAN, {"epoch": 7, "val_mean_dice": 0.5})
    return path


def refusal(path: Path, plan: dict[str, Any] = PLAN, **overrides: Any) -> str:
    """The message of the refusal; the network must stay unchanged."""
    network = make_network(1, **overrides)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(network, path, plan)
    after = network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    return message


def test_round_trip(weights: Path) -> None:
    network = make_network(1)
    load_weights(network, str(weights), PLAN)
    expected = trained_state()
    assert network.state_dict().keys() == expected.keys()
    assert all(torch.equal(network.state_dict()[key], expected[key]) for key in expected)


def test_the_sidecar_holds_the_facts(weights: Path) -> None:
    facts = json.loads(weights.with_suffix(".json").read_text())
    assert facts["plan"] == PLAN
    assert facts["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (facts["epoch"], facts["val_mean_dice"]) == (7, 0.5)
    assert facts["versions"] == {
        "dynunet_bundle": dynunet_bundle.__version__,
        "monai": monai.__version__,
        "torch": torch.__version__,
    }


def test_saving_again_replaces_both(weights: Path) -> None:
    state = {key: value + 1 for key, value in trained_state().items()}
    save_weights(weights, state, {**PLAN, "spacing": [2.0, 2.0, 2.0]}, {"epoch": 8})
    network = make_network(1)
    load_weights(network, weights, {**PLAN, "spacing": [2.0, 2.0, 2.0]})
    key = "input_block.conv1.conv.weight"
    assert torch.equal(network.state_dict()[key], state[key])
    assert "val_mean_dice" not in json.loads(weights.with_suffix(".json").read_text())
    assert {path.name for path in weights.parent.iterdir()} == {"model.pt", "model.json"}


def test_a_file_without_sidecar_is_loaded(weights: Path) -> None:
    weights.with_suffix(".json").unlink()
    network = make_network(1)
    load_weights(network, weights, PLAN)
    key = "output_block.conv.conv.weight"
    assert torch.equal(network.state_dict()[key], trained_state()[key])


def test_the_network_of_a_prediction_has_its_weights(weights: Path) -> None:
    network = inference_network(make_network(1), "cpu", str(weights), PLAN)
    key = "output_block.conv.conv.weight"
    assert torch.equal(network.state_dict()[key], trained_state()[key])
    assert not network.training


@pytest.mark.parametrize("fault", ["missing", "another plan"])
@pytest.mark.parametrize("ensemble", [False, True])
def test_without_its_weights_it_does_not_compute(weights: Path, fault: str, ensemble: bool) -> None:
    if fault == "missing":
        weights.unlink()
    files = [str(weights)] * 2 if ensemble else str(weights)
    network = inference_network(make_network(1), "cpu", files, {**PLAN, "axcodes": "RAS"})
    image = torch.randn(1, 1, 16, 16)
    message = "no weights at .*model.pt" if fault == "missing" else "another plan"
    for one in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):  # noqa: S301
        with pytest.raises(WeightsError, match=message):
            one(image)
    if not ensemble:
        # a federated client sets the weights itself
        network.load_state_dict(trained_state())
        assert network(image).shape == (1, 3, 16, 16)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    message = refusal(tmp_path / "model.pt")
    assert "Train first" in message
    assert "--model" in message and "weights_file" in message


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_damaged_file_is_refused(weights: Path, damage: str) -> None:
    whole = weights.read_bytes()
    broken = {"truncated": whole[: len(whole) // 2], "text": b"Not weights.\n", "empty": b""}
    weights.write_bytes(broken[damage])
    weights.with_suffix(".json").unlink()  # with the JSON, the hash would be refused first
    assert "damaged" in refusal(weights)


@pytest.mark.parametrize(
    ("plan_id", "value"),
    [
        ("spacing", [2.0, 1.0, 1.0]),
        ("filters", [2, 4, 8, 16]),
        ("label_names", ["background", "Posterior", "Anterior"]),
        ("normalization", ["ct"]),
        ("axcodes", "RAS"),
        ("spatial_dims", 2),
    ],
)
def test_another_plan_is_named_with_both_values(weights: Path, plan_id: str, value: Any) -> None:
    message = refusal(weights, {**PLAN, plan_id: value})
    assert plan_id in message
    assert str(value) in message
    assert str(PLAN[plan_id]) in message
    assert not any(name in message for name in PLAN_IDS if name != plan_id)
    assert "--config_file" in message


def test_task_name_and_batch_size_may_differ(weights: Path) -> None:
    load_weights(make_network(1), weights, {**PLAN, "task_name": "Other", "batch_size": 9})


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"filters": [2, 3, 4, 6]}, r"is \(5, 4, 3, 3\), the plan needs \(6, 4, 3, 3\)"),
        ({"out_channels": 4}, r"output_block.* is \(3, 2, 1, 1\), the plan needs \(4, 2, 1, 1\)"),
        (
            {"strides": [[1, 1]] + [[2, 2]] * 4, "kernel_size": [[3, 3]] * 5, "filters": [2] * 5},
            "lacks|the plan needs",
        ),
    ],
)
def test_without_sidecar_the_first_wrong_shape_is_named(
    weights: Path, overrides: dict[str, Any], problem: str
) -> None:
    weights.with_suffix(".json").unlink()
    message = refusal(weights, **overrides)
    assert re.search(problem, message)


def test_missing_and_surplus_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    state = trained_state()
    torch.save({**state, "supervision_heads.0.conv.conv.bias": torch.zeros(3)}, path)
    assert "it has supervision_heads.0.conv.conv.bias" in refusal(path)
    del state["output_block.conv.conv.bias"]
    torch.save(state, path)
    assert "it lacks output_block.conv.conv.bias" in refusal(path)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(2), {"epoch": 1, "network": {}}])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "model.pt"
    torch.save(content, path)
    refusal(path)


def test_replaced_weights_are_refused(weights: Path) -> None:
    torch.save({key: value + 1 for key, value in trained_state().items()}, weights)
    message = refusal(weights)
    assert "SHA-256" in message
    assert "model.json" in message


@pytest.mark.parametrize("content", ["{", "\x00"])
def test_a_damaged_sidecar_is_refused(weights: Path, content: str) -> None:
    weights.with_suffix(".json").write_text(content)
    with pytest.raises(WeightsError, match="model.json is not valid JSON"):
        load_weights(make_network(1), weights, PLAN)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("writer", ["torch.save", "legacy torch.save", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path: Path, writer: str) -> None:
    path, marker = tmp_path / "model.pt", tmp_path / "marker"
    content = {**trained_state(), "payload": Payload(marker)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch.save")
    message = refusal(path)
    assert not marker.exists()
    assert "is not a file of weights" in message
    # torch's own text says how to load it anyway, in bold
    assert not re.search("weights_only|can still be loaded|\x1b", message)
    # the payload does work if it is allowed to run
    with suppress(Exception):
        torch.load(path, weights_only=False)  # noqa: S614 - our own payload
    assert marker.exists()


def poisoned(kind: str, tensor: torch.Tensor) -> Any:
    """A weight of another kind, with the same shape if it has one."""
    return {
        "nan": lambda: torch.full_like(tensor, torch.nan),
        "infinite": lambda: torch.where(torch.arange(tensor.shape[0]) > 0, 1.0, -torch.inf),
        "meta": lambda: tensor.to("meta"),
        "sparse": tensor.to_sparse,
        "quantised": lambda: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "complex": lambda: tensor.to(torch.complex64),
        "text": lambda: "weights",
        "list": lambda: [1.0, 2.0],
    }[kind]()


@pytest.mark.parametrize(
    "kind", ["nan", "infinite", "meta", "sparse", "quantised", "complex", "text", "list"]
)
def test_weights_that_are_not_plain_finite_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    state: dict[str, Any] = dict(trained_state())
    name = "input_block.norm1.weight"
    state[name] = poisoned(kind, state[name])
    torch.save(state, tmp_path / "model.pt")
    message = refusal(tmp_path / "model.pt")
    assert name in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mirror_axes", "$__import__('os').system('true')"),
        ("mirror_axes", [0, 5]),
        ("mirror_axes", [True]),
        ("plan", []),
        ("sha256", 3),
        ("epoch", -1),
    ],
)
def test_a_sidecar_of_another_shape_names_the_field(weights: Path, field: str, value: Any) -> None:
    sidecar = weights.with_suffix(".json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), field: value}))
    assert f"model.json: {field}" in refusal_of_sidecar(weights)


def refusal_of_sidecar(weights: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_weights(make_network(1), weights, PLAN)
    return str(caught.value)


def test_files_of_one_name_are_told_apart() -> None:
    assert told_apart([Path("/a/model.pt")]) == ["model.pt"]
    assert told_apart([Path("/a/model.pt"), Path("/a/model_2.pt")]) == ["model.pt", "model_2.pt"]
    folds = [Path(f"/run/fold_{fold}/models/model.pt") for fold in (0, 1)]
    assert told_apart(folds) == ["fold_0/models/model.pt", "fold_1/models/model.pt"]

"""What protects a result holds in the parts that a client takes from a package, without the package's handlers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BUNDLE
from helpers.package_cases import NAME, request_for
from monai.bundle import ConfigParser
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

from dynunet_bundle.delivery.package.make import make_package
from dynunet_bundle.errors import WeightsError
from dynunet_bundle.preprocessing.recipe import image_recipe

Parse = Callable[..., ConfigParser]


def package(folder: Path, **facts: Any) -> Path:
    return make_package(request_for(folder, model=facts)).folder


def parser_of(bundle: Path, **values: Any) -> ConfigParser:
    """The config as a Python user reads it, with values set by id."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    for name, value in {"bundle_root": str(bundle), "device": "cpu", **values}.items():
        parser[name] = value
    return parser


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package whose training mirrored over the first and the last axis, and noted its preprocessing."""
    folder = tmp_path_factory.mktemp("package")
    recipe = image_recipe(parser_of(package(folder / "plain")).get_parsed_content("preprocessing"))
    learnt = {"fold": 0, "trained": {}, "held_out": {}, "preprocessing": recipe}
    return package(folder, mirror_axes=[0, 2], learnt_from=learnt)


def test_a_package_offers_the_mirroring_that_was_learnt(bundle: Path, tmp_path: Path) -> None:
    assert parser_of(bundle).get_parsed_content("inferer").mirror_axes == ()
    mirrored = parser_of(bundle, **{"displayable_configs#mirroring": True})
    assert mirrored.get_parsed_content("inferer").mirror_axes == (0, 2)
    without = package(tmp_path, mirror_axes=[])
    config = json.loads((without / "configs" / "inference.json").read_text())
    assert "mirroring" not in config["displayable_configs"] and config["mirror_axes"] == []


@pytest.mark.parametrize("part", ["inferer", "evaluator"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mirror_axes": [1]}, r"mirror_axes is \[1\]"),
        ({"spacing": [3.0, 3.0, 4.0]}, "another plan than this config: spacing"),
        ({"normalization": ["zscore_nonzero"]}, "another plan than this config: normalization"),
        ({"preprocessing#transforms#5#allow_smaller": False}, "another preprocessing"),
    ],
)
def test_another_use_of_the_weights_is_refused_without_handlers(
    bundle: Path, phantom: Path, tmp_path: Path, part: str, values: dict[str, Any], message: str
) -> None:
    places = {"input": str(phantom / "imagesTs"), "output_dir": str(tmp_path / "out")}
    client = parser_of(bundle, handlers=[], **places, **values).get_parsed_content(part)
    with pytest.raises(WeightsError, match=message):
        if part == "evaluator":
            client.run()
        else:
            client(torch.randn(1, 1, 16, 16, 16), lambda batch: batch)


def test_the_network_alone_has_the_checked_weights(bundle: Path) -> None:
    network = parser_of(bundle).get_parsed_content("network")
    expected = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in expected.items())
    other = parser_of(bundle, spacing=[3.0, 3.0, 4.0]).get_parsed_content("network")
    with pytest.raises(WeightsError, match="another plan"):
        other(torch.randn(1, 1, 16, 16, 16))


def test_a_network_without_weights_does_not_compute(bundle: Path, tmp_path: Path) -> None:
    parser = parser_of(bundle, weights_file=str(tmp_path / "absent.pt"))
    network = parser.get_parsed_content("network")
    with pytest.raises(WeightsError, match="there are no weights"):
        network(torch.zeros(1, 1, 16, 16, 16))


def test_a_federated_client_evaluates_the_weights_of_the_server(
    phantom: Path, tmp_path: Path
) -> None:
    folder = package(tmp_path)
    assert folder.name == NAME and folder != BUNDLE
    places = {
        "dataset_dir": str(phantom),
        "device": "cpu",
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(tmp_path / "run"),
        "bundle_root": str(folder),
    }
    algo = MonaiAlgo(
        bundle_root=str(folder),
        config_train_filename=None,
        config_evaluate_filename=["configs/train.json", "configs/evaluate.json"],
        eval_workflow_name="train",
        eval_kwargs=places,
    )
    algo.initialize({ExtraItems.CLIENT_NAME: "site"})
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    for value in (0.0, 0.125):
        weights = {name: torch.full_like(tensor, value) for name, tensor in state.items()}
        result = algo.evaluate(ExchangeObject(weights=weights))
        assert "val_mean_dice" in result.metrics
        used = algo.evaluator.network.state_dict()
        assert all((tensor == value).all() for tensor in used.values())

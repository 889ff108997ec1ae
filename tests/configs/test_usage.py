"""A part of a component is an argument that the component takes."""

import pytest
from conftest import BUNDLE

from dynunet_bundle.configs.usage import Usage
from dynunet_bundle.errors import ConfigError

CONFIGS = BUNDLE / "configs"


@pytest.fixture(scope="module")
def training() -> Usage:
    return Usage([str(CONFIGS / "train.json")], "training")


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("train#inferer#mode", "precision, device"),
        ("optimizer#nestrov", "nesterov"),
        ("loss#gama", "focal_gamma"),
        ("train#dataset#cache_rate", "store_dir"),
    ],
)
def test_an_argument_that_the_component_lacks_is_refused(
    name: str, takes: str, training: Usage
) -> None:
    with pytest.raises(ConfigError, match=f"sets {name}, but .* does not take") as caught:
        training.require_used(name)
    assert takes in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "optimizer#nesterov",
        "loss#focal_gamma",
        "optimizer#_disabled_",
        "network_def#norm_name",
        "train#trainer#max_epochs",
    ],
)
def test_an_argument_that_it_takes_is_accepted(name: str, training: Usage) -> None:
    training.require_used(name)

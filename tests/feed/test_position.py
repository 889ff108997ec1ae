"""Only the feed that wrote a position accepts it, for any number of ranks and any device."""

from pathlib import Path
from typing import Any

import pytest
from feed_cases import EVERYTHING, at_prob, coordinates, prepare

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.preprocessing.store import PreparedDataset

VOLUMES = [coordinates((6, 6, 6)), coordinates((7, 7, 7))]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepare(tmp_path_factory.mktemp("cases"), VOLUMES)


def make_loader(dataset: PreparedDataset, **settings: Any) -> DaliLoader:
    defaults = {
        "patch_size": (4, 5),
        "batch_size": 4,
        "num_iterations": 2,
        "augmentation": EVERYTHING,
    }
    return DaliLoader(dataset, **{**defaults, **settings})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("patch_size", {"patch_size": (4, 6)}),
        ("patch_size", {"patch_size": (4, 4, 5)}),
        ("augmentation", {"augmentation": None}),
        ("augmentation", {"augmentation": at_prob(0.4)}),
        ("augmentation", {"augmentation": at_prob(0.5, but=["gamma"])}),
        (
            "augmentation",
            {"augmentation": {**EVERYTHING, "rotation": {"prob": 0.5, "degrees": [-5, 5]}}},
        ),
        ("oversampling", {"oversampling": 0.5}),
        ("seed", {"seed": 1}),
        ("volumes_per_batch", {"volumes_per_batch": 2}),
        ("zero_outside", {"zero_outside": True}),
    ],
)
def test_a_position_of_another_feed_is_refused_and_the_change_is_named(
    dataset: PreparedDataset, name: str, settings: dict[str, Any]
) -> None:
    state = {**make_loader(dataset).state_dict(), "iteration": 3}
    other = make_loader(dataset, **settings)
    with pytest.raises(ConfigError, match=rf"changed .*: {name}\. .*old settings.*--restart"):
        other.load_state_dict(state)
    assert other.iteration == 0
    # and vice versa
    with pytest.raises(ConfigError, match=name):
        make_loader(dataset).load_state_dict(other.state_dict())


def test_all_that_changed_is_named(dataset: PreparedDataset) -> None:
    other = make_loader(dataset, seed=1, oversampling=0.5)
    with pytest.raises(ConfigError, match=r": oversampling, seed\."):
        other.load_state_dict(make_loader(dataset).state_dict())


def test_other_cases_are_another_feed(dataset: PreparedDataset) -> None:
    """Other folds may have the same number of cases."""
    first, second = dataset.data
    state = make_loader(dataset).state_dict()
    for data in ([first], [first, second, second], [second, first], [first, first]):
        other = PreparedDataset(data, dataset.transform, str(dataset.store_dir), num_classes=3)
        with pytest.raises(ConfigError, match=r": cases\."):
            make_loader(other).load_state_dict(state)


def test_the_same_cases_may_lie_elsewhere(dataset: PreparedDataset, tmp_path: Path) -> None:
    moved = prepare(tmp_path / "moved", VOLUMES, dtype="float16")
    make_loader(moved).load_state_dict(make_loader(dataset).state_dict())


@pytest.mark.parametrize(
    "settings",
    [
        {"world_size": 2, "rank": 1},
        {"world_size": 4, "batch_size": 1, "rank": 3},
        {"num_threads": 3},
        {"num_workers": 2},
        {"prefetch": 5},
        {"num_iterations": 7},
        {"device": "cuda:0"},
        {"augmentation": dict(reversed(EVERYTHING.items()))},
        {"augmentation": {**EVERYTHING, "rotation": {"degrees": None, "prob": 0.5}}},
        {"patch_size": [4, 5]},
        {"volumes_per_batch": 4},
    ],
    ids=" ".join,
)
def test_what_decides_no_sample_may_change(
    dataset: PreparedDataset, settings: dict[str, Any]
) -> None:
    state = {**make_loader(dataset).state_dict(), "iteration": 3}
    other = make_loader(dataset, **settings)
    other.load_state_dict(state)
    assert other.state_dict() == state


def test_a_position_without_a_description_is_taken(dataset: PreparedDataset) -> None:
    """Older checkpoints have the iteration only."""
    loader = make_loader(dataset)
    loader.load_state_dict({"iteration": 3})
    assert loader.iteration == 3

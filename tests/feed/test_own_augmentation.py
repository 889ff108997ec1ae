"""Transforms of a user in the feed: batches depend on the seed and the position only, as without them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLE
from feed_cases import EVERYTHING, loader_of, prepare
from monai.transforms import MapTransform, RandCoarseDropoutd, RandFlipd, RandomizableTransform

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.preprocessing.store import PreparedDataset

Batch = dict[str, torch.Tensor]


class Shift(RandomizableTransform, MapTransform):
    """Add one random number to the image, in place."""

    def __init__(self, keys: str, prob: float, most: float) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.most = most

    def __call__(self, data: Any) -> dict[Any, Any]:
        self.randomize(None)
        number = self.R.uniform(0, self.most)
        for key in self.key_iterator(data):
            if self._do_transform:
                data[key] += number
        return dict(data)


def own() -> list[Any]:
    return [
        Shift("image", prob=0.7, most=3.0),
        RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
        RandCoarseDropoutd("image", holes=1, spatial_size=2, prob=0.5),
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rng = np.random.default_rng(2)
    shapes = [(9, 8, 10), (5, 12, 7), (6, 6, 6)]
    images = [rng.normal(size=(2, *shape)).astype(np.float32) for shape in shapes]
    labels = [rng.integers(0, 3, shape) for shape in shapes]
    return prepare(tmp_path_factory.mktemp("cases"), images, labels)


def batches(dataset: PreparedDataset, count: int = 6, **settings: Any) -> list[Batch]:
    loader = make(dataset, **settings)
    found = [batch for _ in range(count // 3) for batch in loader]
    loader.close()
    return found


def make(dataset: PreparedDataset, **settings: Any) -> DaliLoader:
    given = {"augmentation": EVERYTHING, "seed": 1, "own_augmentation": own(), **settings}
    return loader_of(dataset, patch_size=(4, 5, 6), batch_size=2, num_iterations=3, **given)


def require_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("image", "label"))


def test_the_same_seed_gives_the_same_batches(dataset: PreparedDataset) -> None:
    np.random.seed(3)
    torch.manual_seed(3)
    first = batches(dataset)
    require_equal(first, batches(dataset))
    others = batches(dataset, seed=2)
    assert any(not torch.equal(a["image"], b["image"]) for a, b in zip(first, others, strict=True))
    plain = batches(dataset, own_augmentation=[])
    changed = [not torch.equal(a["image"], b["image"]) for a, b in zip(first, plain, strict=True)]
    assert any(changed)
    assert first[0]["label"].dtype == torch.uint8 and type(first[0]["image"]) is torch.Tensor


@pytest.mark.parametrize("settings", [{"num_workers": 1}, {"num_workers": 2}, {"num_threads": 4}])
def test_workers_and_threads_do_not_change_them(
    settings: dict[str, int], dataset: PreparedDataset
) -> None:
    require_equal(batches(dataset, **settings), batches(dataset))


def test_ranks_share_the_samples_of_one_process(dataset: PreparedDataset) -> None:
    whole = batches(dataset, 3)
    loader = loader_of(
        dataset,
        patch_size=(4, 5, 6),
        batch_size=1,
        num_iterations=3,
        augmentation=EVERYTHING,
        seed=1,
        own_augmentation=own(),
        rank=1,
        world_size=2,
    )
    for batch, expected in zip(loader, whole, strict=True):
        assert torch.equal(batch["image"][0], expected["image"][1])


def test_a_feed_that_goes_on_gives_the_batches_that_would_have_followed(
    dataset: PreparedDataset,
) -> None:
    whole = batches(dataset)
    loader = make(dataset)
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    state = loader.state_dict()
    loader.close()
    again = make(dataset)
    again.load_state_dict(state)
    require_equal([*again, *again], whole[2:])


def test_another_list_is_another_feed(dataset: PreparedDataset) -> None:
    loader = make(dataset)
    next(iter(loader))
    state = loader.state_dict()
    loader.close()
    for other in ([], own()[:1], [Shift("image", prob=0.7, most=4.0), *own()[1:]]):
        with pytest.raises(ConfigError, match="feed has changed .*: own_augmentation"):
            make(dataset, own_augmentation=other).load_state_dict(state)


def test_masks_of_a_previous_stage_can_be_moved_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 8, 8, 8)).astype(np.float32)
    label = rng.integers(0, 3, (8, 8, 8))
    cascade = prepare(tmp_path, [image], [label], previous=[label])
    settings: dict[str, Any] = {"augmentation": {}, "mask_augmentation": {}}
    keys = ["image", "label", "previous"]
    flipping = [RandFlipd(keys, prob=1.0, spatial_axis=1)]
    (plain,) = loader_of(cascade, (6, 6, 6), 1, num_iterations=1, **settings)
    (moved,) = loader_of(
        cascade, (6, 6, 6), 1, num_iterations=1, own_augmentation=flipping, **settings
    )
    assert plain["image"].shape[1] == 3
    for key in ("image", "label"):
        assert torch.equal(moved[key], plain[key].flip(3))


def test_what_cannot_work_is_refused(dataset: PreparedDataset) -> None:
    class Cut(MapTransform):
        def __call__(self, data: Any) -> dict[Any, Any]:
            return {**data, "image": data["image"][:, 1:]}

    with pytest.raises(ConfigError, match=r"image of shape \(2, 3, 5, 6\), not \(2, 4, 5, 6\)"):
        batches(dataset, own_augmentation=[Cut("image")])
    with pytest.raises(ConfigError, match="has a dict, not a transform"):
        make(dataset, own_augmentation=[{"prob": 1}])
    with pytest.raises(ConfigError, match="belongs in own_augmentation"):
        make(dataset, augmentation={"ghosting": {"prob": 1.0}})


def test_transforms_of_monai_need_no_switch(phantom: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "gibbs.json"
    overlay.write_text(
        '{"own_augmentation": [{"_target_": "RandGibbsNoised", "keys": "image", "prob": 0.3}]}'
    )
    settings = {"dataset_dir": str(phantom), "device": "cpu"}
    workflow = load_workflow(BUNDLE, "train.json", [str(overlay)], settings)
    (step,) = workflow.parser.get_parsed_content("own_augmentation")
    assert type(step).__name__ == "RandGibbsNoised"

"""Batches depend on the seed and the position only: not on threads, processes, prefetching, or interruptions."""

import gc
import json
import multiprocessing
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BUNDLE
from feed_cases import EVERYTHING, WAYS, coordinates, fed, loader_of, prepare
from monai.transforms import Compose

from dynunet_bundle.errors import CaseError, ConfigError, DatasetError, find_user_error
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.preprocessing.store import PreparedDataset

Batch = dict[str, torch.Tensor]


PATCHES = {"3d": (4, 5, 6), "2d": (5, 6)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rng = np.random.default_rng(2)
    shapes = [(9, 8, 10), (5, 12, 7), (6, 6, 6)]
    images = [rng.normal(size=(2, *shape)).astype(np.float32) for shape in shapes]
    labels = [rng.integers(0, 3, shape) for shape in shapes]
    return prepare(tmp_path_factory.mktemp("cases"), images, labels)


@pytest.fixture(params=PATCHES)
def form(request: Any) -> str:
    return request.param


def make_loader(dataset: PreparedDataset, **settings: Any) -> DaliLoader:
    defaults = {
        "patch_size": (4, 5, 6),
        "batch_size": 2,
        "num_iterations": 3,
        "augmentation": EVERYTHING,
        "seed": 1,
    }
    return loader_of(dataset, **{**defaults, **settings})


def passes(loader: DaliLoader, count: int) -> list[Batch]:
    return [batch for _ in range(count) for batch in loader]


def same(ours: Iterable[Batch], theirs: Iterable[Batch]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.fixture(scope="module")
def references(dataset: PreparedDataset) -> dict[str, list[Batch]]:
    """The first nine batches of seed 1 by form, with every kind of augmentation, copied as they came."""
    return {
        form: [
            {key: value.clone() for key, value in batch.items()}
            for batch in passes(make_loader(dataset, patch_size=size), 3)
        ]
        for form, size in PATCHES.items()
    }


@pytest.fixture
def reference(references: dict[str, list[Batch]]) -> list[Batch]:
    return references["3d"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_threads": 1},
        {"num_threads": 3},
        {"prefetch": 1},
        {"prefetch": 4},
        {"num_iterations": 9},
        {"device": torch.device("cpu")},
    ],
    ids=lambda settings: " ".join(map(str, settings)) or "again",
)
def test_the_same_seed_gives_the_same_batches(
    dataset: PreparedDataset,
    references: dict[str, list[Batch]],
    form: str,
    settings: dict[str, Any],
) -> None:
    loader = make_loader(dataset, patch_size=PATCHES[form], **settings)
    # kept, not copied: later batches must not write into earlier ones
    assert same(passes(loader, 9 // loader.num_iterations), references[form])


def test_worker_processes_give_the_same_batches_and_end_with_the_loader(
    dataset: PreparedDataset, references: dict[str, list[Batch]], form: str
) -> None:
    before = set(multiprocessing.active_children())
    workers = 2 if form == "3d" else 1
    # in 2D after a stop, in 3D from the start
    done = 0 if form == "3d" else 5
    loader = make_loader(dataset, patch_size=PATCHES[form], num_workers=workers)
    loader.num_iterations = done + 4
    loader.load_state_dict({**loader.state_dict(), "iteration": done})
    try:
        assert same(loader, references[form][done : done + 4])
        assert len(set(multiprocessing.active_children()) - before) == workers
    finally:
        loader.close()
    assert set(multiprocessing.active_children()) <= before


def test_the_shipped_lists_are_fed(dataset: PreparedDataset, form: str) -> None:
    for name in ("train.json", "quick.json", "seed_augmentation.json"):
        config = json.loads((BUNDLE / "configs" / name).read_text())["augmentation"]
        loader = make_loader(dataset, patch_size=PATCHES[form], augmentation=config)
        for batch in loader:
            assert torch.isfinite(batch["image"]).all()
            assert batch["label"].max() <= 2


def test_all_batches_differ(references: dict[str, list[Batch]], form: str) -> None:
    assert len({batch["image"].numpy().tobytes() for batch in references[form]}) == 9


def test_another_seed_gives_other_batches(dataset: PreparedDataset, reference: list[Batch]) -> None:
    for ours, theirs in zip(make_loader(dataset, seed=2), reference[:3], strict=True):
        assert not torch.equal(ours["image"], theirs["image"])


def test_a_pass_has_its_length_and_the_next_goes_on(
    dataset: PreparedDataset, reference: list[Batch]
) -> None:
    loader = make_loader(dataset, num_iterations=4)
    assert len(loader) == 4
    first, second = list(loader), list(loader)
    assert (len(first), len(second)) == (4, 4)
    assert same(first + second, reference[:8])
    assert loader.state_dict()["iteration"] == 8


@pytest.mark.parametrize("taken", range(9))
def test_a_new_loader_goes_on_where_another_stopped(
    dataset: PreparedDataset, references: dict[str, list[Batch]], form: str, taken: int
) -> None:
    size = PATCHES[form]
    stopped = make_loader(dataset, patch_size=size, num_iterations=9, prefetch=3)
    list(islice(stopped, taken))
    state = stopped.state_dict()
    assert state["iteration"] == taken  # batches computed ahead do not count
    resumed = make_loader(dataset, patch_size=size, num_iterations=9)
    resumed.load_state_dict(state)
    assert same(resumed, references[form][taken:])
    assert resumed.state_dict() == {**state, "iteration": 9}


@pytest.mark.parametrize(
    ("taken", "lengths"), [(0, [3, 3, 3]), (1, [2, 3, 3]), (5, [1, 3]), (6, [3])]
)
def test_after_a_stop_in_the_middle_of_an_epoch_its_rest_comes_first(
    dataset: PreparedDataset, reference: list[Batch], taken: int, lengths: list[int]
) -> None:
    loader = make_loader(dataset)
    loader.load_state_dict({**loader.state_dict(), "iteration": taken})
    epochs = [list(loader) for _ in lengths]
    assert [len(epoch) for epoch in epochs] == lengths
    assert same(sum(epochs, []), reference[taken:])
    # the length of an epoch is unchanged
    assert len(loader) == 3


def test_a_pass_that_was_left_is_finished_by_the_next(
    dataset: PreparedDataset, reference: list[Batch]
) -> None:
    loader = make_loader(dataset)
    first = list(islice(loader, 2))
    assert same(first + list(loader) + list(loader), reference[:6])


def test_a_used_loader_can_go_back(dataset: PreparedDataset, reference: list[Batch]) -> None:
    loader = make_loader(dataset)
    list(loader)
    loader.load_state_dict({"iteration": 1})
    assert same(loader, reference[1:3])


def test_a_closed_loader_goes_on(dataset: PreparedDataset, reference: list[Batch]) -> None:
    loader = make_loader(dataset)
    first = list(loader)
    loader.close()
    loader.close()
    assert same(first + list(loader), reference[:6])


@pytest.mark.parametrize(("world_size", "size"), [(2, 1), (3, 2)])
def test_ranks_share_the_batches_of_one_process(
    dataset: PreparedDataset, form: str, world_size: int, size: int
) -> None:
    settings = {"patch_size": PATCHES[form], "seed": 4}
    one = make_loader(dataset, batch_size=world_size * size, num_iterations=5, **settings)
    ranks = [
        make_loader(dataset, batch_size=size, rank=rank, world_size=world_size, **settings)
        for rank in range(world_size)
    ]

    def together(loaders: list[DaliLoader]) -> list[Batch]:
        return [
            {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            for parts in zip(*loaders, strict=True)
        ]

    expected = list(one)
    assert same(together(ranks), expected[:3])
    # they resume in parallel, or one rank resumes for all
    for loader in (*ranks, one):
        loader.num_iterations = 5
        loader.load_state_dict(ranks[0].state_dict())
    assert same(together(ranks), expected[3:])
    assert same(one, expected[3:])


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """The values of a case identify it."""
    images = [coordinates((6, 7, 8), first=1 + 1000 * index) for index in range(4)]
    return prepare(tmp_path_factory.mktemp("counted"), images)


def names(batch: Batch) -> list[str]:
    return [f"c{int(image.max() - 1) // 1000}" for image in batch["image"]]


@pytest.mark.parametrize("slices", [None, 2])
def test_samples_of_an_iteration_are_told_without_computing_it(
    counted: PreparedDataset, slices: int | None
) -> None:
    settings = {"augmentation": None, "patch_size": (5, 6), "volumes_per_batch": slices}
    loaders = [
        make_loader(counted, batch_size=4, rank=rank, world_size=2, **settings) for rank in range(2)
    ]
    assert all(loader.last_samples() == [] for loader in loaders)
    met = []
    for rank, loader in enumerate(loaders):
        told = [loader.samples_of(iteration) for iteration in range(6)]
        assert loader.iteration == 0
        for iteration, batch in enumerate([batch for _ in range(2) for batch in loader]):
            first = (iteration * 2 + rank) * 4
            assert [sample["sample"] for sample in told[iteration]] == list(range(first, first + 4))
            assert [sample["case"] for sample in told[iteration]] == names(batch)
            assert [set(sample) for sample in told[iteration]] == [{"case", "sample"}] * 4
        json.dumps(told)
        met += told
    assert {sample["case"] for batch in met for sample in batch} == {"c0", "c1", "c2", "c3"}


def test_last_samples_are_those_of_the_batch_that_was_given_last(
    counted: PreparedDataset,
) -> None:
    loader = make_loader(counted, augmentation=None, batch_size=3, prefetch=4)
    for iteration, batch in enumerate(loader):
        # while in use, however many batches are computed ahead
        assert loader.last_samples() == loader.samples_of(iteration)
        assert [sample["case"] for sample in loader.last_samples()] == names(batch)
    resumed = make_loader(counted, augmentation=None, batch_size=3)
    resumed.load_state_dict(loader.state_dict())
    assert resumed.last_samples() == loader.last_samples()


def test_samples_are_told_though_the_arrays_are_gone(tmp_path: Path) -> None:
    """Recording a failed batch must not fail itself."""
    dataset = prepare(tmp_path, [coordinates((6, 6, 6))] * 2)
    loader = make_loader(dataset, oversampling=1.0)
    expected = loader.samples_of(3)
    for case in dataset.cases():
        for path in (case.image, case.label, case.positions):
            Path(path).unlink()
    assert loader.samples_of(3) == expected


def test_no_two_ranks_share_a_stream(tmp_path: Path) -> None:
    """Patches of noise only: two from the same stream would be equal or shifted copies."""
    dataset = prepare(tmp_path, [np.zeros((1, 4, 4, 4), np.float32)])
    noise = {"noise": {"prob": 1.0, "std": [1.0, 1.0]}}
    seen = []
    for rank in range(3):
        loader = make_loader(
            dataset, patch_size=(10, 10, 10), augmentation=noise, rank=rank, world_size=3
        )
        seen += [image.ravel() for batch in loader for image in batch["image"].numpy()]
    assert len(seen) == 3 * 2 * 3
    assert len(np.unique(np.concatenate(seen))) > 0.99 * 18 * 1000
    correlations = np.corrcoef(seen) - np.eye(len(seen))
    assert np.abs(correlations).max() < 0.15  # 4.7 standard errors


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("patch_size", [(4, 5, 6), (5, 6)])
def test_batches_are_tensors_of_the_declared_shape(
    tmp_path: Path, dtype: str, patch_size: tuple[int, ...]
) -> None:
    dataset = prepare(tmp_path, [coordinates((6, 6, 6), channels=2)], dtype=dtype)
    loader = make_loader(dataset, patch_size=patch_size, batch_size=3)
    for batch in loader:
        assert batch.keys() == {"image", "label"}
        assert batch["image"].shape == (3, 2, *patch_size)
        assert batch["label"].shape == (3, 1, *patch_size)
        assert (batch["image"].dtype, batch["label"].dtype) == (torch.float32, torch.uint8)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@WAYS
def test_values_come_through_either_store(tmp_path: Path, dtype: str, in_graph: bool) -> None:
    # 1 ... 216: exact in both types; a patch as large as the volume is the volume
    volume = coordinates((6, 6, 6))
    dataset = prepare(tmp_path, [volume], dtype=dtype)
    for image, label in fed(
        make_loader(dataset, patch_size=(6, 6, 6), augmentation=None), in_graph
    ):
        np.testing.assert_array_equal(image, volume)
        np.testing.assert_array_equal(label, volume % 3)
    # in 2D an unchanged slice
    for image, label in fed(make_loader(dataset, patch_size=(6, 6), augmentation=None), in_graph):
        depth = (int(image[0, 0, 0]) - 1) // 36
        np.testing.assert_array_equal(image, volume[:, depth])
        np.testing.assert_array_equal(label, image % 3)


def test_a_center_crop_comes_through(tmp_path: Path, form: str) -> None:
    volume = coordinates((9, 8, 10))
    dataset = prepare(tmp_path, [volume])
    middle = volume[:, 2:6, 1:6, 2:8] if form == "3d" else volume[:, 4, 1:6, 2:8]
    for image, label in fed(
        make_loader(dataset, patch_size=PATCHES[form], augmentation=None, center_crop=True)
    ):
        np.testing.assert_array_equal(image, middle)
        np.testing.assert_array_equal(label, middle % 3)


def test_oversampling_reaches_the_source(tmp_path: Path) -> None:
    label = np.zeros((16, 16, 16))
    label[8, 8, 8] = 2
    dataset = prepare(tmp_path, [coordinates(label.shape)], [label])
    settings = {"patch_size": (3, 3, 3), "augmentation": None, "num_iterations": 20}
    always = make_loader(dataset, oversampling=1.0, **settings)
    assert all((batch["label"][:, 0, 1, 1, 1] == 2).all() for batch in always)
    never = make_loader(dataset, oversampling=0.0, **settings)
    # 27 of 2744 positions contain the voxel
    assert sum(int(batch["label"].any()) for batch in never) < 5


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    empty = PreparedDataset([], Compose([]), str(tmp_path), num_classes=3)
    with pytest.raises(DatasetError, match="no cases"):
        make_loader(empty)


def test_a_malformed_augmentation_is_refused_at_once(dataset: PreparedDataset) -> None:
    with pytest.raises(ConfigError, match='"noise"'):
        make_loader(dataset, augmentation={"noize": {"prob": 0.1}})


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_spoilt_file_is_an_error_that_names_the_case(tmp_path: Path, num_workers: int) -> None:
    dataset = prepare(tmp_path, [coordinates((6, 6, 6))])
    image = Path(dataset.cases()[0].image)
    image.write_bytes(image.read_bytes()[:100])
    loader = make_loader(dataset, num_workers=num_workers)
    try:
        with pytest.raises(Exception, match="case c0") as caught:
            next(iter(loader))
    finally:
        loader.close()
    error = find_user_error(caught.value)
    assert isinstance(error, CaseError)
    assert error.case == "c0"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_is_spoilt_later_is_an_error_that_names_the_case(
    tmp_path: Path, num_workers: int
) -> None:
    dataset = prepare(tmp_path, [coordinates((6, 6, 6))] * 12)
    # this case occurs only in some later batch
    Path(dataset.cases()[7].label).unlink()
    loader = make_loader(dataset, num_iterations=60, batch_size=1, num_workers=num_workers)
    before = set(multiprocessing.active_children())
    given = 0
    with pytest.raises(Exception, match="case c7") as caught:
        for _ in loader:
            given += 1
    assert isinstance(find_user_error(caught.value), CaseError)
    assert given > 0
    # the traceback refers to the pipeline
    del caught
    gc.collect()
    assert set(multiprocessing.active_children()) <= before


def test_other_errors_of_dali_come_through(dataset: PreparedDataset) -> None:
    with pytest.raises(Exception, match="num_threads|thread") as caught:
        list(make_loader(dataset, num_threads=-1))
    assert find_user_error(caught.value) is None

"""A closed feed leaves nothing behind, and its memory does not grow with the number of cases."""

import ctypes
import gc
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from feed_cases import EVERYTHING, prepare

from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.preprocessing.store import PreparedCase, PreparedDataset

MEGABYTE = 2**20


def resident(kind: str = "VmRSS") -> int:
    """Bytes of this process in memory: all, or those of mapped files (RssFile)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{kind}:\s+(\d+)", status)[1]) * 1024


def children() -> set[str]:
    tasks = Path("/proc/self/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rng = np.random.default_rng(0)
    volumes = [rng.normal(size=(2, 40, 40, 40)).astype(np.float32)] * 3
    labels = [rng.integers(0, 3, (40, 40, 40))] * 3
    return prepare(tmp_path_factory.mktemp("cases"), volumes, labels)


GROUPS, GROUP = 6, 5
"""Memory is read after each group of so many loaders."""

ALLOWED = 1.25 * MEGABYTE
"""Growth per loader, in bytes. A loader that stayed would hold more than 4 MB: two batches ahead, and its regions."""


def growth(use: Callable[[], object], warm_up: int = 10) -> float:
    """Bytes by which this process grows with each use, as the median over groups of uses.

    A leak adds to each group; steps of the allocators, DALI's and Python's caches add to one or two.
    """
    for _ in range(warm_up):
        use()
    readings = [settled()]
    for _ in range(GROUPS):
        for _ in range(GROUP):
            use()
        readings.append(settled())
    return float(np.median(np.diff(readings))) / GROUP


def settled() -> int:
    """Bytes of this process in memory, without what malloc keeps for later."""
    gc.collect()
    with suppress(AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
    return resident()


@pytest.mark.parametrize("leak", [0, 2 * MEGABYTE])
def test_a_leak_is_told_from_noise(leak: int) -> None:
    rng = np.random.default_rng(0)
    kept = []

    def use() -> None:
        kept.append(np.ones(leak, np.uint8))
        # free memory of all sizes, and now and then a step that stays
        for size in rng.integers(1, 4 * MEGABYTE, 20):
            np.ones(size, np.uint8)
        if len(kept) in (20, 31):
            kept.append(np.ones(34 * MEGABYTE, np.uint8))

    found = growth(use)
    assert found < 0.2 * MEGABYTE if leak == 0 else found == pytest.approx(leak, rel=0.2)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_that_is_closed_leaves_nothing(dataset: PreparedDataset, num_workers: int) -> None:
    def use() -> None:
        # a batch of 4 MB, and some more for each step
        loader = DaliLoader(dataset, (32, 32, 32), 4, 2, EVERYTHING, num_workers=num_workers)
        assert len(list(loader)) == 2
        loader.close()

    use()
    files, processes, memory = open_files(), children(), settled()
    if num_workers == 0:
        assert growth(use) < ALLOWED
    else:
        # it starts processes, which takes too long to do it often
        use()
        assert settled() - memory < 30 * MEGABYTE
    assert open_files() <= files
    assert children() <= processes


def test_one_loader_that_is_closed_again_and_again_goes_on(dataset: PreparedDataset) -> None:
    loader = DaliLoader(dataset, (16, 16, 16), 1, 1, EVERYTHING)
    expected = list(DaliLoader(dataset, (16, 16, 16), 1, 10, EVERYTHING))
    files, processes = open_files(), children()
    for batch in expected:
        (found,) = loader
        assert torch.equal(found["image"], batch["image"])
        loader.close()
    assert open_files() <= files
    assert children() <= processes


class Linked:
    """One prepared case under many names: the feed maps each as a separate file."""

    dtype = np.dtype("float32")

    def __init__(self, template: PreparedCase, folder: Path, count: int) -> None:
        self.data = [{"name": f"c{index}"} for index in range(count)]
        self.prepared = []
        for index in range(count):
            paths = {}
            for array in ("image", "label", "positions"):
                paths[array] = str(folder / f"{count}-{index}.{array}.npy")
                os.link(getattr(template, array), paths[array])
            self.prepared.append(replace(template, name=f"c{index}", **paths))

    def __len__(self) -> int:
        return len(self.prepared)

    def cases(self) -> list[PreparedCase]:
        return self.prepared


def test_many_cases_need_no_more_memory_than_few(tmp_path: Path) -> None:
    """Regions are read from memory maps; the feed keeps the last 96 open, two or three per case."""
    rng = np.random.default_rng(0)
    shape = (80, 80, 80)
    template = prepare(
        tmp_path,
        [rng.normal(size=(1, *shape)).astype(np.float32)],
        [rng.integers(0, 3, shape)],
    ).cases()[0]
    size = Path(template.image).stat().st_size + Path(template.label).stat().st_size
    assert size > 2.5e6
    mapped, grown, batches = {}, {}, {}
    for count in (1, 40, 160):  # the first loads DALI
        loader = DaliLoader(Linked(template, tmp_path, count), (64, 64, 64), 2, 120)
        before = resident("RssFile"), resident()
        after, sums = [], []
        for batch in loader:
            # plain numbers: small tensors between large ones would fragment the heap
            sums.append((batch["image"].sum(dtype=torch.float64).item(), int(batch["label"].sum())))
            after.append((resident("RssFile"), resident()))
        loader.close()
        gc.collect()
        mapped[count], grown[count] = np.max(after, axis=0) - before
        batches[count] = sums
    # the same regions of the same content, whatever the index of the case
    assert batches[40] == batches[160]
    assert mapped[160] < mapped[40] + 10 * MEGABYTE
    assert mapped[160] < 48 * size + 10 * MEGABYTE
    # plus memory of freed batches that malloc keeps, which varies; 240 samples use 124 of 160 cases
    assert grown[160] < grown[40] + 100 * MEGABYTE
    assert grown[160] < 124 * size

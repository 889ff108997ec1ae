"""A closed feed leaves nothing behind, and its memory does not grow with the number of cases."""

import gc
import os
import re
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


@pytest.mark.parametrize(("num_workers", "times"), [(0, 20), (1, 1)])
def test_a_loader_that_is_closed_leaves_nothing(
    dataset: PreparedDataset, num_workers: int, times: int
) -> None:
    def use() -> None:
        # a batch of 4 MB, and some more for each step
        loader = DaliLoader(dataset, (32, 32, 32), 4, 2, EVERYTHING, num_workers=num_workers)
        assert len(list(loader)) == 2
        loader.close()

    # after the first runs, Python, DALI and malloc have set up their memory; 100 more need no more
    for _ in range(20 if num_workers == 0 else 1):
        use()
    files, processes, memory = open_files(), children(), resident()
    for _ in range(times):
        use()
    assert open_files() <= files
    assert children() <= processes
    # a single loader that is not freed would exceed this: its regions and two batches ahead
    assert resident() - memory < 30 * MEGABYTE


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

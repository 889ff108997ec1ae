"""Batches computed by numpy: their memory, and the threads that compute them."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from feed_cases import EVERYTHING, prepare, source_of

from dynunet_bundle.feed.cpu_batches import FinishedBatches
from dynunet_bundle.feed.source import Numbering, PatchSource


@pytest.fixture
def source(tmp_path: Path) -> PatchSource:
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(2, 9, 10, 11)).astype(np.float32) for _ in range(3)]
    labels = [rng.integers(0, 3, (9, 10, 11)) for _ in images]
    dataset = prepare(tmp_path, images, labels)
    numbering = Numbering(batch_size=5)
    return source_of(dataset, (6, 7, 8), augmentation=EVERYTHING, numbering=numbering)


def asked(batches: FinishedBatches, iteration: int) -> tuple[np.ndarray, np.ndarray]:
    return batches(SimpleNamespace(iteration=iteration))


@pytest.mark.parametrize("num_threads", [1, 2, 5, 8])
def test_any_number_of_threads_computes_the_same(source: PatchSource, num_threads: int) -> None:
    one, several = FinishedBatches(source), FinishedBatches(source, num_threads)
    for iteration in range(6):
        for ours, theirs in zip(asked(several, iteration), asked(one, iteration), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_batch_is_written_over_by_the_next_where_dali_has_copied_it(source: PatchSource) -> None:
    batches = FinishedBatches(source)
    assert asked(batches, 0)[0] is asked(batches, 1)[0]


def test_a_worker_process_leaves_its_batches_alone(source: PatchSource) -> None:
    """In a worker process, DALI copies them while the next one is computed."""
    worker = pickle.loads(pickle.dumps(FinishedBatches(source)))  # noqa: S301 - our own bytes
    first = asked(worker, 0)
    kept = [array.copy() for array in first]
    second = asked(worker, 1)
    for array, copy, other in zip(first, kept, second, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert not np.shares_memory(array, other)


def test_the_stored_volumes_are_never_written_to(source: PatchSource) -> None:
    before = [Path(case.image).read_bytes() for case in source.cases]
    for iteration in range(10):
        asked(FinishedBatches(source), iteration)
    assert [Path(case.image).read_bytes() for case in source.cases] == before

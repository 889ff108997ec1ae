"""One seed gives one training, to the bit: in any process, with any number of threads or processes of the feed."""

from pathlib import Path
from typing import Any

import pytest
from fault_checks import assert_same_end, differences, load
from fault_runs import (  # noqa: F401 - the_runs is a fixture
    Runs,
    the_runs,
)

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.mark.parametrize("feed", [{}, {"feed_threads": 1}, {"feed_workers": 2}], ids=str)
def test_two_processes_train_the_same_weights(
    runs: Runs,
    tmp_path: Path,
    feed: dict[str, Any],
) -> None:
    training = runs.training(tmp_path)
    training.finish(**feed)
    assert_same_end(training.models, runs.whole())


def test_two_processes_with_several_threads_train_the_same_weights(
    runs: Runs,
    tmp_path: Path,
) -> None:
    """Another number of threads adds in another order: that is another training."""
    both = [runs.training(tmp_path / name) for name in ("ours", "theirs")]
    for training in both:
        training.finish(env={"OMP_NUM_THREADS": "2"})
    assert_same_end(*(training.models for training in both))


def test_another_seed_trains_other_weights(runs: Runs, tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    training = runs.training(tmp_path)
    training.finish(seed=1)
    ours, theirs = (load(models / "model.pt") for models in (training.models, runs.whole()))
    assert differences(ours, theirs)

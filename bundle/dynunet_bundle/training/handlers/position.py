"""Where a training stands when it resumes."""

import logging
import warnings
from pathlib import Path

from ignite.engine import Engine
from torch.optim.lr_scheduler import LRScheduler

from dynunet_bundle.errors import counted
from dynunet_bundle.training.handlers.generations import LAST

logger = logging.getLogger(__name__)


def log_position(engine: Engine, folder: Path, done: int) -> None:
    """Say where a training goes on.

    Args:
        engine: the trainer, with its position restored.
        folder: folder of the checkpoints.
        done: iterations of the next epoch that are done.
    """
    state = engine.state
    if state.epoch >= state.max_epochs:
        logger.info(
            "the training in %s has finished (%s). Raise --epochs to continue, "
            "or start over with --restart True.",
            folder,
            counted(state.epoch, "epoch"),
        )
    elif done:
        logger.info(
            "resuming after iteration %d of %d of epoch %d of %s",
            done,
            state.epoch_length,
            state.epoch + 1,
            folder / LAST,
        )
    else:
        logger.info("resuming after epoch %d of %s", state.epoch, folder / LAST)


def replay_schedule(lr_scheduler: LRScheduler, num_steps: int) -> None:
    """Step a new schedule up to an old position.

    Its saved state would restore the old length; replayed, a training with more epochs than before follows the longer
    schedule.

    Args:
        lr_scheduler: the schedule, at its start.
        num_steps: steps of the old one.
    """
    with warnings.catch_warnings():
        # torch warns if no optimizer step comes before
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(num_steps):
            lr_scheduler.step()

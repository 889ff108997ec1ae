"""The processes that read for DALI, and what happens when one of them is killed."""

import multiprocessing
import multiprocessing.connection
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dynunet_bundle.errors import TrainingError


class Workers:
    """Notices that a worker process is gone, killed where memory runs out; they never end by themselves.

    DALI hands out work by a condition that waits for the sleeper it wakes: for a dead one it waits for ever. The
    signal of a child's end interrupts that, where the main thread trains; elsewhere it is noticed at the next batch.
    """

    def __init__(self) -> None:
        self._processes: list[Any] = []

    @contextmanager
    def started_here(self) -> Iterator[None]:
        """Take the processes that are started in the block for the workers."""
        before = multiprocessing.active_children()
        yield
        self._processes = [
            process for process in multiprocessing.active_children() if process not in before
        ]

    def forget(self) -> None:
        """They are told to end."""
        self._processes = []

    def require(self) -> None:
        """Make sure that all live.

        Raises:
            TrainingError: if one is gone.
        """
        ended = multiprocessing.connection.wait(
            [process.sentinel for process in self._processes], timeout=0
        )
        if ended:
            raise TrainingError(
                "a process that reads for the feed was killed, as the system does when memory runs out. The last "
                "checkpoint is good: run the same command again, with lower --feed_workers or --batch_size."
            )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Make sure of it before and all through the block.

        Raises:
            TrainingError: as soon as one is gone.
        """
        self.require()
        if not self._processes or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.require()

        before = signal.signal(signal.SIGCHLD, note)
        try:
            self.require()  # it may have ended before the signal was listened to
            yield
        finally:
            signal.signal(signal.SIGCHLD, before)

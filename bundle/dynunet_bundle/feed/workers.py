"""DALI's worker processes, and the error if one of them is killed."""

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
    """Detect that a worker process was killed, usually for lack of memory; workers never end by themselves.

    DALI hands out work through a condition variable that waits for the woken process: for a dead one it waits
    forever. If the main thread trains, the signal SIGCHLD interrupts this wait; otherwise the next batch detects it.
    """

    def __init__(self) -> None:
        self._processes: list[Any] = []

    @contextmanager
    def started_here(self) -> Iterator[None]:
        """Register the processes that are started in the block as the workers."""
        before = multiprocessing.active_children()
        yield
        self._processes = [
            process for process in multiprocessing.active_children() if process not in before
        ]

    def forget(self) -> None:
        """Stop watching, because the workers are about to end."""
        self._processes = []

    def require(self) -> None:
        """Check that all workers are alive.

        Raises:
            TrainingError: if one is gone.
        """
        ended = multiprocessing.connection.wait(
            [process.sentinel for process in self._processes], timeout=0
        )
        if ended:
            raise TrainingError(
                "a worker process of the feed was killed, probably because memory ran out. The last checkpoint is "
                "good: run the same command again, with lower --feed_workers or --batch_size."
            )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Check before and during the block that all workers are alive.

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
            self.require()  # a worker may have ended before the handler was installed
            yield
        finally:
            signal.signal(signal.SIGCHLD, before)

"""A lock between processes, also of several machines that share a file system."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def exclusive(path: Path, purpose: str) -> Iterator[None]:
    """Hold a lock for the length of the block; wait while another process holds it.

    The system releases it when a process dies. Where the file system knows no locks the block runs without.

    Args:
        path: the file to lock; it is created and stays, empty.
        purpose: what another process is doing while this one waits, e.g. ``"prepares cases in DIR"``.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process %s; waiting for it", purpose)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning("%s cannot be locked (%s); going on without", path, error.strerror)
        yield

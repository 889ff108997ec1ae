"""Progress: a bar on a terminal, a plain line every few seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LINE_INTERVAL_S = 10.0  # seconds between two lines

logger = logging.getLogger(__name__)


def progress(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield ``items`` and show the progress.

    Args:
        items: anything to iterate over.
        what: short name of the job.
        total: number of items.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit="case")
        return
    last = time.monotonic()
    for count, item in enumerate(items, start=1):
        now = time.monotonic()
        if now - last >= LINE_INTERVAL_S or count == total:
            logger.info("%s: %d of %d", what, count, total)
            last = now
        yield item

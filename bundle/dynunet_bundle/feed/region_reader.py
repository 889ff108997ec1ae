"""Read regions of prepared cases from memory maps."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from dynunet_bundle.errors import CaseError
from dynunet_bundle.preprocessing.prepared_case import PreparedCase

MAX_OPEN_MAPS = 96
"""Largest number of open maps per process; far below the usual limit of 1024 open files, even with several workers."""


class RegionReader:
    """Memory maps of the store; the last ``MAX_OPEN_MAPS`` stay open, and each process opens its own."""

    def __init__(self) -> None:
        self._maps: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the maps."""
        return RegionReader, ()

    def num_channels(self, case: PreparedCase) -> int:
        """Channels of the image of a case."""
        return len(self._map(case, case.image))

    def positions(self, case: PreparedCase) -> np.ndarray:
        """Voxel positions of a case, by class, ``[classes, K, 3]``; read-only."""
        return self._map(case, case.positions)

    def read(
        self, case: PreparedCase, start: Sequence[int], size: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image ``[C, *size]`` and label ``[1, *size]`` of a region; voxels outside the volume are zero.

        Both may be views of the maps: do not write to them.

        Raises:
            CaseError: if a prepared file is missing or damaged.
        """
        image, label = self._parts(case, (case.image, case.label), start, size)
        return image, label

    def read_previous(
        self, case: PreparedCase, start: Sequence[int], size: Sequence[int]
    ) -> np.ndarray:
        """The previous stage's mask of a region, ``[1, *size]``; as in ``read``."""
        return self._parts(case, (case.previous,), start, size)[0]

    def _parts(
        self, case: PreparedCase, paths: Sequence[str], start: Sequence[int], size: Sequence[int]
    ) -> list[np.ndarray]:
        inner, place = [slice(None)], [slice(None)]
        inside = True
        for first, length, limit in zip(start, size, case.shape, strict=True):
            low = min(max(first, 0), limit)
            high = min(max(first + length, low), limit)
            inner.append(slice(low, high))
            place.append(slice(low - first, high - first))
            inside = inside and high - low == length
        parts = [self._map(case, path)[tuple(inner)] for path in paths]
        return [part if inside else _padded(part, place, size) for part in parts]

    def _map(self, case: PreparedCase, path: str) -> np.ndarray:
        found = self._maps.get(path)
        return self._open(case, path) if found is None else found

    def _open(self, case: PreparedCase, path: str) -> np.ndarray:
        # the lock is not only for the dict: numpy parses the header with ``ast``, and CPython 3.11 counts the
        # recursion depth of ``ast`` over all threads
        with self._lock:
            if path in self._maps:
                return self._maps[path]
            try:
                # as a plain array: slicing a numpy memmap is five times as slow
                mapped = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:
                raise CaseError(
                    case.name,
                    f"its prepared file {path} is missing or damaged",
                    "Start the command again; it prepares the case again.",
                ) from error
            if len(self._maps) >= MAX_OPEN_MAPS:
                # each map keeps a file open; close the oldest
                del self._maps[next(iter(self._maps))]
            self._maps[path] = mapped
            return mapped


def _padded(part: np.ndarray, place: Sequence[slice], size: Sequence[int]) -> np.ndarray:
    """Zeros of ``size`` with the part copied to its place."""
    padded = np.zeros((len(part), *size), part.dtype)
    padded[tuple(place)] = part
    return padded

"""Which case, which region, which augmentation: a pure function of the seed and the number of a sample.

Samples are numbered through all epochs and all ranks. So a training that is resumed, or spread over ranks or
worker processes, sees the very samples of one that is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynunet_bundle.errors import CaseError
from dynunet_bundle.feed.augmentation import Augmentation, draw
from dynunet_bundle.preprocessing.store import PreparedCase

Sample = tuple[np.ndarray, ...]

MAX_OPEN_MAPS = 96
"""Fewer than the 1024 open files that a process is usually allowed, also with several workers."""


@dataclass(frozen=True)
class Numbering:
    """Where a rank stands in the sequence of samples.

    Attributes:
        batch_size: samples a rank takes at each iteration.
        first_iteration: iterations that were done before this feed started.
        rank: index of this process.
        world_size: number of processes.
    """

    batch_size: int
    first_iteration: int = 0
    rank: int = 0
    world_size: int = 1

    def sample(self, iteration: int, index_in_batch: int) -> int:
        """Global number of a sample; the ranks' batches of one iteration follow each other."""
        batch = (self.first_iteration + iteration) * self.world_size + self.rank
        return batch * self.batch_size + index_in_batch


class PatchSource:
    """Reads a patch from the memory maps of the store and draws its augmentation; DALI's external source.

    With probability ``oversampling`` the patch is centred on a voxel of a foreground class, drawn evenly among the
    classes of the case; else it lies anywhere. It stays inside the volume along axes where the volume is larger
    than the patch, and holds the whole volume where it is smaller; what lies outside is zero.

    Args:
        cases: the prepared cases.
        patch_size: voxels by axis, two or three values; with two a patch is a slice across the first array axis.
        augmentation: the declaration.
        oversampling: share of patches that are centred on foreground, 0 to 1.
        seed: the seed.
        numbering: which samples are this rank's.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        patch_size: Sequence[int],
        augmentation: Augmentation,
        oversampling: float,
        seed: int,
        numbering: Numbering,
    ) -> None:
        self.cases = list(cases)
        self.flat = len(patch_size) == 2  # noqa: PLR2004 - a 2D plan
        self.patch_size = np.array([1, *patch_size] if self.flat else patch_size)
        self.augmentation = augmentation
        self.oversampling = oversampling
        self.seed = seed
        self.numbering = numbering
        self._maps: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes open their own memory maps."""
        return {**self.__dict__, "_maps": {}}

    def __call__(self, info: Any) -> Sample:
        """The sample that DALI asks for by ``SampleInfo``; see ``sample``."""
        return self.sample(self.numbering.sample(info.iteration, info.idx_in_batch))

    def sample(self, number: int) -> Sample:
        """One sample by its global number.

        Returns:
            image ``[C, *patch]`` float32 or float16, label ``[1, *patch]`` uint8, then the arrays of ``Draw``.
        """
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, number]))
        case = self.cases[rng.integers(len(self.cases))]
        start = self._start(case, rng)
        image = self._region(case, case.image, start)
        label = self._region(case, case.label, start)
        drawn = draw(self.augmentation, image.shape, rng)
        return (
            image,
            label,
            drawn.noise,
            drawn.has_noise,
            drawn.brightness,
            drawn.has_brightness,
            drawn.contrast,
            drawn.has_contrast,
            drawn.flips,
        )

    def _start(self, case: PreparedCase, rng: np.random.Generator) -> np.ndarray:
        """First voxel of the patch, ``[3]``; negative where the volume is smaller than the patch."""
        room = np.array(case.shape) - self.patch_size
        lowest, highest = np.minimum(room, 0), np.maximum(room, 0)
        if rng.random() < self.oversampling and case.present:
            value = case.present[rng.integers(len(case.present))]
            positions = self._map(case, case.positions)[value - 1]
            voxel = positions[rng.integers(len(positions))].astype(int)
            return np.clip(voxel - self.patch_size // 2, lowest, highest)
        return rng.integers(lowest, highest, endpoint=True)

    def _region(self, case: PreparedCase, path: str, start: np.ndarray) -> np.ndarray:
        volume = self._map(case, path)
        stop = start + self.patch_size
        inner = [
            slice(max(a, 0), min(b, size))
            for a, b, size in zip(start, stop, case.shape, strict=True)
        ]
        region = volume[(slice(None), *inner)]
        if region.shape[1:] == tuple(self.patch_size):
            region = np.array(region)
        else:
            padded = np.zeros((len(volume), *self.patch_size), volume.dtype)
            place = [
                slice(part.start - a, part.stop - a) for part, a in zip(inner, start, strict=True)
            ]
            padded[(slice(None), *place)] = region
            region = padded
        return region[:, 0] if self.flat else region

    def _map(self, case: PreparedCase, path: str) -> np.ndarray:
        if path not in self._maps:
            if len(self._maps) >= MAX_OPEN_MAPS:
                # each map holds a file open; the oldest goes
                del self._maps[next(iter(self._maps))]
            try:
                self._maps[path] = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise CaseError(
                    case.name,
                    f"its prepared file {path} is missing or damaged",
                    "Start the command again; the case is then prepared anew.",
                ) from error
        return self._maps[path]

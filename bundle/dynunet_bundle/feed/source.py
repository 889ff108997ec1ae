"""Which case, which region, which augmentation: a pure function of the seed and the number of a sample.

Samples are numbered through all epochs and all ranks. So a training that is resumed, or spread over ranks or
worker processes, sees the very samples of one that is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynunet_bundle.errors import CaseError
from dynunet_bundle.feed.augmentation import Augmentation, default_degrees, rotates_in_plane
from dynunet_bundle.feed.draws import draw
from dynunet_bundle.feed.spatial import (
    AFFINE,
    CROP,
    PatchMap,
    dali_matrix,
    draw_map,
    region_for,
    scale_window,
    warp,
)
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


@dataclass(frozen=True)
class Sampling:
    """How samples are taken from the cases.

    Attributes:
        patch_size: voxels by axis, two or three values; with two a patch is a slice across the first array axis.
        augmentation: the declaration.
        oversampling: share of patches that are centred on foreground, 0 to 1.
        seed: the seed.
        slices_per_volume: in 2D, so many samples in a row are neighbouring slices of one volume, cut and augmented
            alike but for the noise (NVIDIA's example: batch size over ``nvol``); 1 draws each on its own.
        center_crop: take the middle of each volume, and no foreground, as NVIDIA's benchmark does.
        warp_here: compute rotated patches in the source; else the graph does.
    """

    patch_size: tuple[int, ...]
    augmentation: Augmentation
    oversampling: float = 0.33
    seed: int = 0
    slices_per_volume: int = 1
    center_crop: bool = False
    warp_here: bool = True


class PatchSource:
    """Reads regions from the memory maps of the store and draws their augmentation; DALI's external source.

    With probability ``oversampling`` the patch is centred on a voxel of a foreground class, drawn evenly among the
    classes of the case; else it lies anywhere. It stays inside the volume along axes where the volume is larger
    than the patch, and holds the whole volume where it is smaller; what lies outside is zero.

    Args:
        cases: the prepared cases.
        sampling: how samples are taken.
        numbering: which samples are this rank's.
    """

    def __init__(
        self, cases: Sequence[PreparedCase], sampling: Sampling, numbering: Numbering
    ) -> None:
        self.cases = list(cases)
        self.sampling = sampling
        self.numbering = numbering
        size = sampling.patch_size
        self.flat = len(size) == 2  # noqa: PLR2004 - a 2D plan
        self.patch_size = np.array([1, *size] if self.flat else size)
        self.in_plane = rotates_in_plane(size)
        augmentation = sampling.augmentation
        self.degrees = augmentation.setting("rotation", "degrees", None) or default_degrees(size)
        self.cubic = augmentation.setting("scaling", "interpolation", "linear") == "cubic"
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
            image ``[C, *region]`` float32, or of the type of the store where the graph rotates, label ``[1, *region]``
            uint8, kind of the map, start and end ``[d]`` of the window to scale, the fields of ``Draw``, and where the
            graph rotates DALI's matrix ``[d, d + 1]``.
        """
        sampling = self.sampling
        group, place = divmod(number, sampling.slices_per_volume)
        rng = _generator(sampling.seed, group)
        case = self.cases[rng.integers(len(self.cases))]
        start = self._start(case, rng)
        if place:
            start[0] = (start[0] + place) % case.shape[0]
        patch_map = draw_map(sampling.augmentation, self.degrees, self.in_plane, rng)
        image, label, placing, matrix = self._patch(case, start, patch_map)
        noise_rng = (
            None if sampling.slices_per_volume == 1 else _generator(sampling.seed, number, 1)
        )
        patch_shape = (len(image), *self.sampling.patch_size)
        drawn = draw(sampling.augmentation, patch_shape, self.in_plane, rng, noise_rng)
        return (image, label, *placing, *vars(drawn).values(), *matrix)

    def _start(self, case: PreparedCase, rng: np.random.Generator) -> np.ndarray:
        """First voxel of the patch, ``[3]``; negative where the volume is smaller than the patch."""
        size = self.patch_size.copy()
        # the neighbours of a slice must lie in the volume, too
        size[0] += min(self.sampling.slices_per_volume, case.shape[0]) - 1 if self.flat else 0
        room = np.array(case.shape) - size
        lowest, highest = np.minimum(room, 0), np.maximum(room, 0)
        if self.sampling.center_crop:
            return room // 2
        if rng.random() < self.sampling.oversampling and case.present:
            value = case.present[rng.integers(len(case.present))]
            positions = self._map(case, case.positions)[value - 1]
            voxel = positions[rng.integers(len(positions))].astype(int)
            return np.clip(voxel - size // 2, lowest, highest)
        return rng.integers(lowest, highest, endpoint=True)

    def _patch(
        self, case: PreparedCase, start: np.ndarray, patch_map: PatchMap
    ) -> tuple[np.ndarray, np.ndarray, Sample, Sample]:
        """Image, label, kind and window, and the matrix where the graph needs it."""
        region = region_for(patch_map, start, self.patch_size, self.cubic)
        image, label = self._regions(case, region.start, region.size)
        if self.sampling.warp_here:
            # a batch has one type, and a rotated patch is float32
            image = image.astype(np.float32, copy=False)
        kind = patch_map.kind
        if kind == AFFINE and self.sampling.warp_here:
            image, label = warp(image, label, patch_map, region, self.patch_size)
            kind = CROP
        window = scale_window(patch_map, region, self.patch_size)
        matrix: Sample = ()
        if not self.sampling.warp_here:
            whole = dali_matrix(patch_map, region, self.patch_size)
            # DALI takes contiguous arrays only
            matrix = (np.ascontiguousarray(whole[:2, [0, 1, 3]]) if self.in_plane else whole,)
        if self.flat:
            image, label = image[:, 0], label[:, 0]
            window = (window[0][1:], window[1][1:])
        return image, label, (np.array(kind, np.int32), *window), matrix

    def _regions(
        self, case: PreparedCase, start: np.ndarray, size: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image and label of a region; what lies outside the volume is zero."""
        inner, place = [slice(None)], [slice(None)]
        # plain numbers: on three of them numpy's calls cost more than the copy of a small patch
        for first, length, limit in zip(start.tolist(), size.tolist(), case.shape, strict=True):
            low = min(max(first, 0), limit)
            high = min(max(first + length, low), limit)
            inner.append(slice(low, high))
            place.append(slice(low - first, high - first))
        image, label = (self._map(case, path) for path in (case.image, case.label))
        return _cut(image, inner, place, size), _cut(label, inner, place, size)

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


def _generator(seed: int, number: int, stream: int = 0) -> np.random.Generator:
    """A generator of its own for each number; numpy's Philox counts up in the first words of its counter."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, stream, number]))


def _cut(
    volume: np.ndarray, inner: Sequence[slice], place: Sequence[slice], size: np.ndarray
) -> np.ndarray:
    """A copy of the part ``inner``, at its ``place`` among zeros where it is smaller than ``size``."""
    part = volume[tuple(inner)]
    shape = (len(volume), *size.tolist())
    if part.shape == shape:
        return np.array(part)
    padded = np.zeros(shape, volume.dtype)
    padded[tuple(place)] = part
    return padded

"""Case, region and augmentation of a sample: a pure function of the seed and the global number of the sample.

Samples are numbered over all epochs and ranks. So a training that is resumed, or distributed over ranks or worker
processes, uses exactly the same samples as one that is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dynunet_bundle.feed.augmentation import Augmentation, default_degrees, rotates_in_plane
from dynunet_bundle.feed.cpu_spatial import nearest
from dynunet_bundle.feed.draws import Draw, Numbers, draw
from dynunet_bundle.feed.previous_mask import changed_mask
from dynunet_bundle.feed.previous_mask_draws import draw_mask_changes
from dynunet_bundle.feed.region_reader import RegionReader
from dynunet_bundle.feed.spatial import (
    MAP_NUMBERS,
    PatchMap,
    ReadRegion,
    dali_matrix,
    draw_map,
    region_for,
    scale_window,
)
from dynunet_bundle.preprocessing.prepared_case import PreparedCase

Sample = tuple[np.ndarray, ...]

PLACE_NUMBERS = 6
"""Random numbers per position: case (1), on foreground or not (1), coordinates (3), class (1)."""


@dataclass(frozen=True)
class Numbering:
    """Position of a rank in the sequence of samples.

    Attributes:
        batch_size: samples per rank and iteration.
        first_iteration: iterations done before this feed started.
        rank: index of this process.
        world_size: number of processes.
    """

    batch_size: int
    first_iteration: int = 0
    rank: int = 0
    world_size: int = 1

    def sample(self, iteration: int, index_in_batch: int) -> int:
        """Global number of a sample; the batches of all ranks in one iteration are consecutive."""
        batch = (self.first_iteration + iteration) * self.world_size + self.rank
        return batch * self.batch_size + index_in_batch


@dataclass(frozen=True)
class Sampling:
    """How samples are taken from the cases.

    Attributes:
        patch_size: voxels per axis, two or three values; with two, a patch is a slice across the first array axis.
        augmentation: the declaration.
        oversampling: share of patches that are centred on foreground, 0 to 1.
        seed: the seed.
        slices_per_volume: in 2D, number of consecutive samples that are neighbouring slices of one volume, with the
            same crop and augmentation except noise (NVIDIA's example: batch size over ``nvol``); 1 draws each
            independently.
        zero_outside: whether voxels that were zero before the intensity changes are reset to zero, per channel.
        num_masks: in a cascade, number of foreground classes of the previous stage; else 0.
        mask_augmentation: declaration for the masks of the previous stage.
    """

    patch_size: tuple[int, ...]
    augmentation: Augmentation
    oversampling: float = 0.33
    seed: int = 0
    slices_per_volume: int = 1
    zero_outside: bool = False
    num_masks: int = 0
    mask_augmentation: Augmentation = Augmentation({})


@dataclass(frozen=True)
class Place:
    """Where a sample is taken from.

    Attributes:
        index: index of the case.
        start: first voxel of the patch without rotation and scaling; negative if the volume is smaller than the patch.
        patch_map: rotation and scaling.
        rng: generator for the rest of the sample.
    """

    index: int
    start: tuple[int, ...]
    patch_map: PatchMap
    rng: np.random.Generator


class PatchSource:
    """Draw samples and read their regions; DALI's external source if the graph computes.

    With probability ``oversampling`` the patch is centred on a voxel of a foreground class, drawn uniformly from the
    classes of the case. Otherwise its position is uniform, or, in a sparsely labelled case, on a labelled voxel. The
    patch stays inside the volume along axes where the volume is larger, and contains the whole volume where it is
    smaller; voxels outside are zero.

    Args:
        cases: the prepared cases.
        sampling: how samples are taken.
        numbering: position of this rank in the sequence of samples.
    """

    def __init__(
        self, cases: Sequence[PreparedCase], sampling: Sampling, numbering: Numbering
    ) -> None:
        self.cases = list(cases)
        self.sampling = sampling
        self.numbering = numbering
        size = sampling.patch_size
        self.flat = len(size) == 2
        self.patch_size = (1, *size)[-3:]
        self.in_plane = rotates_in_plane(size)
        augmentation = sampling.augmentation
        self.degrees = augmentation.setting("rotation", "degrees", None) or default_degrees(size)
        self.cubic = augmentation.setting("scaling", "interpolation", "linear") == "cubic"
        self.reader = RegionReader()

    def __call__(self, info: Any) -> Sample:
        """The sample that DALI requests with a ``SampleInfo``; see ``sample``."""
        return self.sample(self.numbering.sample(info.iteration, info.idx_in_batch))

    def sample(self, number: int) -> Sample:
        """Input of the graph for one sample.

        Args:
            number: its global number.

        Returns:
            image ``[C, *region]`` with the type of the store, label ``[1, *region]`` uint8, kind of the map, start and
            end ``[d]`` of the window to scale, the fields of ``Draw``, and DALI's matrix ``[d, d + 1]``, or that of
            two axes if the patch is rotated in the plane; in a cascade, also the result of ``previous``.
        """
        place = self.place(number)
        region, image, label = self.read(place)
        drawn = self.draw(place, number, len(image))
        start, end = scale_window(place.patch_map, region, self.patch_size)
        matrix = dali_matrix(place.patch_map, region, self.patch_size)
        if self.in_plane:
            matrix = matrix[:2, [0, 1, 3]]
        if self.flat:
            image, label, start, end = image[:, 0], label[:, 0], start[1:], end[1:]
        kind = np.array(place.patch_map.kind, np.int32)
        # DALI accepts contiguous arrays only
        arrays = (np.array(image, order="C"), np.array(label, order="C"))
        given = (*arrays, kind, start, end, *vars(drawn).values(), np.ascontiguousarray(matrix))
        if self.sampling.num_masks:
            return (*given, np.array(self.previous(place, number), order="C"))
        return given

    def previous(self, place: Place, number: int) -> np.ndarray:
        """The previous stage's mask of a sample, finished except for mirroring.

        Args:
            place: where the sample is taken from.
            number: global number of the sample.

        Returns:
            Class numbers ``[1, *patch]`` uint8; may be a view of the memory maps.
        """
        sampling = self.sampling
        region = region_for(place.patch_map, place.start, self.patch_size)
        read = self.reader.read_previous(self.cases[place.index], region.start, region.size)
        patch = nearest(read, place.patch_map, region, self.patch_size)
        # neighbouring slices get the same changes
        rng = np.random.Generator(_bits(sampling.seed, number // sampling.slices_per_volume, 2))
        changes = draw_mask_changes(sampling.mask_augmentation, sampling.num_masks, rng)
        return changed_mask(patch.reshape(sampling.patch_size), changes)[np.newaxis]

    def num_channels(self) -> int:
        """Channels of an image, without the masks of a previous stage."""
        return self.reader.num_channels(self.cases[0])

    def case(self, number: int) -> PreparedCase:
        """The case that a sample is taken from, without reading anything."""
        _, numbers = self._first_numbers(number)
        return self.cases[numbers.index(len(self.cases))]

    def place(self, number: int) -> Place:
        """Where a sample is taken from, given its global number."""
        sampling = self.sampling
        place = number % sampling.slices_per_volume
        rng, numbers = self._first_numbers(number)
        index = numbers.index(len(self.cases))
        case = self.cases[index]
        start = self._start(case, numbers)
        if place:
            start = ((start[0] + place) % case.shape[0], *start[1:])
        patch_map = draw_map(sampling.augmentation, self.degrees, self.in_plane, numbers)
        return Place(index, start, patch_map, rng)

    def read(self, place: Place) -> tuple[ReadRegion, np.ndarray, np.ndarray]:
        """The region of a sample, and its image and label as returned by ``RegionReader.read``."""
        region = region_for(place.patch_map, place.start, self.patch_size, self.cubic)
        return region, *self.reader.read(self.cases[place.index], region.start, region.size)

    def draw(self, place: Place, number: int, channels: int) -> Draw:
        """Intensity parameters and mirroring of a sample; call it only once per place, as it advances ``rng``."""
        sampling = self.sampling
        return draw(
            sampling.augmentation,
            (channels, *sampling.patch_size),
            self.in_plane,
            place.rng,
            lambda shape: noise(sampling.seed, number, shape),
        )

    def extent(self, case: PreparedCase) -> tuple[int, ...]:
        """Size that must fit into the volume: that of the patch, or of all slices of a group."""
        first, *others = self.patch_size
        if self.flat:
            first = min(self.sampling.slices_per_volume, case.shape[0])
        return first, *others

    def _first_numbers(self, number: int) -> tuple[np.random.Generator, Numbers]:
        """The generator of a sample, shared by neighbouring slices, and its first numbers, which give the place."""
        group = number // self.sampling.slices_per_volume
        rng = np.random.Generator(_bits(self.sampling.seed, group, 0))
        return rng, Numbers(rng, PLACE_NUMBERS + MAP_NUMBERS)

    def _start(self, case: PreparedCase, numbers: Numbers) -> tuple[int, ...]:
        """First voxel of the patch."""
        size = self.extent(case)
        room = [limit - length for limit, length in zip(case.shape, size, strict=True)]
        on_foreground = numbers.hit(self.sampling.oversampling) and bool(case.present)
        coordinates, which = numbers.take(3), numbers.next()
        if on_foreground or case.sparse:
            row = case.present[int(which * len(case.present))] - 1 if on_foreground else -1
            positions = self.reader.positions(case)[row]
            voxel = positions[int(coordinates[0] * len(positions))].tolist()
            wanted = [index - length // 2 for index, length in zip(voxel, size, strict=True)]
            return tuple(
                min(max(start, min(length, 0)), max(length, 0))
                for start, length in zip(wanted, room, strict=True)
            )
        return tuple(
            min(length, 0) + int(coordinate * (abs(length) + 1))
            for coordinate, length in zip(coordinates, room, strict=True)
        )


def noise(seed: int, number: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal values for one sample; torch draws them three times as fast as numpy.

    Args:
        seed: seed of the feed.
        number: global number of the sample; neighbouring slices share everything except noise.
        shape: shape of the result.

    Returns:
        float32 of this shape.
    """
    (own_seed,) = _bits(seed, number, 1).random_raw(1).tolist()
    generator = torch.Generator().manual_seed(own_seed & (2**63 - 1))
    return torch.randn(shape, generator=generator).numpy()


def _bits(seed: int, number: int, stream: int) -> np.random.Philox:
    """Independent random bits for each number; Philox increments the first words of its counter only."""
    return np.random.Philox(key=seed, counter=[0, 0, stream, number])

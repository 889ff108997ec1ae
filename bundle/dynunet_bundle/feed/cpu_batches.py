"""Batches of finished patches, computed on the CPU in numpy and torch; counterpart of the graph on a GPU."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch

from dynunet_bundle.feed.cpu_intensities import is_recoloured, recolour
from dynunet_bundle.feed.cpu_spatial import scaled, warped
from dynunet_bundle.feed.source import PatchSource, Place
from dynunet_bundle.feed.spatial import CROP, SCALE

Batch = tuple[np.ndarray, np.ndarray]
REVERSED = slice(None, None, -1)


class FinishedBatches:
    """DALI's external source for training without a GPU; the graph passes its batches through.

    One thread computes a sample from the sample's own random numbers, so results do not depend on ``num_threads``.

    Args:
        source: draws and reads the samples.
        num_threads: number of threads that share the samples of a batch.
        reuse: whether to write all batches to the same memory.
    """

    def __init__(self, source: PatchSource, num_threads: int = 1, reuse: bool = True) -> None:
        self.source = source
        self.num_threads = min(num_threads, source.numbering.batch_size)
        self.reuse = reuse
        self._pool: ThreadPoolExecutor | None = None
        self._batch: tuple[np.ndarray, np.ndarray] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without threads and memory: a worker process creates its own."""
        return _for_worker, (self.source, self.num_threads)

    def __call__(self, info: Any) -> Batch:
        """Compute the batch that DALI requests with a ``BatchInfo``.

        Returns:
            image ``[B, C, *patch]`` float32 and label ``[B, 1, *patch]`` uint8.
        """
        size = self.source.numbering.batch_size
        batch = self._batch or self._memory()
        # DALI has copied a batch before it requests the next
        self._batch = batch if self.reuse else None
        compute = partial(self._compute, batch, info.iteration)
        if self.num_threads == 1:
            compute(range(size))
        else:
            self._pool = self._pool or ThreadPoolExecutor(self.num_threads)
            shares = [range(first, size, self.num_threads) for first in range(self.num_threads)]
            list(self._pool.map(compute, shares))
        return batch

    def _memory(self) -> Batch:
        size, patch = self.source.numbering.batch_size, self.source.sampling.patch_size
        return (
            np.empty((size, self._num_channels(), *patch), np.float32),
            np.empty((size, 1, *patch), np.uint8),
        )

    def _num_channels(self) -> int:
        return self.source.num_channels() + self.source.sampling.num_masks

    def _compute(self, batch: Batch, iteration: int, indices: Iterable[int]) -> None:
        for index in indices:
            number = self.source.numbering.sample(iteration, index)
            finish(self.source, number, batch[0][index], batch[1][index])


def _for_worker(source: PatchSource, num_threads: int) -> FinishedBatches:
    # with more threads the workers would compete for the cores
    torch.set_num_threads(1)
    # no reuse: in a worker, DALI copies a batch in another thread while the next is computed
    return FinishedBatches(source, num_threads, reuse=False)


def finish(source: PatchSource, number: int, image: np.ndarray, label: np.ndarray) -> None:
    """Compute one sample.

    Args:
        source: draws and reads the sample.
        number: global number of the sample.
        image: output, ``[C, *patch]`` float32; in a cascade the masks are its last channels.
        label: output, ``[1, *patch]`` uint8.
    """
    place = source.place(number)
    pixels, classes = _placed(source, place)
    drawn = source.draw(place, number, len(pixels))
    pixels = pixels.reshape(len(pixels), *image.shape[1:])
    classes = classes.reshape(label.shape)
    if is_recoloured(drawn):
        # copy: a crop may be a view of the stored volume
        pixels = pixels if place.patch_map.kind != CROP else np.array(pixels, np.float32, order="C")
        zero = pixels == 0 if source.sampling.zero_outside else None
        recolour(pixels, drawn)
        if zero is not None:
            pixels[zero] = 0
    turn = (slice(None), *(REVERSED if flip else slice(None) for flip in drawn.flips.tolist()))
    image[: len(pixels)] = pixels[turn]
    label[...] = classes[turn]
    if source.sampling.num_masks:
        previous = source.previous(place, number)[turn][0]
        for value, mask in enumerate(image[len(pixels) :], start=1):
            np.equal(previous, value, out=mask)


def _placed(source: PatchSource, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """The patch, cropped, scaled or rotated from its region: ``[C, D, H, W]`` and ``[1, D, H, W]``."""
    region, image, label = source.read(place)
    patch_map, size = place.patch_map, source.patch_size
    if patch_map.kind == CROP:
        return image, label
    image = image.astype(np.float32, copy=False)
    if patch_map.kind == SCALE:
        return scaled(image, label, patch_map, region, size, source.cubic)
    return warped(image, label, patch_map, region, size)

"""Whole batches of finished patches, computed on the CPU: what the graph does on a GPU, in numpy and torch."""

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
    """DALI's external source where no GPU computes: the graph passes its batches through.

    Each sample is computed by one thread from its own numbers, so the number of threads changes nothing.

    Args:
        source: decides and reads.
        num_threads: that compute, each some samples of the batch.
        reuse: write all batches to the same memory.
    """

    def __init__(self, source: PatchSource, num_threads: int = 1, reuse: bool = True) -> None:
        self.source = source
        self.num_threads = min(num_threads, source.numbering.batch_size)
        self.reuse = reuse
        self._pool: ThreadPoolExecutor | None = None
        self._batch: tuple[np.ndarray, np.ndarray] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process has threads and memory of its own."""
        return _for_worker, (self.source, self.num_threads)

    def __call__(self, info: Any) -> Batch:
        """The batch that DALI asks for by ``BatchInfo``.

        Returns:
            image ``[B, C, *patch]`` float32 and label ``[B, 1, *patch]`` uint8.
        """
        size = self.source.numbering.batch_size
        batch = self._batch or self._memory()
        # DALI has copied a batch when it asks for the next
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
    # several workers that each take all cores would wait for one another
    torch.set_num_threads(1)
    # there DALI copies a batch in another thread, while the next is computed
    return FinishedBatches(source, num_threads, reuse=False)


def finish(source: PatchSource, number: int, image: np.ndarray, label: np.ndarray) -> None:
    """Compute one sample.

    Args:
        source: decides and reads.
        number: global number of the sample.
        image: where to put the image, ``[C, *patch]`` float32; in a cascade the masks are its last channels.
        label: where to put the label, ``[1, *patch]`` uint8.
    """
    place = source.place(number)
    pixels, classes = _placed(source, place)
    drawn = source.draw(place, number, len(pixels))
    pixels = pixels.reshape(len(pixels), *image.shape[1:])
    classes = classes.reshape(label.shape)
    if is_recoloured(drawn):
        # what was read may be a view of the stored volume
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
    """The patch from the region: as it is, scaled or rotated, ``[C, D, H, W]`` and ``[1, D, H, W]``."""
    region, image, label = source.read(place)
    patch_map, size = place.patch_map, source.patch_size
    if patch_map.kind == CROP:
        return image, label
    image = image.astype(np.float32, copy=False)
    if patch_map.kind == SCALE:
        return scaled(image, label, patch_map, region, size, source.cubic)
    return warped(image, label, patch_map, region, size)

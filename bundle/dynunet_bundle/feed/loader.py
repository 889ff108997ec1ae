"""The data loader of the trainer: endless batches from the DALI graph, with a position to resume from.

Stored on disk: the keys and hashes of ``state_dict``, in checkpoints.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.errors import ConfigError, DatasetError
from dynunet_bundle.feed.augmentation import Augmentation
from dynunet_bundle.feed.own_augmentation import OwnAugmentation, Step
from dynunet_bundle.feed.source import Numbering, PatchSource, Sampling
from dynunet_bundle.feed.workers import Workers
from dynunet_bundle.files import json_sha256
from dynunet_bundle.preprocessing.store import PreparedDataset

logger = logging.getLogger(__name__)


class DaliLoader:
    """Augmented patches of a prepared data set: ``train#dataloader`` of train.json.

    A batch is ``{"image": [B, C, ...], "label": [B, 1, ...]}``. Each pass gives ``num_iterations`` batches and
    continues where the last one ended; cases are drawn with replacement, so an epoch may have any length. After a
    stop in the middle of an epoch, the first pass gives the rest of that epoch. The first request for a batch imports
    DALI and prepares the cases.

    Args:
        dataset: the prepared data set.
        patch_size: voxels per axis, two or three values.
        batch_size: patches per batch.
        num_iterations: batches per epoch.
        augmentation: declaration, see ``Augmentation.from_config``.
        oversampling: share of patches centred on foreground.
        seed: seed of all random numbers.
        device: device of the batches; a CUDA device also computes them.
        num_threads: number of CPU threads that compute; with a GPU, of DALI's threads.
        num_workers: number of processes that read and, without a GPU, compute; 0 uses this process.
        prefetch: number of batches computed ahead.
        rank: index of this process among ``world_size``.
        world_size: number of processes that train together.
        volumes_per_batch: in 2D, number of volumes per batch, each with the same number of neighbouring slices
            (NVIDIA's ``nvol``); None draws each slice independently.
        zero_outside: whether voxels that are zero before the intensity changes stay zero, like those outside
            nnU-Net's nonzero mask.
        mask_augmentation: for a cascade, the declaration for the masks of the previous stage, see
            ``Augmentation.of_masks``; these masks become the last channels of the image. None without a cascade.
        own_augmentation: dictionary transforms of a user, see ``OwnAugmentation``.

    Raises:
        DatasetError: if there are no cases.
        ConfigError: if the augmentation is malformed, or the batch cannot be divided into ``volumes_per_batch``.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        patch_size: Sequence[int],
        batch_size: int,
        num_iterations: int,
        augmentation: Mapping[str, Mapping[str, Any]] | None = None,
        oversampling: float = 0.33,
        seed: int = 0,
        device: torch.device | str = "cpu",
        num_threads: int = 2,
        num_workers: int = 0,
        prefetch: int = 2,
        rank: int = 0,
        world_size: int = 1,
        volumes_per_batch: int | None = None,
        zero_outside: bool = False,
        mask_augmentation: Mapping[str, Mapping[str, Any]] | None = None,
        own_augmentation: Sequence[Step] = (),
    ) -> None:
        if len(dataset) == 0:
            raise DatasetError("there are no cases to train on. Check --dataset_dir and --fold.")
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_iterations = num_iterations
        self.device = torch.device(device)
        self.num_threads = num_threads
        self.num_workers = num_workers
        self.prefetch = prefetch
        self.rank = rank
        self.world_size = world_size
        self.sampling = Sampling(
            tuple(patch_size),
            Augmentation.from_config(augmentation or {}),
            oversampling,
            seed,
            _slices_per_volume(patch_size, batch_size, volumes_per_batch),
            zero_outside,
            0 if mask_augmentation is None else dataset.num_masks,
            Augmentation.of_masks(mask_augmentation or {}),
        )
        self.own = OwnAugmentation(own_augmentation, seed, self.sampling.num_masks)
        # otherwise numpy and torch compute on the CPU, in a third of the time of DALI's CPU kernels
        self.in_graph = self.device.type == "cuda"
        self.iteration = 0
        self._batches: Any = None
        self._workers = Workers()

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.num_iterations

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches from the current position to the end of the epoch."""
        for _ in range(self.num_iterations - self.iteration % self.num_iterations):
            batch = self.own(self._next(), self._numbers())
            self.iteration += 1
            yield batch

    def _next(self) -> dict[str, torch.Tensor]:
        self.dataset.cases()  # outside the try: a failed preparation is not an error of the feed
        try:
            if self._batches is None:
                self._batches = self._build()
            with self._workers.watched():
                return next(self._batches)[0]
        except Exception:
            # errors of a worker process arrive as text; repeated in this process, the source raises the original
            source = self._source()
            self.close()
            ahead = self.prefetch + self.num_workers + 1
            for number in range(ahead * self.batch_size):
                source.sample(source.numbering.sample(*divmod(number, self.batch_size)))
            raise

    def _numbers(self) -> list[int]:
        """Global numbers of the samples of the next batch."""
        place = Numbering(self.batch_size, self.iteration, self.rank, self.world_size)
        return [place.sample(0, index) for index in range(self.batch_size)]

    def samples_of(self, iteration: int) -> list[dict[str, Any]]:
        """The samples of this rank's batch of an iteration, without computing them.

        Args:
            iteration: counted from 0 over all epochs.

        Returns:
            For each patch, the name of its ``case`` and the number of its ``sample``, counted over all ranks.
        """
        source = self._source(first_iteration=0)
        numbers = [source.numbering.sample(iteration, index) for index in range(self.batch_size)]
        return [{"case": source.case(number).name, "sample": number} for number in numbers]

    def last_samples(self) -> list[dict[str, Any]]:
        """``samples_of`` the last batch, which may be from before this loader's position was restored."""
        return self.samples_of(self.iteration - 1) if self.iteration else []

    def state_dict(self) -> dict[str, Any]:
        """The position: number of iterations so far, and a hash of each setting that the samples depend on."""
        return {"iteration": self.iteration, "feed": self._description()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a position; the next batch is the one that would have followed.

        Raises:
            ConfigError: if the position belongs to a feed with other samples.
        """
        then, now = state.get("feed", {}), self._description()
        changed = [name for name in now if name in then and then[name] != now[name]]
        if changed:
            raise ConfigError(
                f"the feed has changed since the checkpoint was written: {', '.join(changed)}. "
                "Keep the old settings, or start over with --restart True."
            )
        self.close()
        self.iteration = int(state["iteration"])

    def close(self) -> None:
        """Free the pipeline, its buffers and its worker processes; the next batch rebuilds it."""
        self._workers.forget()
        self._batches = None

    def _description(self) -> dict[str, str]:
        """A short hash of each setting that the samples depend on; the number of ranks is not one."""
        sampling = self.sampling
        parts = {
            "patch_size": sampling.patch_size,
            "augmentation": {kind: dict(how) for kind, how in sampling.augmentation.kinds.items()},
            "oversampling": sampling.oversampling,
            "seed": sampling.seed,
            "volumes_per_batch": sampling.slices_per_volume,
            "zero_outside": sampling.zero_outside,
            "own_augmentation": self.own.description,
            # names: another fold may have the same number of cases
            "cases": [name_of(case) for case in self.dataset.data],
        }
        if sampling.num_masks:
            parts["mask_augmentation"] = {
                kind: dict(how) for kind, how in sampling.mask_augmentation.kinds.items()
            }
        return {name: json_sha256(part)[:16] for name, part in parts.items()}

    def _source(self, first_iteration: int | None = None) -> PatchSource:
        first = self.iteration if first_iteration is None else first_iteration
        numbering = Numbering(self.batch_size, first, self.rank, self.world_size)
        return PatchSource(self.dataset.cases(), self.sampling, numbering)

    def _build(self) -> Any:
        # imported here: inference and evaluation also run without DALI
        from nvidia.dali.plugin.pytorch import DALIGenericIterator

        pipeline = self._graph(
            batch_size=self.batch_size,
            num_threads=self.num_threads,
            device_id=(self.device.index or 0) if self.device.type == "cuda" else None,
            py_num_workers=max(1, self.num_workers),
            py_start_method="spawn",
            prefetch_queue_depth=self.prefetch,
            seed=self.sampling.seed,
        )
        with self._workers.started_here():
            pipeline.build()
        return DALIGenericIterator([pipeline], ["image", "label"], size=-1)

    def _graph(self, **settings: Any) -> Any:
        from dynunet_bundle.feed.cpu_batches import FinishedBatches
        from dynunet_bundle.feed.graph import Form, finished_graph, patch_graph

        source = self._source()
        parallel = self.num_workers > 0
        if not self.in_graph:
            # one thread per worker: each worker process computes whole batches
            finished = FinishedBatches(source, 1 if parallel else self.num_threads)
            return finished_graph(
                source=finished, parallel=parallel, num_workers=self.num_workers, **settings
            )
        form = Form(
            channels=source.num_channels(),
            patch_size=self.sampling.patch_size,
            float16=self.dataset.dtype == np.float16,
            cubic=source.cubic,
            in_plane=source.in_plane,
            zero_outside=self.sampling.zero_outside,
            gpu=self.device.type == "cuda",
            num_masks=self.sampling.num_masks,
        )
        return patch_graph(source=source, form=form, parallel=parallel, **settings)


def _slices_per_volume(
    patch_size: Sequence[int], batch_size: int, volumes_per_batch: int | None
) -> int:
    if volumes_per_batch is None:
        return 1
    if len(patch_size) != 2:
        raise ConfigError("volumes_per_batch is for 2D plans only. Set it to null.")
    if volumes_per_batch < 1 or batch_size % volumes_per_batch:
        raise ConfigError(
            f"a batch of {batch_size} slices cannot be taken from {volumes_per_batch} volumes. "
            "Pass a --volumes_per_batch that divides the batch size."
        )
    return batch_size // volumes_per_batch

"""The iterable that a trainer takes: batches from the DALI graph, without end, with a position to resume from."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from dynunet_bundle.errors import DatasetError
from dynunet_bundle.feed.augmentation import Augmentation
from dynunet_bundle.feed.source import Numbering, PatchSource
from dynunet_bundle.preprocessing.store import PreparedDataset

logger = logging.getLogger(__name__)


class DaliLoader:
    """Augmented patches of a prepared data set, as ``{"image": [B, C, ...], "label": [B, 1, ...]}``.

    Each pass gives ``num_iterations`` batches and goes on where the last one ended; the cases are drawn with
    replacement, so an epoch may have any length. DALI is imported and the cases are prepared when the first batch
    is asked for.

    Args:
        dataset: the prepared data set.
        patch_size: voxels by axis, two or three values.
        batch_size: patches a batch.
        num_iterations: batches an epoch.
        augmentation: declaration, see ``Augmentation.from_config``.
        oversampling: share of patches centred on foreground.
        seed: seed of everything that is drawn.
        device: where the batches are wanted; a CUDA device computes them, too.
        num_threads: DALI's CPU threads.
        num_workers: processes that read for DALI; 0 reads in this one.
        prefetch: batches that are computed ahead.
        rank: index of this process among ``world_size``.
        world_size: number of processes that train together.

    Raises:
        DatasetError: if there are no cases.
        ConfigError: if the augmentation is malformed.
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
    ) -> None:
        if len(dataset) == 0:
            raise DatasetError("there are no cases to train on. Check --dataset_dir and --fold.")
        self.dataset = dataset
        self.patch_size = tuple(patch_size)
        self.batch_size = batch_size
        self.num_iterations = num_iterations
        self.augmentation = Augmentation.from_config(augmentation or {}, len(self.patch_size))
        self.oversampling = oversampling
        self.seed = seed
        self.device = torch.device(device)
        self.num_threads = num_threads
        self.num_workers = num_workers
        self.prefetch = prefetch
        self.rank = rank
        self.world_size = world_size
        self.iteration = 0
        self._batches: Any = None

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.num_iterations

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Give one epoch, from the position on."""
        for _ in range(self.num_iterations):
            batch = self._next()
            self.iteration += 1
            yield batch

    def _next(self) -> dict[str, torch.Tensor]:
        self.dataset.cases()  # a case that cannot be prepared is no fault of the feed
        try:
            if self._batches is None:
                self._batches = self._build()
            return next(self._batches)[0]
        except Exception:
            # what a worker process raises arrives as text; asked here, the source raises it as what it is
            source = self._source()
            self.close()
            for number in range((self.prefetch + 1) * self.batch_size):
                source.sample(source.numbering.sample(*divmod(number, self.batch_size)))
            raise

    def state_dict(self) -> dict[str, int]:
        """The position: iterations given so far."""
        return {"iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to a position; the next batch is the one that would have followed it."""
        self.close()
        self.iteration = int(state["iteration"])

    def close(self) -> None:
        """Free the pipeline, its buffers and its worker processes; the next batch builds it again."""
        self._batches = None

    def _source(self) -> PatchSource:
        numbering = Numbering(self.batch_size, self.iteration, self.rank, self.world_size)
        return PatchSource(
            self.dataset.cases(),
            self.patch_size,
            self.augmentation,
            self.oversampling,
            self.seed,
            numbering,
        )

    def _build(self) -> Any:
        # imported here: inference and evaluation run where DALI cannot be installed
        from nvidia.dali import types  # noqa: PLC0415
        from nvidia.dali.plugin.pytorch import DALIGenericIterator  # noqa: PLC0415

        from dynunet_bundle.feed.graph import patch_graph  # noqa: PLC0415

        gpu = self.device.type == "cuda"
        source = self._source()
        pipeline = patch_graph(
            source=source,
            spatial_dims=len(self.patch_size),
            image_type=types.FLOAT16 if self.dataset.dtype.itemsize == 2 else types.FLOAT,  # noqa: PLR2004
            parallel=self.num_workers > 0,
            gpu=gpu,
            batch_size=self.batch_size,
            num_threads=self.num_threads,
            device_id=(self.device.index or 0) if gpu else None,
            py_num_workers=max(1, self.num_workers),
            py_start_method="spawn",
            prefetch_queue_depth=self.prefetch,
            seed=self.seed,
        )
        pipeline.build()
        return DALIGenericIterator([pipeline], ["image", "label"], size=-1)

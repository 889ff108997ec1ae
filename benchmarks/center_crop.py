"""A feed of centre crops without augmentation, as in the benchmark of NVIDIA's example."""

from dynunet_bundle.feed.draws import Numbers
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.feed.source import Numbering, PatchSource
from dynunet_bundle.preprocessing.prepared_case import PreparedCase


class CenterCropSource(PatchSource):
    """Patches from the centre of each volume, whether or not it has foreground there."""

    def _start(self, case: PreparedCase, numbers: Numbers) -> tuple[int, ...]:
        sizes = zip(case.shape, self.extent(case), strict=True)
        return tuple((limit - length) // 2 for limit, length in sizes)


class CenterCropLoader(DaliLoader):
    """``DaliLoader`` that reads through ``CenterCropSource``."""

    def _source(self, first_iteration: int | None = None) -> PatchSource:
        first = self.iteration if first_iteration is None else first_iteration
        numbering = Numbering(self.batch_size, first, self.rank, self.world_size)
        return CenterCropSource(self.dataset.cases(), self.sampling, numbering)

"""Score masks on a Ray cluster, one case at a time."""

import os
from typing import Any, NamedTuple

from dynunet_bundle.cluster.pool import ClusterWorkers, Lost, Pool, connected, enter, lost_case
from dynunet_bundle.errors import BundleError
from dynunet_bundle.evaluation.case_measures import require_tolerance
from dynunet_bundle.evaluation.mask_folders import MaskFolders, measure_masks
from dynunet_bundle.evaluation.statistics import Measures
from dynunet_bundle.terminal import progress


class ScoringJob(NamedTuple):
    """What is measured.

    Attributes:
        labels: classes of the masks.
        nsd_tolerance_mm: tolerance of the surface Dice in millimetres.
        folder: work folder, to which paths are relative.
    """

    labels: Any
    nsd_tolerance_mm: float
    folder: str


class CaseScorer:
    """Measure one case after the other, in a worker."""

    def __init__(self, job: ScoringJob) -> None:
        enter(job.folder)
        self._job = job

    def __call__(self, pair: tuple[str, tuple[str, str]]) -> list[Measures] | BundleError:
        """The measures of a case, or its error.

        Args:
            pair: its name, and the files of its masks.
        """
        name, files = pair
        try:
            masks = MaskFolders({name: files}, self._job.labels)
            return measure_masks(masks, self._job.nsd_tolerance_mm)[name]
        except BundleError as error:
            return error


def measure_on_cluster(
    masks: MaskFolders, nsd_tolerance_mm: float, *, workers: ClusterWorkers
) -> dict[str, list[Measures]]:
    """Do the work of ``measure_masks`` on a cluster.

    Args:
        masks: pairs of masks; errors of cases are added to its failures.
        nsd_tolerance_mm: tolerance of the surface Dice in millimetres.
        workers: the workers that the user wants.

    Raises:
        BundleError: as ``measure_masks`` and ``connected``.
    """
    require_tolerance(nsd_tolerance_mm)
    found = {}
    with connected(workers) as ready:
        job = ScoringJob(masks.labels, nsd_tolerance_mm, os.getcwd())
        pairs = ((name, (name, files)) for name, files in masks.files.items())
        results = Pool(ready, CaseScorer, job).run(pairs)
        for name, result in progress(results, "score", total=len(masks.files), has_rate=True):
            if isinstance(result, Lost):
                masks.failures[name] = lost_case(name, result)
            elif isinstance(result, BundleError):
                masks.failures[name] = result
            else:
                found[name] = result
    if not found:
        raise next(iter(masks.failures.values()))
    return {name: found[name] for name in masks.files if name in found}

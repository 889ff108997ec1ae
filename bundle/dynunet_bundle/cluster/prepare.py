"""Prepare the cases of a training set on a Ray cluster. The command holds the lock of the store for the workers."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynunet_bundle.api.data_sets import training_of
from dynunet_bundle.cluster.pool import ClusterWorkers, Lost, Pool, connected, enter, lost_case
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.cases import Case, name_of
from dynunet_bundle.dicom_input.archives import remove_dead_extractions
from dynunet_bundle.errors import BundleError
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.preprocessing.store import PreparedDataset
from dynunet_bundle.terminal import progress


@dataclass(frozen=True)
class PreparationJob:
    """A preparation, as ``load_workflow`` takes it.

    Attributes:
        overlays: overlays for train.json.
        overrides: values by id.
        model: model whose plan and recipe are used.
        trust: accept code in overlays from outside the bundle.
        folder: work folder, to which paths are relative.
    """

    overlays: Sequence[str]
    overrides: Mapping[str, Any]
    model: str | Path | None = None
    trust: bool = False
    folder: str = "."


class CasePreparer:
    """Prepare one case after the other, in a worker."""

    def __init__(self, job: PreparationJob) -> None:
        enter(job.folder)
        # a worker that was killed may have left images of a patient
        remove_dead_extractions()
        plan, recipe = training_of(job.model)
        workflow = load_workflow(
            BUNDLE,
            "train.json",
            job.overlays,
            job.overrides,
            plan=plan,
            recipe=recipe,
            trust=job.trust,
        )
        self._dataset: PreparedDataset = workflow.parser.get_parsed_content("train#dataset")

    def __call__(self, case: Case) -> BundleError | None:
        """Prepare a case. Returns its error, or None."""
        done = self._dataset.build(case)
        return done if isinstance(done, BundleError) else None


def prepare_on_cluster(
    dataset: PreparedDataset, job: PreparationJob, workers: ClusterWorkers
) -> None:
    """Prepare all cases of a data set that are not prepared.

    Args:
        dataset: ``train#dataset``.
        job: the preparation.
        workers: the workers that the user wants.

    Raises:
        BundleError: as ``PreparedDataset.cases`` and ``connected``.
    """
    job = replace(job, folder=os.getcwd())

    def build(cases: Mapping[int, Case]) -> Iterator[tuple[int, BundleError | None]]:
        numbers = {name_of(case): index for index, case in cases.items()}
        with connected(workers) as found:
            items = ((name_of(case), case) for case in cases.values())
            results = Pool(found, CasePreparer, job).run(items)
            for name, result in progress(results, "prepare", total=len(cases), has_rate=True):
                yield (
                    numbers[name],
                    lost_case(name, result) if isinstance(result, Lost) else result,
                )

    dataset.builder = build
    dataset.cases()

"""Predict the cases of inference.json on a Ray cluster. Each worker builds the same config as a run on one machine."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dynunet_bundle.cluster.pool import ClusterWorkers, Lost, Pool, connected, enter, lost_case
from dynunet_bundle.cluster.records import ClusterRecord, WorkerRecord
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.cases import Case, name_of
from dynunet_bundle.dicom_input.archives import remove_dead_extractions
from dynunet_bundle.errors import (
    BundleError,
    CaseError,
    OutputError,
    PredictionError,
    WeightsError,
    counted,
    failed_cases,
    find_user_error,
    first_line,
)
from dynunet_bundle.inference.evaluator import stoppable
from dynunet_bundle.machine.locks import release_claims
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.terminal import progress

RECORD = "record"
"""Id of the record of a run in inference.json."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionJob:
    """A prediction, as ``load_workflow`` takes it.

    Attributes:
        overlays: overlays for inference.json.
        overrides: values by id.
        plan: ids of the plan.
        trust: accept code in overlays from outside the bundle.
        folder: work folder, to which paths are relative.
        run: id of the run, for workers.
    """

    overlays: Sequence[str]
    overrides: Mapping[str, Any]
    plan: Mapping[str, Any]
    trust: bool = False
    folder: str = "."
    run: str = ""

    def command_workflow(self) -> Any:
        """inference.json for the command, whose machine may have no GPU."""
        return self.workflow(ClusterRecord, device="cpu")

    def workflow(self, record: type, **overrides: Any) -> Any:
        """inference.json with another class of record.

        Args:
            record: the class.
            **overrides: further values by id.
        """
        own = {f"{RECORD}#_target_": f"{record.__module__}.{record.__qualname__}", **overrides}
        return load_workflow(
            BUNDLE,
            "inference.json",
            self.overlays,
            {**self.overrides, **own},
            plan=self.plan,
            trust=self.trust,
        )


class CasePredictor:
    """Predict one case after the other, in a worker.

    Args:
        job: the prediction; ``device`` in its overrides is that of this worker.
    """

    def __init__(self, job: PredictionJob) -> None:
        enter(job.folder)
        # a worker that was killed may have left images of a patient
        remove_dead_extractions()
        own = {"resume": False, "inferer#progress": False, "dataloader#num_workers": 0}
        workflow = job.workflow(WorkerRecord, **{f"{RECORD}#run": job.run}, **own)
        # the command has found them
        workflow.parser["cases"] = []
        get = workflow.parser.get_parsed_content
        self._record: WorkerRecord = get(RECORD)
        self._dataset = get("dataset")
        get("model_use").check()
        self._evaluator = get("evaluator")
        self._evaluator.state.epoch_length = 1

    def __call__(self, case: Case) -> dict[str, Any]:
        """Predict a case, write its results and its record.

        Returns:
            ``error``, the BundleError of the case or None, and its ``flags``.

        Raises:
            BundleError: if no case can be predicted.
        """
        self._record.take(case)
        self._dataset.data = [case]
        failure: BundleError | None = None
        try:
            self._evaluator.run()
        except Exception as error:
            failure = find_user_error(error)
            if failure is None or isinstance(failure, OutputError | WeightsError):
                raise
            self._record.note_failure(str(failure))
        entry = self._record.entry or {}
        if failure is not None and not isinstance(failure, CaseError):
            # of the one case of this call
            failure = PredictionError(entry["error"])
        return {"error": failure, "flags": entry.get("flags", [])}


def predict_on_cluster(workflow: Any, job: PredictionJob, workers: ClusterWorkers) -> None:
    """Predict all cases that are not done, as ``run`` of inference.json does on one machine.

    Args:
        workflow: ``job.command_workflow()``.
        job: the prediction.
        workers: the workers that the user wants.

    Raises:
        BundleError: as ``CaseEvaluator.run`` and ``connected``.
        SystemExit: after a stop signal, with exit code 75.
    """
    given = job.overrides.get("device")
    get = workflow.parser.get_parsed_content
    if given == "cpu" and workers.gpus is None:
        workers = replace(workers, gpus=0.0)
    try:
        get("preflight")
        record: ClusterRecord = get(RECORD)
        cases = record.remaining()
        if not cases:
            logger.info("there are no cases to predict")
            if not record.index.is_merged():
                # an earlier run was killed after its last case
                record.begin(given or "cpu")
                record.complete(False)
            return
        # Ray sets a handler of SIGTERM as it connects
        with connected(workers) as found, stoppable():
            device = given or ("cuda:0" if found.gpus else "cpu")
            job = replace(
                job,
                overrides={**job.overrides, "device": device},
                folder=os.getcwd(),
                run=record.run,
            )
            logger.info("predicting %s with %s", counted(len(cases), "case"), _told(found))
            record.begin(device)
            try:
                failures = _predict_all(Pool(found, CasePredictor, job), cases, record)
            except BaseException as error:
                record.stop(error)
                raise
        record.complete(bool(failures))
    finally:
        release_claims()
    if len(cases) == 1 and failures:
        raise failures[0]
    if failures:
        raise PredictionError(failed_cases(list(map(str, failures)), len(cases)))


def _predict_all(pool: Pool, cases: Sequence[Case], record: ClusterRecord) -> list[BundleError]:
    """The errors of the cases that failed."""
    failures: list[BundleError] = []
    results = pool.run((name_of(case), case) for case in cases)
    for name, result in progress(results, "predict", total=len(cases), has_rate=True):
        if isinstance(result, Lost):
            error: BundleError | None = lost_case(name, result)
            record.note_lost(name, str(error))
        else:
            error = result["error"]
            for flag in result["flags"]:
                logger.warning("%s: %s: %s", name, flag["grade"], flag["message"])
        if error is not None:
            logger.error("%s failed: %s", name, first_line(error))
            failures.append(error)
    return failures


def _told(workers: ClusterWorkers) -> str:
    return f"{counted(workers.number or 1, 'worker')} of {workers.gpus:g} GPUs and {workers.cpus:g} cores"

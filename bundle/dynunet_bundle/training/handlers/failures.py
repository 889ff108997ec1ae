"""Errors that end a training: a loss that is NaN, a GPU out of memory, a full disk.

Stored on disk: the keys of ``bad_batch.json``.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from dynunet_bundle.dataset.cases import NAME
from dynunet_bundle.errors import (
    BundleError,
    OutputError,
    TrainingError,
    find_user_error,
    ran_out_of_memory,
)
from dynunet_bundle.feed.loader import DaliLoader
from dynunet_bundle.files import write_json
from dynunet_bundle.terminal import NO_ROOM
from dynunet_bundle.training.watching.status_file import StatusFile

BATCH_NAME = "bad_batch.json"

logger = logging.getLogger(__name__)


class FailureHandler:
    """Stop before a step with a NaN or infinite loss: ``train#handlers`` of train.json.

    If memory runs out, say in one line what to do. Ignite's TerminateOnNan checks after the step: the weights are
    lost by then, and the exit code is 0. Attach it before the gradient clipping.

    Args:
        loader: the feed, which lists the cases of a batch.
        evaluator: the validation engine; running out of memory there needs other advice than in a step.
        output_dir: folder of ``bad_batch.json``.
        status: status file, in which the failure is recorded.
        batch_size: patches per batch, for the advice.
        patch_size: patch size in voxels, for the advice.
        rank: index of this process.
    """

    def __init__(
        self,
        loader: DaliLoader,
        evaluator: Engine,
        output_dir: str,
        status: StatusFile,
        batch_size: int,
        patch_size: Sequence[int],
        rank: int = 0,
    ) -> None:
        self.loader = loader
        self.evaluator = evaluator
        self._validates = False
        name = BATCH_NAME if rank == 0 else f"bad_batch_rank{rank}.json"
        self.path = Path(output_dir) / name
        self.status = status
        self.batch_size = batch_size
        self.patch_size = list(patch_size)

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._check_loss)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._explain)
        self.evaluator.add_event_handler(Events.STARTED, self._note_validation, True)
        self.evaluator.add_event_handler(Events.COMPLETED, self._note_validation, False)

    def _note_validation(self, is_running: bool) -> None:
        self._validates = is_running

    def _check_loss(self, engine: Engine) -> None:
        # reading the loss waits for the GPU; cheapest here, where all its work is queued
        loss = engine.state.output["loss"].detach()
        if torch.isfinite(loss):
            return
        samples = self.loader.last_samples()
        content: dict[str, Any] = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "loss": str(float(loss)),
            "samples": samples,
        }
        write_json(self.path, content)
        cases = ", ".join(sorted({str(sample["case"]) for sample in samples}))
        raise TrainingError(
            f"the loss is {float(loss)} in iteration {engine.state.iteration} (cases {cases}; see {self.path}). "
            "The weights are as before this iteration and the last checkpoint is good. Check these cases, or resume "
            "with a lower --learning_rate or with --amp False."
        )

    def _explain(self, engine: Engine, error: BaseException) -> NoReturn:
        if isinstance(error, SystemExit):  # stopped by a signal
            raise error
        explained = self._explained(error)
        self.status.fail(engine, explained or error)
        if explained is None:
            raise error
        raise explained from error

    def _explained(self, error: BaseException) -> BundleError | None:
        """The error for the user if memory or disk is too small, else None."""
        if find_user_error(error) is None and ran_out_of_memory(error):
            return TrainingError(self._memory_advice(isinstance(error, torch.OutOfMemoryError)))
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            # from TensorBoard or a log; errors of atomic_write are already more specific
            return OutputError(
                f"cannot write {error.filename or self.path.parent}: {error.strerror}. The last checkpoint is good. "
                "Free space and run the same command again."
            )
        return None

    def _memory_advice(self, is_gpu: bool) -> str:
        place = "the GPU" if is_gpu else "this machine"
        if self._validates:
            name = self._validated_case()
            remedy = (
                "Pass --validate#inferer#device cpu, which collects the windows in main memory, or "
                "--validate#inferer#sw_batch_size 1."
                if is_gpu
                else "Free memory or use a machine with more, or move the case out of the validation (splits_file)."
            )
            return (
                f"{place} has too little memory to validate {name}. The last checkpoint is good, and the same command "
                f"continues from it. {remedy}"
            )
        return (
            f"{place} has too little memory for batch_size {self.batch_size} and patch_size {self.patch_size}. "
            "Lower one of them (--batch_size, --patch_size), or plan again with dynunet-bundle plan "
            "--gpu_memory_gb N."
        )

    def _validated_case(self) -> str:
        batch = self.evaluator.state.batch
        # MONAI takes a batch apart before the postprocessing
        name = batch[0][NAME] if isinstance(batch, list) else batch[NAME][0]
        return f"case {name}"

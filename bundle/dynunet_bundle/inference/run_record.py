"""``run.json``: inputs of a folder of predictions, and the result of each case.

Stored on disk: ``run.json`` in the folder of the masks. It is written after each case, so that a stopped run can resume
after the last one.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from dynunet_bundle import __version__
from dynunet_bundle.dataset.case_marks import is_marked
from dynunet_bundle.dataset.case_parts import Part
from dynunet_bundle.dataset.cases import Case, all_files, name_of
from dynunet_bundle.dicom_input.names import is_series_name
from dynunet_bundle.errors import EXIT_FAILED, EXIT_STOPPED, CaseError, find_user_error
from dynunet_bundle.files import json_sha256, sha256_of, versions, write_json
from dynunet_bundle.images.grid import counts_pixels, sheared_degrees
from dynunet_bundle.inference.flags import find_flags, flag_total
from dynunet_bundle.inference.quality import QUALITY
from dynunet_bundle.inference.run_json import RUN_NAME, read_run_json
from dynunet_bundle.inference.run_parts import merged_run
from dynunet_bundle.inference.save_mask import REFUSED, SAVED, refused_objects
from dynunet_bundle.labels.extents import MM3_PER_ML, class_extents
from dynunet_bundle.machine.locks import exclusive
from dynunet_bundle.networks.model_json import model_facts
from dynunet_bundle.networks.weights import weight_files

DECISIVE = ("monai", "torch", "numpy", "pytorch-ignite", "nibabel")
"""Packages whose versions affect the masks; their versions are recorded."""

FORMAT = 1

logger = logging.getLogger(__name__)


class RunRecord:
    """Write run.json of a folder of predictions: ``record`` of inference.json.

    Args:
        output_dir: folder of the masks.
        cases: the cases to predict.
        weights_file: file of weights, or a list of files.
        plan: the plan ids.
        parameters: other settings that affect the masks; numbers, strings and lists.
        device: device of the network.
        resume: skip cases whose mask and DICOM objects exist and were made from the same files with the same weights,
            plan and parameters.
        max_entropy: mean entropy in bits above which a class is flagged.
        max_clipped: fraction of foreground voxels outside the training's intensities above which a case is flagged.
        dicom: settings that affect the DICOM objects of cases that are series.
        part: number of the part of the cases that is predicted, and the number of parts; None if all are.
    """

    def __init__(
        self,
        output_dir: str,
        cases: Sequence[Case],
        weights_file: str | Sequence[str],
        plan: Mapping[str, Any],
        parameters: Mapping[str, Any],
        device: torch.device | str = "cpu",
        resume: bool = False,
        max_entropy: float = 0.5,
        max_clipped: float = 0.1,
        dicom: Mapping[str, Any] | None = None,
        part: Part | None = None,
    ) -> None:
        self.path = Path(output_dir) / RUN_NAME
        self.cases = {name_of(case): case for case in cases}
        self.weights = weight_files(weights_file)
        self.plan = dict(plan)
        self.parameters = dict(parameters)
        self.device = str(device)
        self.resume = resume
        self.limits = {"max_entropy": max_entropy, "max_clipped": max_clipped}
        self.dicom = dict(dicom or {})
        self.part = part
        self._content: dict[str, Any] = {}
        self._kept: dict[str, Any] = {}
        self._training: Mapping[str, Any] = {}
        self._trained: list[Mapping[str, str | None]] = []
        self._marks: dict[str, float] = {}
        self._begun = 0.0

    def remaining(self) -> list[Case]:
        """The cases that still have to be predicted; all cases unless ``resume`` is set.

        Raises:
            ConfigError: if run.json is malformed.
        """
        if not self.resume:
            return list(self.cases.values())
        entries = read_run_json(self.path).get("cases", {})
        made_by = self.made_by()
        self._kept = {
            name: entries[name]
            for name, case in self.cases.items()
            if name in entries and self._is_done(entries[name], case, made_by)
        }
        if self._kept:
            logger.info("%d of %d cases are already done", len(self._kept), len(self.cases))
        return [case for name, case in self.cases.items() if name not in self._kept]

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator that predicts one case per iteration."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._mark, "load")
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._mark, "network")
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._mark, "restore")
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.COMPLETED, self._complete)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _start(self) -> None:
        self._begun = time.monotonic()
        self._training = model_facts(self.weights[0]).get("training") or {}
        learnt = [model_facts(weights).get("learnt_from") or {} for weights in self.weights]
        self._trained = [one.get("trained", {}) for one in learnt]
        self._content = {
            "format": FORMAT,
            "status": "running",
            "exit_code": None,
            "error": None,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "task_name": self.plan["task_name"],
            "versions": versions(*DECISIVE),
            "device": self.device,
            "plan": self.plan,
            "plan_sha256": json_sha256(self.plan, default=str),
            "weights": [
                {"file": path.name, "sha256": digest} for path, digest in self._digests().items()
            ],
            "parameters": self.parameters,
            "made_by": self.made_by(),
            "label_names": self.plan["label_names"],
            "label_values": self.plan["label_values"],
            "cases": dict(self._kept),
        }
        self._write()

    def _mark(self, stage: str) -> None:
        self._marks[stage] = time.monotonic()

    def _note(self, engine: Engine) -> None:
        """Record the case of this iteration, done or failed."""
        now = time.monotonic()
        cases: dict[str, Any] = self._content["cases"]
        # MONAI keeps the other entries of a case, such as its name, in the batch
        for case, outputs in zip(engine.state.batch, engine.state.output, strict=True):
            name = name_of({**case, "image": outputs["pred"]})
            cases[name] = self._done(name, outputs, now)
        for name, message in getattr(engine.state, "failures", {}).items():
            cases.setdefault(name, self._failed(name, message))
        self._write()

    def _failed(self, name: str, message: str) -> dict[str, Any]:
        inputs = self._inputs(name) if name in self.cases else []
        return {"status": "failed", "error": message, "inputs": inputs}

    def _done(self, name: str, outputs: Mapping[str, Any], now: float) -> dict[str, Any]:
        mask, saved, quality = outputs["pred"], outputs[SAVED], outputs.get(QUALITY, {})
        affine = np.asarray(mask.affine)
        extents = class_extents(
            np.asarray(mask[0].as_tensor()), affine, self.plan["label_values"][1:]
        )
        names = self.plan["label_names"][1:]
        refused = refused_objects(saved)
        in_pixels = counts_pixels(saved["file"], mask.shape)
        facts = {
            "status": "failed" if refused else "done",
            "error": f"case {name}: {refused}" if refused else None,
            "inputs": self._inputs(name),
            "mask": saved["file"],
            "mask_sha256": saved["sha256"],
            "objects": saved.get("objects", []),
            "refused": saved.get(REFUSED, {}),
            "made_by": self._of_case(self._content["made_by"], self.cases.get(name)),
            "shape": list(mask.shape[1:]),
            "sheared_degrees": round(sheared_degrees(affine), 3),
            "seconds": self._seconds(now, saved["seconds"]),
            **_sizes(names, extents.volumes_ml, None if in_pixels else affine),
            "components": dict(zip(names, extents.components, strict=True)),
            "entropy": quality.get("entropy"),
            "clipped": quality.get("clipped", []),
        }
        case = self.cases.get(name)
        if case is not None and any(is_marked(case, marks) for marks in self._trained):
            facts["in_training"] = True
        facts["flags"] = find_flags(facts, self._training, **self.limits)
        if facts["flags"]:
            told = "; ".join(f"{flag['grade']}: {flag['message']}" for flag in facts["flags"])
            logger.warning("%s: %s", name, told)
        return facts

    def _seconds(self, now: float, saving: float) -> dict[str, float]:
        load, network, restore = (self._marks[stage] for stage in ("load", "network", "restore"))
        seconds = {
            "load": network - load,
            "network": restore - network,
            "restore": now - restore - saving,
            "save": saving,
        }
        return {stage: round(value, 3) for stage, value in seconds.items()}

    def _inputs(self, name: str) -> list[dict[str, Any]]:
        roles = all_files(self.cases[name])
        files = [file for role, file in roles.items() if role != "label"]
        return [_identity(file) for file in files if is_series_name(file) or Path(file).is_file()]

    def _is_done(self, entry: Mapping[str, Any], case: Case, made_by: str) -> bool:
        if entry.get("status") != "done" or entry.get("made_by") != self._of_case(made_by, case):
            return False
        files = [
            self.path.parent / name for name in (entry.get("mask", ""), *entry.get("objects", ()))
        ]
        return (
            all(map(os.path.isfile, files))
            and sha256_of(files[0]) == entry.get("mask_sha256")
            and entry.get("inputs") == self._inputs(name_of(case))
        )

    def made_by(self) -> str:
        """A hash of all inputs of a mask except the image."""
        weights = list(self._digests().values())
        return json_sha256([__version__, weights, self.plan, self.parameters], default=str)

    def _of_case(self, made_by: str, case: Case | None) -> str:
        """The hash for one case; it includes the DICOM settings only if the case is a series."""
        images = [] if case is None else all_files(case).values()
        if not any(map(is_series_name, images)):
            return made_by
        return json_sha256([made_by, self.dicom], default=str)

    def _digests(self) -> dict[Path, str]:
        """SHA-256 of each existing file of weights."""
        return {path: sha256_of(path) for path in self.weights if path.is_file()}

    def _complete(self, engine: Engine) -> None:
        total = flag_total(self._content["cases"])
        if total:
            logger.warning("%s; see %s", total, RUN_NAME)
        failed = bool(getattr(engine.state, "failures", {}))
        self._finish("failed" if failed else "finished", EXIT_FAILED if failed else 0)

    def _fail(self, error: BaseException) -> None:
        if not self._content:
            # failed before the start (e.g. the weights do not fit): leave the run.json of an earlier run unchanged
            raise error
        if isinstance(error, SystemExit):
            self._finish("stopped", EXIT_STOPPED)
        else:
            user_error = find_user_error(error)
            if isinstance(user_error, CaseError):
                self._content["cases"][user_error.case] = self._failed(
                    user_error.case, str(user_error)
                )
            code = EXIT_FAILED if user_error is None else user_error.exit_code
            # other messages contain folders, whose names may identify a patient
            told = str(user_error) if isinstance(user_error, CaseError) else type(error).__name__
            self._finish("failed", code, told)
        raise error

    def _finish(self, status: str, exit_code: int, error: str | None = None) -> None:
        self._content |= {"status": status, "exit_code": exit_code, "error": error}
        self._write()

    def _write(self) -> None:
        self._content["seconds"] = round(time.monotonic() - self._begun, 3)
        if self.part is None:
            write_json(self.path, self._content)
            return
        with exclusive(self.path.with_name(".run.lock"), "run.json"):
            write_json(self.path, merged_run(self.path, self._content, self.cases, self.part))


def _sizes(
    names: Sequence[str], volumes_ml: Sequence[float], affine: np.ndarray | None
) -> dict[str, Any]:
    """Spacing, and volumes by class; areas for a picture without affine, whose pixels count as voxels of 1 mm3."""
    if affine is None:
        areas_px2 = [round(volume * MM3_PER_ML) for volume in volumes_ml]
        return {"areas_px2": dict(zip(names, areas_px2, strict=True))}
    spacing = [float(value) for value in nib.affines.voxel_sizes(affine)]
    return {"spacing_mm": spacing, "volumes_ml": dict(zip(names, volumes_ml, strict=True))}


def _identity(file: str) -> dict[str, Any]:
    if is_series_name(file):
        # pydicom is an extra
        from dynunet_bundle.dicom_input.series import series_identity

        return series_identity(file)
    path = Path(file)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}

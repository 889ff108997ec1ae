"""A model of this bundle as a results folder of nnU-Net v2, for ``nnUNetv2_predict_from_modelfolder``."""

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.errors import OutputError, PlanError
from dynunet_bundle.files import atomic_write, ensure_writable, write_json
from dynunet_bundle.inference.model_use import preprocessing_difference
from dynunet_bundle.labels.largest_component import RULES_ID
from dynunet_bundle.networks.model_json import (
    learnt_mirroring,
    model_facts,
    model_files,
    model_settings,
    previous_weights,
)
from dynunet_bundle.networks.weights import load_weights
from dynunet_bundle.nnunet.component_rules import write_component_rules
from dynunet_bundle.nnunet.names import nnunet_state
from dynunet_bundle.nnunet.results_folder import CHECKPOINTS
from dynunet_bundle.nnunet.written_plans import (
    ENDINGS,
    STAGE,
    nnunet_dataset,
    nnunet_plans,
    reader_for,
)
from dynunet_bundle.planning.plan import Plan, plan_from
from dynunet_bundle.preprocessing.recipe import image_recipe

TRAINER = "nnUNetTrainer"
"""The trainer that a checkpoint names: nnU-Net finds it without importing the others."""

SAFE_NAME = re.compile(r"\w[\w-]{0,99}", re.ASCII)
"""Names of configurations that may be part of a folder's name."""


@dataclass(frozen=True)
class NnunetExportRequest:
    """What to export.

    Attributes:
        bundle: the bundle folder.
        model: file of weights, package, or folder of a training.
        output: folder in which the results folder is made.
        overlays: config files with which the weights were trained, if model.json lacks the plan.
        file_ending: of the images that nnU-Net will read; None for that of an imported model, else ``.nii.gz``.
        trust: accept code in overlays from outside ``configs``.
    """

    bundle: Path
    model: Path
    output: Path
    overlays: Sequence[str] = ()
    file_ending: str | None = None
    trust: bool = False


@dataclass(frozen=True)
class NnunetFolder:
    """A results folder that was written.

    Attributes:
        folder: its path.
        folds: name of the fold of each file of weights.
        has_rules: whether there are rules for largest components, which nnU-Net applies by a command of its own.
        is_cascade: whether it needs the masks of a previous stage.
        notes: what differs, for the user.
        previous: the previous stage, if the model has it.
    """

    folder: Path
    folds: Sequence[str]
    has_rules: bool
    is_cascade: bool
    notes: Sequence[str]
    previous: "NnunetFolder | None" = None

    def commands(self, masks: str = "MASKS") -> list[str]:
        """nnU-Net's commands for the masks of the bundle, in their order.

        Args:
            masks: folder of the masks.
        """
        before = self.previous.commands("PREVIOUS_MASKS") if self.previous else []
        hand_over = "FINAL_PREVIOUS_MASKS" if len(before) > 1 else "PREVIOUS_MASKS"
        lines = [
            f"nnUNetv2_predict_from_modelfolder -i IMAGES -o {masks} -m {self.folder} -f {' '.join(self.folds)}"
            + (f" -prev_stage_predictions {hand_over}" if self.is_cascade else "")
        ]
        if self.has_rules:
            lines.append(
                f"nnUNetv2_apply_postprocessing -i {masks} -o FINAL_{masks} "
                f"-pp_pkl_file {self.folder / 'postprocessing.pkl'} -plans_json {self.folder / 'plans.json'} "
                f"-dataset_json {self.folder / 'dataset.json'}"
            )
        return [*before, *lines]


def export_nnunet(request: NnunetExportRequest) -> NnunetFolder:
    """Write a results folder: plans.json, dataset.json, a checkpoint per file of weights, and component rules.

    The previous stage of a cascade, if the model has it, becomes a folder beside it.

    Args:
        request: what to export.

    Raises:
        PlanError: if nnU-Net would not give the masks of the bundle.
        WeightsError: if the weights are missing, damaged, or of another plan.
        OutputError: if the folder exists, or cannot be written.
    """
    files = model_files(request.model)
    first = previous_weights(files[0])
    stages = [(files, request.overlays), *([(first, ())] if first else [])]
    drafts = [_draft(request, *stage, is_previous=place > 0) for place, stage in enumerate(stages)]
    written = [_written(draft) for draft in drafts]
    return replace(written[0], previous=written[1] if first else None)


@dataclass(frozen=True)
class _Draft:
    """A results folder that can be written; attributes as in ``NnunetFolder``, and its content."""

    target: Path
    files: Sequence[Path]
    configuration: str
    plan: Plan
    ids: Mapping[str, Any]
    network: nn.Module
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    rules: Sequence[Sequence[int]]


def _draft(
    request: NnunetExportRequest, files: Sequence[Path], overlays: Sequence[str], is_previous: bool
) -> _Draft:
    parser = load_workflow(
        request.bundle,
        "inference.json",
        overlays,
        {"device": "cpu"},
        plan=model_settings(files[0]),
        trust=request.trust,
    ).parser
    ids = parser.get_parsed_content("plan")
    plan, facts = plan_from(ids), model_facts(files[0])
    try:
        origin = facts.get("origin", {})
        ending = request.file_ending or origin.get("file_ending") or ENDINGS[0]
        configuration = _configuration(plan, origin, is_previous)
        plans = nnunet_plans(plan, configuration, reader_for(plan, ending))
        training = facts.get("training") or {}
        dataset = nnunet_dataset(plan, ending, training.get("num_cases", 0))
    except PlanError as error:
        raise PlanError(f"{files[0]} cannot be exported for nnU-Net: {error}") from error
    _require_plain_preprocessing(request.bundle, files, ids)
    target = ensure_writable(request.output) / f"{TRAINER}__nnUNetPlans__{configuration}"
    if target.exists():
        raise OutputError(
            f"{target} exists, and may be a training of nnU-Net. Choose another --output_dir, or delete the folder."
        )
    network, rules = (parser.get_parsed_content(name) for name in ("network_def", RULES_ID))
    return _Draft(target, files, configuration, plan, ids, network, plans, dataset, rules)


def _written(draft: _Draft) -> NnunetFolder:
    folds = _folds(draft.files)
    with tempfile.TemporaryDirectory(dir=draft.target.parent) as temporary:
        folder = Path(temporary) / draft.target.name
        for file, fold in zip(draft.files, folds, strict=True):
            load_weights(draft.network, file, draft.ids)
            facts = _facts_of(draft.files, file, draft.configuration)
            _write_checkpoint(folder, fold, draft.network, draft.plan, facts)
        write_json(folder / "plans.json", draft.plans)
        write_json(folder / "dataset.json", draft.dataset)
        if draft.rules:
            write_component_rules(folder, draft.rules)
        shutil.move(folder, draft.target)
    notes = _notes(draft.plan, draft.dataset)
    return NnunetFolder(draft.target, folds, bool(draft.rules), draft.plan.cascade, notes)


def _require_plain_preprocessing(
    bundle: Path, files: Sequence[Path], plan: Mapping[str, Any]
) -> None:
    """Refuse weights that were trained with other steps than those of the plan, which nnU-Net takes."""
    parser = load_workflow(bundle, "inference.json", (), {"device": "cpu"}, plan=plan).parser
    recipe = image_recipe(parser.get_parsed_content("preprocessing"))
    for file in files:
        learnt = model_facts(file).get("learnt_from")
        difference = learnt and preprocessing_difference(learnt["preprocessing"], recipe)
        if difference:
            raise PlanError(
                f"{file} was trained with a preprocessing of its own ({difference}), which plans.json cannot say. "
                "It cannot be exported for nnU-Net."
            )


def _configuration(plan: Plan, origin: Mapping[str, str], is_previous: bool) -> str:
    """nnU-Net's name of the configuration: that of an imported model, or by the kind of the plan.

    The previous stage has the name that ``nnunet_plans`` gives to it in the plans of the cascade.
    """
    if is_previous:
        return STAGE
    known = origin.get("configuration", "")
    if SAFE_NAME.fullmatch(known):
        return known
    if plan.cascade:
        return "3d_cascade_fullres"
    return "2d" if plan.spatial_dims == 2 else "3d_fullres"


def _folds(files: Sequence[Path]) -> list[str]:
    """The folds that were trained, if all differ; else 0, 1, 2, ..."""
    found = [str(model_facts(file).get("learnt_from", {}).get("fold")) for file in files]
    known = all(re.fullmatch(r"\d{1,4}", fold) for fold in found) and len(set(found)) == len(found)
    return found if known else [str(place) for place in range(len(files))]


def _facts_of(files: Sequence[Path], file: Path, configuration: str) -> dict[str, Any]:
    """Entries of a checkpoint, without the weights. nnU-Net takes the axes of the first fold for all."""
    allowed = [set(learnt_mirroring(path) or ()) for path in files]
    axes = tuple(sorted(set.intersection(*allowed)))
    return {
        "trainer_name": TRAINER,
        "init_args": {"configuration": configuration},
        "inference_allowed_mirroring_axes": axes or None,
        "current_epoch": model_facts(file).get("epoch"),
    }


def _write_checkpoint(
    folder: Path, fold: str, network: nn.Module, plan: Plan, facts: Mapping[str, Any]
) -> None:
    path = folder / f"fold_{fold}" / CHECKPOINTS["final"]
    path.parent.mkdir(parents=True)
    with atomic_write(path) as file:
        torch.save({"network_weights": nnunet_state(network, len(plan.strides)), **facts}, file)


def _notes(plan: Plan, dataset: Mapping[str, Any]) -> list[str]:
    """What a user of the folder must know."""
    notes = []
    ignored = dataset["labels"].get("ignore")
    if ignored != plan.ignore_value:
        notes.append(
            f"the ignore label is {ignored} in nnU-Net, which requires the value after the last; here it is "
            f"{plan.ignore_value}"
        )
    return notes

"""A model trained with nnU-Net v2 as a package of this bundle."""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.layouts import task_name
from dynunet_bundle.delivery.package.make import Package, PackageRequest, make_package
from dynunet_bundle.errors import DatasetError, WeightsError
from dynunet_bundle.files import write_json
from dynunet_bundle.labels.largest_component import RULES_ID
from dynunet_bundle.networks.weights import save_weights
from dynunet_bundle.nnunet.checkpoint import NnunetCheckpoint, read_checkpoint
from dynunet_bundle.nnunet.component_rules import component_rules
from dynunet_bundle.nnunet.names import has_batch_norm, load_nnunet_state
from dynunet_bundle.nnunet.plans import imported_plan
from dynunet_bundle.nnunet.results_folder import ResultsFolder, choose_model, opened, read_results
from dynunet_bundle.planning.plan import Plan
from dynunet_bundle.preprocessing.recipe import image_recipe

UNSTATED_LICENSE = """\
This bundle contains no data.

The weights were trained with nnU-Net and imported. They keep the licence that their authors gave them, which nnU-Net
does not record. Write it here, with the name of the authors and of the data, before you give this bundle to others.
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportRequest:
    """What to import.

    Attributes:
        bundle: the bundle folder used as template.
        model: results folder of nnU-Net, a folder above it, or a zip.
        name: of the package, ``organ_modality_task``.
        output: folder of the package.
        changelog: Markdown with one section ``## X.Y.Z`` per version.
        configuration: e.g. ``3d_fullres``; None if there is one model only.
        folds: names of the folds; None for all.
        checkpoint: ``final`` or ``best``.
        facts: JSON for the model card, see ``load_facts``, or None.
        version: of the package, or None for the newest in the changelog.
    """

    bundle: Path
    model: Path
    name: str
    output: Path
    changelog: Path
    configuration: str | None = None
    folds: Sequence[str] | None = None
    checkpoint: str = "final"
    facts: Path | None = None
    version: str | None = None


def import_nnunet(request: ImportRequest) -> Package:
    """Write a package with the weights of all chosen folds.

    Args:
        request: what to import.

    Returns:
        The package. Its predictions average the logits of the folds, as nnU-Net's do.

    Raises:
        DatasetError: if the folder is not a results folder, or lacks the fold.
        PlanError: if the bundle would not give nnU-Net's masks.
        WeightsError: if a checkpoint is damaged, holds code, or does not fit its plan.
        ConfigError: if the name is not of the form ``organ_modality_task``.
    """
    with opened(request.model) as root, tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        chosen = choose_model(root, request.configuration, request.model)
        results = read_results(chosen, request.folds, request.checkpoint)
        checkpoints = {fold: read_checkpoint(path) for fold, path in results.checkpoints.items()}
        _require_one_training(checkpoints, results)
        first = next(iter(checkpoints.values()))
        if request.configuration not in (None, first.configuration):
            raise DatasetError(
                f"{request.model} has the configuration {first.configuration}, not {request.configuration}. "
                "Pass another --configuration, or the folder that has it."
            )
        plan = imported_plan(
            results.plans, results.dataset, first.configuration, _task(results), results.folder
        )
        if has_batch_norm(first.state):
            plan = replace(plan, norm_name=["BATCH", *plan.norm_name[1:]])
        rules = _rules(results.folder)
        overlay = folder / "plan.json"
        write_json(overlay, plan.overlay() | ({RULES_ID: rules} if rules else {}))
        weights = _converted(request.bundle, overlay, results, checkpoints, rules)
        return make_package(
            PackageRequest(
                bundle=request.bundle,
                overlays=[str(overlay)],
                weights=weights[0],
                members=weights[1:],
                name=request.name,
                output=request.output,
                changelog=request.changelog,
                version=request.version,
                facts=request.facts or _default_facts(folder, plan, results),
            )
        )


def _task(results: ResultsFolder) -> str:
    return task_name(Path(str(results.plans.get("dataset_name", results.folder.name))))


def _require_one_training(
    checkpoints: Mapping[str, NnunetCheckpoint], results: ResultsFolder
) -> None:
    """Refuse folds that nnU-Net would not average in the same way."""
    first = next(iter(checkpoints.values()))
    for fold, checkpoint in checkpoints.items():
        theirs = (checkpoint.configuration, checkpoint.mirror_axes)
        if theirs != (first.configuration, first.mirror_axes):
            raise WeightsError(
                f"{results.checkpoints[fold]} is of the configuration {checkpoint.configuration} with mirroring over "
                f"{checkpoint.mirror_axes}; the first fold has {first.configuration} and {first.mirror_axes}. "
                "Choose folds of one training with --folds."
            )


def _converted(
    bundle: Path,
    overlay: Path,
    results: ResultsFolder,
    checkpoints: Mapping[str, NnunetCheckpoint],
    rules: list[list[int]] | None,
) -> list[Path]:
    """Weights of each fold, written beside the overlay."""
    parser = load_workflow(bundle, "inference.json", [str(overlay)], {"device": "cpu"}).parser
    network, plan = parser.get_parsed_content("network_def"), parser.get_parsed_content("plan")
    recipe = image_recipe(parser.get_parsed_content("preprocessing"))
    files = []
    for fold, checkpoint in checkpoints.items():
        source = results.checkpoints[fold]
        state = load_nnunet_state(network, checkpoint.state, len(plan["strides"]), source)
        facts = {
            "epoch": checkpoint.epoch,
            "mirror_axes": sorted(checkpoint.mirror_axes),
            **({RULES_ID: rules} if rules else {}),
            # nnU-Net does not record the names of its cases in a checkpoint
            "learnt_from": {"fold": fold, "trained": {}, "held_out": {}, "preprocessing": recipe},
            "origin": {
                "framework": "nnU-Net v2",
                "trainer": checkpoint.trainer,
                "configuration": checkpoint.configuration,
                "file_ending": results.dataset.get("file_ending", ""),
            },
        }
        file = overlay.with_name(f"fold_{fold}.pt")
        save_weights(file, state, plan, facts)
        files.append(file)
        logger.info("%s: %s, fold %s", results.folder.name, checkpoint.trainer, fold)
    return files


def _rules(folder: Path) -> list[list[int]] | None:
    """Component rules of the model itself; those of an ensemble do not hold for one of its members."""
    for place in (folder, *sorted(folder.glob("crossval_results_folds_*"))):
        rules = component_rules(place)
        if rules is not None:
            return rules
    return None


def _default_facts(folder: Path, plan: Plan, results: ResultsFolder) -> Path:
    path = folder / "facts.json"
    subject = ", ".join(plan.regions or plan.label_names[1:])
    facts: Mapping[str, str] = {
        "subject": f"{subject} in {' and '.join(plan.channel_names)}",
        "data_source": f"{plan.task_name}, as nnU-Net's {results.folder.name} names it",
        "data_license": UNSTATED_LICENSE,
    }
    path.write_text(json.dumps(facts), encoding="utf-8")
    return path

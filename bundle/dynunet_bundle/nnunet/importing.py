"""A model trained with nnU-Net v2 as a package of this bundle."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.dataset.layouts import task_name
from dynunet_bundle.delivery.package.facts import FACTS_SCHEMA
from dynunet_bundle.delivery.package.make import Package, PackageRequest, make_package
from dynunet_bundle.dicom_input.archives import private_folder
from dynunet_bundle.errors import ConfigError, DatasetError, WeightsError
from dynunet_bundle.files import read_json, write_json
from dynunet_bundle.labels.largest_component import RULES_ID
from dynunet_bundle.networks.weights import save_weights
from dynunet_bundle.nnunet.checkpoint import NnunetCheckpoint, read_checkpoint
from dynunet_bundle.nnunet.component_rules import component_rules
from dynunet_bundle.nnunet.names import has_batch_norm, load_nnunet_state
from dynunet_bundle.nnunet.plans import imported_plan, resolved_configuration
from dynunet_bundle.nnunet.results_folder import ResultsFolder, choose_model, opened, read_results
from dynunet_bundle.planning.plan import Plan
from dynunet_bundle.preprocessing.recipe import image_recipe

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
        previous: the same as ``model`` for the previous stage of a cascade, or None if it lies beside the cascade.
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
    previous: Path | None = None


@dataclass(frozen=True)
class _Converted:
    """A model of nnU-Net as files of this bundle.

    Attributes:
        results: where it comes from.
        configuration: that the checkpoints name.
        plan: its plan.
        overlay: file with the plan and the component rules.
        weights: file of each fold.
    """

    results: ResultsFolder
    configuration: str
    plan: Plan
    overlay: Path
    weights: list[Path]


def import_nnunet(request: ImportRequest) -> Package:
    """Write a package with the weights of all chosen folds, and those of the previous stage of a cascade.

    Args:
        request: what to import.

    Returns:
        The package. Its predictions average the logits of the folds, as nnU-Net's do. Without the facts that say the
        licence and the authors of the weights it is a folder only, no zip.

    Raises:
        DatasetError: if the folder is not a results folder, or lacks the fold or the configuration.
        PlanError: if the bundle would not give nnU-Net's masks.
        WeightsError: if a checkpoint is damaged, holds code, or does not fit its plan.
        ConfigError: if the name is not of the form ``organ_modality_task``.
    """
    root, folder = opened(request.model), private_folder()
    try:
        chosen = choose_model(root, request.configuration, request.model)
        model = _converted(request, chosen, request.configuration, folder / "model")
        stage = _stage_before(model)
        place = _place_before(request, model.results.folder, stage)
        previous = _converted(request, place, stage, folder / "previous") if place else None
        package = make_package(
            PackageRequest(
                bundle=request.bundle,
                overlays=[str(model.overlay)],
                weights=model.weights[0],
                members=model.weights[1:],
                previous=previous.weights if previous else (),
                name=request.name,
                output=request.output,
                changelog=request.changelog,
                version=request.version,
                facts=_facts(folder, model, request.facts),
                draft=True,
            )
        )
        _write_ensemble_rules(model.results.folder, request.output)
        return package
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stage_before(model: _Converted) -> str | None:
    """Configuration of the previous stage of a cascade."""
    content = resolved_configuration(model.results.plans, model.configuration)
    name: str | None = content.get("previous_stage")
    return name or None


def _place_before(request: ImportRequest, folder: Path, stage: str | None) -> Path | None:
    """Folder of the model whose masks a cascade gets: as given, else beside it by nnU-Net's name."""
    if request.previous:
        if stage is None:
            raise DatasetError(
                f"{request.model} is not a cascade, so it has no previous stage. Omit --previous_model."
            )
        return choose_model(opened(request.previous), stage, request.previous)
    prefix = folder.name.rpartition("__")[0]
    beside = folder.with_name(f"{prefix}__{stage}")
    if stage is None or beside.is_dir():
        return beside if stage else None
    logger.warning(
        "%s gets the masks of %s, which is not beside it, so each prediction needs --previous_dir. "
        "Pass that model as --previous_model to have both in one package.",
        folder.name,
        stage,
    )
    return None


def _converted(
    request: ImportRequest, chosen: Path, configuration: str | None, folder: Path
) -> _Converted:
    """The plan and the weights of a model, written to a folder."""
    folder.mkdir()
    results = read_results(chosen, request.folds, request.checkpoint)
    checkpoints = {fold: read_checkpoint(path) for fold, path in results.checkpoints.items()}
    _require_one_training(checkpoints, results)
    first = next(iter(checkpoints.values()))
    if configuration not in (None, first.configuration):
        raise DatasetError(
            f"{results.folder} has the configuration {first.configuration}, not {configuration}. "
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
    weights = _weights(request.bundle, overlay, results, checkpoints, rules)
    return _Converted(results, first.configuration, plan, overlay, weights)


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


def _weights(
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


def _write_ensemble_rules(folder: Path, output: Path) -> None:
    """Write the component rules of the ensembles that a model is a member of, as overlays beside its package."""
    for place in sorted(folder.parent.glob("ensembles/ensemble___*")):
        # ensemble___MODEL___MODEL___FOLDS
        members = place.name.split("___")[1:-1]
        rules = component_rules(place) if folder.name in members else None
        if rules is None:
            continue
        path = output / f"{place.name}.json"
        write_json(path, {RULES_ID: rules})
        logger.info(
            "the ensemble of %s has rules of its own: pass --config_file %s to the ensemble command",
            " and ".join(members),
            path,
        )


def _facts(folder: Path, model: _Converted, given: Path | None) -> Path:
    """The given facts, with what the results folder says."""
    subject = ", ".join(model.plan.regions or model.plan.label_names[1:])
    facts = {
        "subject": f"{subject} in {' and '.join(model.plan.channel_names)}",
        "data_source": f"{model.plan.task_name}, as nnU-Net's {model.results.folder.name} names it",
    }
    path = folder / "facts.json"
    write_json(path, facts | ({} if given is None else read_json(given, ConfigError, FACTS_SCHEMA)))
    return path

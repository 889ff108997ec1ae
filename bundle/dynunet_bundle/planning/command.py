"""The work of ``dynunet-bundle plan``: get the facts, plan, write overlay, facts and folds, return a summary."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynunet_bundle.dataset.cases import absolute, name_of
from dynunet_bundle.dataset.folds import MIN_FOLDS, NUM_FOLDS, SPLITS_ID, fewer_folds, write_folds
from dynunet_bundle.dataset.layouts import DatasetDescription, task_name
from dynunet_bundle.dataset.select import load_dataset, names_for
from dynunet_bundle.errors import ConfigError, PlanError, counted
from dynunet_bundle.files import ensure_writable, read_json, write_json
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.planning.channels import default_channel_names
from dynunet_bundle.planning.doubts import plan_doubts
from dynunet_bundle.planning.fingerprint import (
    FINGERPRINT_SCHEMA,
    Fingerprint,
    are_pictures,
    extract_fingerprint,
)
from dynunet_bundle.planning.like import SourceModel, plan_like
from dynunet_bundle.planning.plan import PLAN_SCHEMA, Plan, plan_differences
from dynunet_bundle.planning.planner import (
    CASCADE,
    PREVIOUS_STAGE,
    configuration_of,
    make_plan,
    planned_configurations,
    product_text,
    seed_plan,
)
from dynunet_bundle.planning.summary import (
    PlanRow,
    decided_rows,
    format_rows,
    found_rows,
    like_rows,
    preset_rows,
    spacing_rule,
)
from dynunet_bundle.terminal import next_command, tell_start

logger = logging.getLogger(__name__)

OWN_NAMES = (PREVIOUS_STAGE, CASCADE)
"""Configurations with their own name in an overlay's file name. The others are named by dimension, ``2d`` or ``3d``."""


@dataclass(frozen=True)
class PlanRequest:
    """Arguments of ``dynunet-bundle plan``; its help describes them.

    ``more_doubts`` gives doubts about the plan that rooms above this one have, one line each.
    """

    tasks_dir: Path
    dataset_dir: str | None = None
    fingerprint: str | None = None
    configuration: str | None = None
    planner: str = "plain"
    preset: str | None = None
    gpu_memory_gb: float | None = None
    channel_names: list[str] | None = None
    label_names: list[str] | None = None
    out: Path | None = None
    num_workers: int = 4
    cache_dir: Path | None = None
    like: SourceModel | None = None
    overwrite: bool = False
    name: str | None = None
    target_spacing: tuple[float, ...] | None = None
    more_doubts: Callable[[Plan], Iterable[str]] = lambda plan: ()


def plan_dataset(request: PlanRequest) -> str:
    """Make a plan and write its files.

    Returns:
        Summary for a terminal: facts, decisions, paths of the written files; and the next command.

    Raises:
        ConfigError: if arguments contradict each other.
        DatasetError, PlanError: if the data set is malformed or cannot be planned.
    """
    _check_arguments(request)
    if request.fingerprint:
        content = read_json(request.fingerprint, PlanError, FINGERPRINT_SCHEMA)
        dataset = names_for(Path(request.fingerprint).stem, content)
        fingerprint = Fingerprint.from_json(content)
    else:
        dataset = load_dataset(str(request.dataset_dir))
        task = request.name or dataset.name
        tell_start("planning", task=task, cases=len(dataset.training), folder=request.dataset_dir)
        fingerprint = extract_fingerprint(dataset, request.num_workers, request.cache_dir)
        dataset = _named(dataset, fingerprint, request)
    if request.name:
        dataset = replace(dataset, name=task_name(Path(request.name)))
    plan, decided = _decide(dataset, fingerprint, request)
    name = CASCADE if plan.cascade else request.configuration
    suffix = name if name in OWN_NAMES else f"{plan.spatial_dims}d"
    out = request.out or request.tasks_dir / f"{dataset.name}_{suffix}.json"
    _require_unchanged(out, plan, request.overwrite)
    # plain pictures are not DICOM
    others = () if are_pictures(dataset, fingerprint) else request.more_doubts(plan)
    for doubt in (*plan_doubts(dataset, fingerprint, plan), *others):
        logger.warning("%s", doubt)
    parts = [
        format_rows(f"{dataset.name}: found", found_rows(dataset, fingerprint)),
        decided,
        format_rows("written", _write(out, plan, dataset, fingerprint)),
    ]
    if request.dataset_dir:
        place = {"dataset_dir": request.dataset_dir, "config_file": out}
        folds = _fold_options(len(dataset.training))
        parts.append(next_command("train", **place, output_dir=f"RUNS/{out.stem}", **folds))
    return "\n".join(parts)


def _fold_options(num_cases: int) -> dict[str, Any]:
    """Options of ``train`` that fit the number of cases, which may be too small for the default folds."""
    if num_cases >= NUM_FOLDS:
        return {}
    return {"num_folds": num_cases} if num_cases >= MIN_FOLDS else {"fold": "full"}


def _check_arguments(request: PlanRequest) -> None:
    if request.gpu_memory_gb is not None and not request.gpu_memory_gb > 0:
        raise ConfigError(f"--gpu_memory_gb is {request.gpu_memory_gb:g}; it must be positive.")
    folder = request.tasks_dir if request.out is None else request.out.parent
    if "#" in str(absolute(folder)):
        raise ConfigError(
            f'the overlay would name a file of folds in "{folder}", and MONAI\'s configs read # as ::. Write the '
            "overlay to another folder (--output)."
        )
    if request.fingerprint and (request.out is None or request.preset):
        raise ConfigError("--fingerprint needs --output and cannot be combined with --preset.")
    if request.fingerprint and (request.channel_names or request.label_names):
        raise ConfigError(
            "--fingerprint cannot be combined with --channel_names or --label_names. "
            "Change the names in the file."
        )
    if request.target_spacing and request.preset:
        raise ConfigError("--preset has spacings of its own. Leave out --overwrite_target_spacing.")
    rules = (
        *(request.configuration, request.preset, request.gpu_memory_gb),
        request.target_spacing,
    )
    if request.like and (any(rules) or request.planner != "plain"):
        raise ConfigError(
            "--like takes the whole plan of a model. Leave out --configuration, --planner, --preset, "
            "--gpu_memory_gb and --overwrite_target_spacing."
        )
    if request.preset and (request.planner != "plain" or request.configuration in OWN_NAMES):
        raise ConfigError("--preset seed has 2d and 3d_fullres for the plain network only.")


def _require_unchanged(out: Path, plan: Plan, overwrite: bool) -> None:
    """Refuse to change a plan with which weights may have been trained.

    Raises:
        ConfigError: with the ids that differ.
    """
    if overwrite or not out.is_file():
        return
    differences = plan_differences(read_json(out, ConfigError, PLAN_SCHEMA), plan.overlay())
    if differences:
        raise ConfigError(
            f"{out} holds another plan ({'; '.join(differences)}), and weights trained with it need it. Write to "
            "another file (--output), or replace it with --overwrite."
        )


def _named(
    dataset: DatasetDescription, fingerprint: Fingerprint, request: PlanRequest
) -> DatasetDescription:
    """Name the channels and labels if the layout does not; label values are those that occur in the files."""
    if dataset.channel_names:
        if request.channel_names or request.label_names:
            raise ConfigError(
                f"{dataset.name} names its channels and labels in dataset.json. Change them there."
            )
        return dataset
    num_channels = len(fingerprint.intensities)
    channels = request.channel_names or default_channel_names(num_channels)
    values = sorted({0, *fingerprint.label_voxels})
    labels = request.label_names or ["background", *(f"class_{value}" for value in values[1:])]
    for what, names, number in (
        ("channel", channels, num_channels),
        ("label", labels, len(values)),
    ):
        if len(names) != number:
            found = f" ({', '.join(map(str, values))})" if what == "label" else ""
            raise ConfigError(
                f"--{what}_names has {counted(len(names), 'name')}, but there are {number} {what}s{found}."
            )
    return dataset.named(channels, LabelScheme(labels, values))


def _decide(
    dataset: DatasetDescription, fingerprint: Fingerprint, request: PlanRequest
) -> tuple[Plan, str]:
    if request.like:
        plan = plan_like(dataset, request.like)
        heading = f"decided by the plan of {request.like.path}"
        return plan, format_rows(heading, like_rows(plan, request.like))
    if request.preset:
        plan = seed_plan(dataset, 2 if request.configuration == "2d" else 3)
        return plan, format_rows("decided by the seed's preset", preset_rows(plan))
    if request.target_spacing:
        fingerprint = fingerprint.aimed_at(request.target_spacing)
    memory, planner = request.gpu_memory_gb, request.planner
    planned = planned_configurations(fingerprint, dataset.num_entries, memory, planner)
    configuration = request.configuration or ("3d_fullres" if "3d_fullres" in planned else "2d")
    plan = make_plan(dataset, fingerprint, configuration, memory, planner)
    in_pixels = are_pictures(dataset, fingerprint)
    spacing = (
        "spacing",
        f"{product_text(plan.spacing)} {'px' if in_pixels else 'mm'}",
        spacing_rule(fingerprint, plan.spacing, configuration),
    )
    chosen = configuration_of(configuration, planned)
    rows = decided_rows(plan, chosen, planned, planner, "pixels" if in_pixels else "voxels")
    heading = f"decided for {configuration} by nnU-Net's rules, planner {planner}"
    return plan, format_rows(heading, [*rows[:1], spacing, *rows[1:]])


def _write(
    out: Path, plan: Plan, dataset: DatasetDescription, fingerprint: Fingerprint
) -> list[PlanRow]:
    ensure_writable(out.parent)
    content = plan.overlay()
    beside: list[PlanRow] = []
    # the overlay is written last: if it exists, so do the other files
    if dataset.training:
        splits, beside = _write_beside(out.parent, dataset, fingerprint)
        if splits is not None:
            content[SPLITS_ID] = str(splits)
    write_json(out, content)
    return [("overlay", str(out), ""), *beside]


def _write_beside(
    folder: Path, dataset: DatasetDescription, fingerprint: Fingerprint
) -> tuple[Path | None, list[PlanRow]]:
    """Write the facts and the folds; existing folds are checked and kept. The path of the folds comes first."""
    splits = None
    case_names = [name_of(case) for case in dataset.training]
    row = (
        "folds",
        "not written",
        f"{counted(len(case_names), 'case')}. Pass to train {fewer_folds(len(case_names))}.",
    )
    if len(case_names) >= NUM_FOLDS:
        splits = absolute(ensure_writable(folder / "splits")) / f"{dataset.name}.json"
        write_folds(splits, case_names)
        row = ("folds", str(folder / "splits" / splits.name), "")
    facts = ensure_writable(folder / "fingerprints") / f"{dataset.name}.json"
    names = {"channel_names": list(dataset.channel_names), **dataset.labels.ids()}
    write_json(facts, {**fingerprint.to_json(), **names})
    return splits, [("fingerprint", str(facts), ""), row]

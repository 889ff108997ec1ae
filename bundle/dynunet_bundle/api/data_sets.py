"""Plan, prepare and evaluate data sets from Python: what the commands of the same names do.

The heavy libraries are imported where they are needed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dynunet_bundle.errors import ConfigError, WeightsError
from dynunet_bundle.files import read_json
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.shapes import OBJECT
from dynunet_bundle.terminal import tell_start

if TYPE_CHECKING:
    from dynunet_bundle.planning.command import PlanRequest

CHOICES = {
    "configuration": (None, "3d_fullres", "2d", "3d_lowres", "3d_cascade_fullres"),
    "planner": ("plain", "resenc_m", "resenc_l", "resenc_xl"),
    "preset": (None, "seed"),
}
"""Values of the settings of ``plan``."""


class Evaluation(NamedTuple):
    """Scores of masks.

    Attributes:
        summary: content of ``scores.json``.
        told: where the names of the classes come from.
        written: files that were written.
        masks: the masks, with the cases that could not be scored.
    """

    summary: dict[str, Any]
    told: str
    written: list[Path]
    masks: Any


def plan(
    dataset_dir: str | Path,
    output: str | Path,
    *,
    configuration: str | None = None,
    planner: str = "plain",
    preset: str | None = None,
    like: str | Path | None = None,
    gpu_memory_gb: float | None = None,
    channel_names: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    name: str | None = None,
    num_workers: int = 4,
    cache_dir: str | Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Analyse a data set and write its task overlay, the facts and the folds, as the command does.

    Args:
        dataset_dir: the data set.
        output: JSON file of the overlay.
        configuration: ``"3d_fullres"`` (default), ``"2d"``, ``"3d_lowres"`` or ``"3d_cascade_fullres"``.
        planner: ``"plain"``, ``"resenc_m"``, ``"resenc_l"`` or ``"resenc_xl"``.
        preset: ``"seed"`` for NVIDIA's tables of Decathlon tasks.
        like: model whose plan is kept.
        gpu_memory_gb: memory to plan for.
        channel_names: of a data set without dataset.json.
        label_names: background first, of a data set without dataset.json.
        name: of the task.
        num_workers: threads that read cases.
        cache_dir: folder for the facts of each file.
        overwrite: replace an overlay that holds another plan.

    Returns:
        The overlay: ids of the plan, and the file of folds.

    Raises:
        BundleError: if settings contradict each other, or the data set cannot be planned.
    """
    from dynunet_bundle.networks.starting_model import source_model
    from dynunet_bundle.planning.command import PlanRequest

    _require_choices(configuration=configuration, planner=planner, preset=preset)
    request = PlanRequest(
        Path(output).parent,
        str(dataset_dir),
        out=Path(output),
        configuration=configuration,
        planner=planner,
        preset=preset,
        gpu_memory_gb=gpu_memory_gb,
        channel_names=list(channel_names) if channel_names else None,
        label_names=list(label_names) if label_names else None,
        num_workers=num_workers,
        cache_dir=Path(cache_dir) if cache_dir else None,
        like=source_model(Path(like)) if like else None,
        overwrite=overwrite,
        name=name,
    )
    return _overlay_of(request)


def _overlay_of(request: "PlanRequest") -> dict[str, Any]:
    from dynunet_bundle.planning.command import plan_dataset

    plan_dataset(request)
    return dict(read_json(request.out or "", ConfigError, OBJECT))


def _require_choices(**settings: str | None) -> None:
    for name, value in settings.items():
        if value not in CHOICES[name]:
            raise ConfigError(
                f"{name} is {value!r}. Pass one of {', '.join(map(str, CHOICES[name]))}."
            )


def prepare(
    dataset_dir: str | Path,
    prepared_dir: str | Path,
    *,
    config_files: Sequence[str | Path] = (),
    model: str | Path | None = None,
    trust: bool = False,
) -> list[str]:
    """Prepare all cases of a data set for training, as the command does; cases that are prepared are kept.

    Args:
        dataset_dir: the data set.
        prepared_dir: folder for the prepared cases; several data sets may share it.
        config_files: overlays for train.json, such as that of ``plan``.
        model: model whose plan and recipe are used.
        trust: accept code in overlays from outside the bundle (SECURITY.md).

    Returns:
        Names of the cases.

    Raises:
        BundleError: if the config is wrong, or cases cannot be prepared.
    """
    from dynunet_bundle.configs.workflow import load_parser
    from dynunet_bundle.dataset.cases import name_of

    trained = training_of(model)
    parser = load_parser(
        BUNDLE,
        "train.json",
        list(map(str, config_files)),
        prepare_overrides(dataset_dir, prepared_dir),
        plan=trained[0],
        recipe=trained[1],
        trust=trust,
    )
    dataset = parser.get_parsed_content("train#dataset")
    dataset.cases()
    return [name_of(case) for case in dataset.data]


def prepare_overrides(dataset_dir: str | Path, prepared_dir: str | Path) -> dict[str, Any]:
    """Values by id for train.json: all cases, so that the data set needs no folds."""
    return {"dataset_dir": str(dataset_dir), "prepared_dir": str(prepared_dir), "fold": "all"}


def training_of(model: str | Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plan and recipe of a model; empty without one.

    Raises:
        WeightsError: if its model.json has no plan.
    """
    from dynunet_bundle.networks.model_json import model_files, model_plan, model_recipe

    if model is None:
        return {}, {}
    weights = model_files(Path(model))[0]
    found = dict(model_plan(weights))
    if not found:
        raise WeightsError(
            f"{weights.with_suffix('.json')} has no plan. Pass the task overlay with --config_file."
        )
    return found, model_recipe(weights)


def evaluate(
    predictions: str | Path,
    labels: str | Path,
    *,
    label_names: Sequence[str] | None = None,
    label_values: Sequence[int] | None = None,
    model: str | Path | None = None,
    config_files: Sequence[str | Path] = (),
    nsd_tolerance_mm: float = 1.0,
    output: str | Path | None = None,
    csv: str | Path | None = None,
    report: str | Path | None = None,
    images: str | Path | None = None,
) -> dict[str, Any]:
    """Score masks against labels on the voxels of the files, as the command does.

    Args:
        predictions: folder of the masks.
        labels: folder of the reference masks, or the data set.
        label_names: one name per class, background first; default: those of ``model``, ``config_files`` or run.json.
        label_values: one value per class, if not 0, 1, 2, ...
        model: model that made the masks, which names the classes.
        config_files: overlays of the task.
        nsd_tolerance_mm: tolerance of the surface Dice in millimetres.
        output: JSON file of the scores; default: ``scores.json`` in ``predictions``.
        csv: table to write, one row per case and class.
        report: HTML page to write.
        images: folder of the images, or the data set, for the page.

    Returns:
        The content of ``scores.json``, see ``docs/evaluation.md``.

    Raises:
        BundleError: if the classes are unknown, or masks and labels cannot be paired.
        PredictionError: if some cases could not be scored; the file has the scores of the others.
    """
    done = evaluate_masks(
        Path(predictions),
        str(labels),
        names={"label_names": label_names, "label_values": label_values},
        model=model,
        config_files=list(map(str, config_files)),
        nsd_tolerance_mm=nsd_tolerance_mm,
        files=(output, csv, report, images),
    )
    done.masks.require_all()
    return done.summary


def evaluate_masks(
    predictions: Path,
    labels: str,
    *,
    names: dict[str, Any],
    model: str | Path | None,
    config_files: Sequence[str],
    nsd_tolerance_mm: float,
    files: Sequence[str | Path | None],
    measure: Callable[..., dict[str, Any]] | None = None,
) -> Evaluation:
    """Score masks and write the files; for ``evaluate`` and the command.

    Args:
        predictions: as in ``evaluate``, as are the others.
        labels: folder of the reference masks, or the data set.
        names: ``label_names`` and ``label_values``, or None.
        model: model that made the masks.
        config_files: overlays of the task.
        nsd_tolerance_mm: tolerance of the surface Dice in millimetres.
        files: ``output``, ``csv``, ``report`` and ``images``.
        measure: does the work of ``measure_masks``, which is the default, elsewhere.

    Returns:
        The scores; its ``masks`` know the cases that could not be scored.

    Raises:
        BundleError: as ``evaluate``.
    """
    from dynunet_bundle.evaluation.case_measures import require_tolerance
    from dynunet_bundle.evaluation.label_source import find_label_source
    from dynunet_bundle.evaluation.mask_folders import find_masks, measure_masks
    from dynunet_bundle.evaluation.output import Outputs, write_outputs
    from dynunet_bundle.evaluation.scores import summarize_measures
    from dynunet_bundle.networks.model_json import model_files, model_plan

    require_tolerance(nsd_tolerance_mm)
    outputs = Outputs(*(None if file is None else Path(file) for file in files))
    if outputs.images and not outputs.report:
        raise ConfigError("images are for the report. Pass report too, or leave them out.")
    weights = model_files(Path(model)) if model else []
    of_model = model_plan(weights[0]) if weights else None
    source = find_label_source(names, config_files, BUNDLE / "configs", predictions, of_model)
    masks = find_masks(str(predictions), labels, **source.ids)
    scheme = masks.labels
    tell_start(
        "evaluation",
        cases=len(masks.files),
        classes=list(scheme.target_names[1:]),
        predictions=predictions,
        labels=labels,
    )
    measures = (measure or measure_masks)(masks, nsd_tolerance_mm)
    summary = summarize_measures(measures, scheme.target_names, nsd_tolerance_mm)
    if trained := _trained_cases(list(masks.files), predictions, weights):
        summary["trained_cases"] = trained
    class_names = dict(zip(scheme.values, scheme.names, strict=True))
    references = {name: reference for name, (_, reference) in masks.files.items()}
    written = write_outputs(summary, predictions, references, outputs, class_names)
    return Evaluation(summary, source.told, written, masks)


def _trained_cases(cases: Sequence[str], predictions: Path, weights: Sequence[Path]) -> list[str]:
    """Cases of the training among the scored ones, by run.json; by names if there is only a model."""
    from dynunet_bundle.evaluation.trained_cases import tell_trained
    from dynunet_bundle.inference.run_json import RUN_NAME, read_run_json
    from dynunet_bundle.networks.model_json import model_facts

    record = predictions / RUN_NAME
    marks = [(model_facts(file).get("learnt_from") or {}).get("trained", {}) for file in weights]
    return tell_trained(cases, read_run_json(record) if record.is_file() else {}, marks)

r"""Predict one mask per image, on the voxel grid of its file.

    dynunet-bundle predict --input IMAGE_FOLDER_OR_LIST --output_dir MASKS
    dynunet-bundle predict --input IMAGES --output_dir MASKS --model PACKAGE_OR_RUN
    dynunet-bundle predict --input IMAGES --output_dir MASKS --model RUNS/fold_*/models/model.pt --mirroring

The plan of the network is read from the model.json beside the weights. Several weights of one plan form an ensemble.
run.json in the output folder records inputs, settings and the status of each mask, and flags masks that a person should
check. Run the same command again to resume: finished cases are skipped.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynunet_bundle.commands.cluster_options import cluster_of
from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.commands.predict_options import (
    add_prediction_options,
    add_result_options,
    part_of,
    series_rules,
)
from dynunet_bundle.configs.lean_monai import import_monai
from dynunet_bundle.configs.quiet import tell_hidden
from dynunet_bundle.errors import (
    BusyError,
    ConfigError,
    DatasetError,
    PlanError,
    PredictionError,
    counted,
    some_of,
)
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.terminal import next_command, say

LOG = logging.getLogger(__name__)

if TYPE_CHECKING:
    from dynunet_bundle.api.model_choice import ModelChoice


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_old_names(
        output="output_dir",
        weights="model",
        previous="previous_dir",
        save_probabilities="probabilities_dir",
        tta="mirroring",
    )
    parser.add_argument(
        "-i", "--input", required=True, help="image, folder, JSON list, or DICOM folder or zip"
    )
    parser.add_output_dir("folder for the masks", required=False)
    parser.add_model(
        "package, its zip, or its name if installed; folder of a training; files of weights: several form an ensemble",
        default=None,
        nargs="+",
    )
    parser.add_config_files(
        "overlays for inference.json: other settings, or the plan of weights without model.json"
    )
    parser.add_device()
    parser.add_trust()
    add_prediction_options(parser)
    add_result_options(parser)
    parser.add_ray()


def _choice_of(arguments: argparse.Namespace) -> "ModelChoice":
    """Which model predicts, and how."""
    from dynunet_bundle.api.model_choice import ModelChoice

    return ModelChoice(
        models=arguments.model or (),
        config_files=arguments.config_file,
        device=arguments.device,
        checkpoint=arguments.checkpoint,
        mirroring=arguments.mirroring,
        precision=arguments.precision,
    )


def _overrides_of(arguments: argparse.Namespace, weights: list[Path]) -> dict[str, Any]:
    """Values by id for inference.json."""
    given = {
        "input": arguments.input,
        "output_dir": str(arguments.output_dir),
        "probabilities_dir": arguments.probabilities_dir,
        "previous_dir": arguments.previous_dir,
        "series_rules": series_rules(arguments.series),
        "dicom_objects": arguments.dicom,
        "resume": not arguments.restart,
        "overlap": arguments.overlap,
        "part": part_of(arguments),
    }
    own = {name: value for name, value in given.items() if value is not None}
    return {**own, **_choice_of(arguments).overrides(weights)}


def _require_input(text: str) -> None:
    """Refuse an input that does not exist, before the large libraries are loaded.

    Raises:
        DatasetError: if it does not exist.
    """
    if not os.path.lexists(text):
        raise DatasetError(
            f"there is nothing at {text}. Pass --input with an image, a folder, a JSON list, or a DICOM folder or zip."
        )


def _require_wanted_model(arguments: argparse.Namespace, plan: dict[str, Any]) -> None:
    """Refuse to predict images of a data set of other classes with the model of the bundle, which nobody has named.

    Raises:
        PlanError: with the ways on.
    """
    from dynunet_bundle.dataset.default_task import other_classes

    doubt = other_classes(arguments.input, plan)
    if doubt and not arguments.model and not arguments.config_file:
        raise PlanError(f"{doubt} If that model is meant, pass --model {BUNDLE / 'models'}.")


def _tell_uncoded(workflow: Any, cases: Sequence[Mapping[str, Any]]) -> None:
    """Warn of classes without DICOM codes before the prediction, if it writes DICOM objects."""
    from dynunet_bundle.dataset.cases import image_files
    from dynunet_bundle.dicom_input.names import is_series_name

    names = ("dicom_objects", "label_names", "task_name", "label_codes")
    objects, classes, task, codes = map(workflow.parser.get_parsed_content, names)
    if objects and any(is_series_name(file) for case in cases for file in image_files(case)):
        from dynunet_bundle.dicom_output.labels import tell_uncoded

        tell_uncoded(classes[1:], task, codes)


def _publish(arguments: argparse.Namespace, workflow: Any, run_file: Path) -> None:
    """Print run.json and write the report, as far as they are wanted."""
    from dynunet_bundle.dataset.cases import name_of
    from dynunet_bundle.inference.run_json import read_run_json

    if arguments.json and run_file.is_file():
        print(run_file.read_text(encoding="utf-8"), end="")
    if arguments.report and run_file.is_file():
        from dynunet_bundle.report.page import write_report

        cases = workflow.parser.get_parsed_content("cases")
        images = {name_of(case): case["image"] for case in cases}
        write_report(
            arguments.report, arguments.output_dir, images=images, run=read_run_json(run_file)
        )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    _require_input(arguments.input)
    if cluster_of(arguments) and part_of(arguments):
        raise ConfigError("--num_parts is for jobs without a cluster. With --ray, leave it out.")
    if arguments.list_series:
        _list_series(arguments.input)
        return
    if arguments.output_dir is None:
        raise ConfigError("--output_dir is missing. Pass a folder for the masks.")
    _predict(arguments)


def _list_series(source: str) -> None:
    """Print the series of a DICOM source; descriptions reach no file or pipe."""
    from dynunet_bundle.dataset.dicom_listing import series_table

    is_terminal = sys.stdout.isatty()
    if not is_terminal:
        LOG.info("descriptions of series are left out: the output is not a terminal")
    print(series_table(source, with_descriptions=is_terminal))


def _predict(arguments: argparse.Namespace) -> None:
    """Predict the cases of the input."""
    choice = _choice_of(arguments)
    # only an overlay is read with MONAI; otherwise a missing model is told before MONAI and torch are imported
    weights = choice.weights() if arguments.model or not arguments.config_file else []
    if not arguments.trust:
        # own code may need any part of MONAI
        import_monai()
    from dynunet_bundle.networks.model_json import model_settings, previous_weights

    weights = weights or choice.weights()
    plan = model_settings(weights[0])
    _require_wanted_model(arguments, plan)
    overrides = _overrides_of(arguments, weights)
    first_stage = previous_weights(weights[0]) if plan.get("cascade") else []
    if first_stage and arguments.previous_dir is None:
        overrides["previous_dir"] = str(_predict_first_stage(arguments, first_stage))
        # a case that failed there has no mask
        overrides["cases#tolerant"] = True

    from dynunet_bundle.files import ensure_writable

    workflow, run_all = _loaded(arguments, arguments.config_file, overrides, plan)
    if arguments.report:
        ensure_writable(arguments.report.parent)
    cases = workflow.parser.get_parsed_content("cases")
    _tell_uncoded(workflow, cases)
    if arguments.series_map:
        from dynunet_bundle.dataset.dicom_listing import write_series_map

        write_series_map(arguments.series_map, cases)
    run_file = arguments.output_dir / "run.json"
    before = _state_of(run_file)
    try:
        run_all()
    except BusyError:
        # run.json is another process's
        raise
    except BaseException:
        # a run that did not start leaves the run.json of an earlier one
        if _state_of(run_file) != before:
            _publish(arguments, workflow, run_file)
        raise
    _publish(arguments, workflow, run_file)
    tell_hidden()
    if not arguments.json:
        say("masks are in {}{}", arguments.output_dir, _objects_in(run_file))
        if arguments.report:
            say("the page is {}", arguments.report)
        else:
            print(next_command("report", arguments.output_dir, input=_report_input(arguments)))


def _objects_in(run_file: Path) -> str:
    """The DICOM objects of a run, by kind, as the rest of a sentence."""
    from dynunet_bundle.inference.run_json import read_run_json

    cases = read_run_json(run_file).get("cases", {}) if run_file.is_file() else {}
    names = sorted(name for facts in cases.values() for name in facts.get("objects", ()))
    return f", with {counted(len(names), 'DICOM object')}: {some_of(names)}" if names else ""


def _loaded(
    arguments: argparse.Namespace,
    overlays: Sequence[str],
    overrides: Mapping[str, Any],
    plan: Mapping[str, Any],
) -> tuple[Any, Callable[[], object]]:
    """inference.json, and what runs it: this process, or the workers of a cluster."""
    workers = cluster_of(arguments)
    if workers is None:
        from dynunet_bundle.configs.workflow import load_workflow

        settings = {"plan": plan, "trust": arguments.trust}
        workflow = load_workflow(BUNDLE, "inference.json", overlays, overrides, **settings)
        return workflow, workflow.run
    from dynunet_bundle.cluster.predict import PredictionJob, predict_on_cluster

    job = PredictionJob(overlays, overrides, plan, arguments.trust)
    workflow = job.command_workflow()
    return workflow, partial(predict_on_cluster, workflow, job, workers)


def _report_input(arguments: argparse.Namespace) -> str:
    """The images of the prediction as ``report`` takes them; a word in their place for a file, a list or DICOM."""
    from dynunet_bundle.dicom_input.names import is_dicom_input

    path = Path(arguments.input)
    return str(path) if path.is_dir() and not is_dicom_input(path) else "IMAGES"


def _predict_first_stage(arguments: argparse.Namespace, weights: list[Path]) -> Path:
    """Predict the masks that a cascade gets, with the weights in its package; overlays are for the cascade only.

    Returns:
        Folder of the masks. A case that failed has no mask: the cascade lists it among its own failures.
    """
    from dynunet_bundle.dataset.cases import list_images
    from dynunet_bundle.networks.model_json import PREVIOUS_STAGE, model_settings

    folder = arguments.output_dir / PREVIOUS_STAGE
    overrides = _overrides_of(arguments, weights)
    overrides.pop("probabilities_dir", None)
    overrides |= {
        "output_dir": str(folder),
        "weights_file": weights[0] if len(weights) == 1 else weights,
        "dicom_objects": [],
    }
    _, run_all = _loaded(arguments, [], overrides, model_settings(weights[0]))
    try:
        run_all()
    except PredictionError:
        if not list_images(folder):
            raise
    return folder


def _state_of(file: Path) -> tuple[int, int] | None:
    """What changes as a file is replaced, or None; ``run.json`` of many cases is large."""
    if not file.is_file():
        return None
    state = file.stat()
    return state.st_ino, state.st_mtime_ns

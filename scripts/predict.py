r"""Predict one mask per image, on the voxel grid of its file.

    python scripts/predict.py --input IMAGE_FOLDER_OR_LIST --output FOLDER
    python scripts/predict.py --input IMAGES --output OUT --model PACKAGE_OR_RUN
    python scripts/predict.py --input IMAGES --output OUT --weights RUNS/fold_*/models/model.pt --tta

The plan of the network is read from the model.json beside the weights. Several weights of one plan form an ensemble.
run.json in the output folder records inputs, settings and the status of each mask, and flags masks that a person should
check.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from dynunet_bundle.errors import BusyError, ConfigError, user_errors_exit

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input",
        required=True,
        help="image, folder, JSON list, or DICOM folder or zip",
    )
    parser.add_argument("--output", required=True, help="folder for the masks")
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--model", type=Path, help="package, folder of a training, or file of weights"
    )
    model.add_argument(
        "--weights", nargs="+", help="files of weights (default: bundle/models/model.pt)"
    )
    add_options(parser)
    return parser.parse_args()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of how to predict, and what to write."""
    parser.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        default="best",
        help="weights of the best epoch, model.pt, or of the last one, checkpoint_last.pt beside it (default: best)",
    )
    parser.add_argument(
        "--config_file",
        action="extend",
        nargs="+",
        default=[],
        help="overlays for inference.json: other settings, or the plan of weights without model.json",
    )
    parser.add_argument(
        "--tta", action="store_true", help="average over mirrored versions (test-time augmentation)"
    )
    parser.add_argument(
        "--series", help='DICOM series to use: its name, or rules, e.g. \'{"modality": "CT"}\''
    )
    parser.add_argument(
        "--dicom",
        nargs="*",
        metavar="KIND",
        help="DICOM objects to write for each series: seg, fractional, rtstruct, report (default: seg)",
    )
    parser.add_argument(
        "--previous", help="for a cascade: folder of the masks of the previous stage"
    )
    parser.add_argument(
        "--device", help="device, e.g. cpu or cuda:0 (default: a GPU if there is one)"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "float16", "bfloat16"),
        help="precision of the network (default: auto)",
    )
    parser.add_argument(
        "--continue", action="store_true", dest="resume", help="skip finished cases"
    )
    parser.add_argument(
        "--save_probabilities",
        metavar="FOLDER",
        help="folder for probabilities, for scripts/ensemble.py; large files",
    )
    parser.add_argument("--report", type=Path, help="HTML file to write: a page with pictures")
    parser.add_argument(
        "--trust", action="store_true", help="accept code in overlays from outside bundle/configs"
    )
    parser.add_argument("--json", action="store_true", help="print run.json")


def series_rules(text: str | None) -> dict[str, Any] | None:
    """Rules as JSON, or the name of a series."""
    if text is None or not text.lstrip().startswith("{"):
        return text and {"series": text}
    from dynunet_bundle.files import parse_json
    from dynunet_bundle.shapes import OBJECT

    rules: dict[str, Any] = parse_json(os.fsencode(text), "--series", ConfigError, OBJECT)
    return rules


def overrides_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Values by id for inference.json."""
    from dynunet_bundle.networks.weights import learnt_mirroring

    weights = weights_of(arguments)
    given = {
        "input": arguments.input,
        "output_dir": arguments.output,
        "device": arguments.device,
        "precision": arguments.precision,
        "probabilities_dir": arguments.save_probabilities,
        "previous_dir": arguments.previous,
        "series_rules": series_rules(arguments.series),
        "dicom_objects": arguments.dicom,
        "resume": arguments.resume or None,
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    if arguments.weights or arguments.checkpoint == "last":
        overrides["weights_file"] = weights[0] if len(weights) == 1 else weights
    if arguments.tta:
        # also for a model without mirroring: the config then refuses it with a reason
        overrides["displayable_configs#mirroring"] = True
        overrides |= {"mirror_axes": axes} if (axes := learnt_mirroring(weights[0])) else {}
    return overrides


def weights_of(arguments: argparse.Namespace) -> list[Path]:
    """The file of weights, or those of an ensemble: as given, else as the last overlay says, else the bundle's."""
    from dynunet_bundle.configs.overrides import CONFIG_SCHEMA
    from dynunet_bundle.files import read_json
    from dynunet_bundle.networks.model_json import CHECKPOINTS, MODEL

    given = arguments.weights
    for overlay in arguments.config_file if given is None else ():
        given = read_json(overlay, ConfigError, CONFIG_SCHEMA).get("weights_file", given)
    files = BUNDLE / "models" / MODEL if given is None else given
    weights = [Path(file) for file in (files if isinstance(files, list) else [files])]
    if arguments.checkpoint == "last":
        return [file.with_name(CHECKPOINTS[0]) for file in weights]
    return weights


def publish(arguments: argparse.Namespace, workflow: Any, run_file: Path) -> None:
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
            arguments.report, Path(arguments.output), images=images, run=read_run_json(run_file)
        )


def main() -> None:
    arguments = parse()

    from dynunet_bundle.configs.workflow import load_workflow
    from dynunet_bundle.files import ensure_writable
    from dynunet_bundle.networks.model_json import model_files, model_settings

    if arguments.model:
        arguments.weights = [str(file) for file in model_files(arguments.model)]
    workflow = load_workflow(
        BUNDLE,
        "inference.json",
        arguments.config_file,
        overrides_of(arguments),
        plan=model_settings(weights_of(arguments)[0]),
        trust=arguments.trust,
    )
    if arguments.report:
        ensure_writable(arguments.report.parent)
    run_file = Path(arguments.output) / "run.json"
    before = content_of(run_file)
    try:
        workflow.run()
    except BusyError:
        # run.json is another process's
        raise
    except BaseException:
        # a run that did not start leaves the run.json of an earlier one
        if content_of(run_file) != before:
            publish(arguments, workflow, run_file)
        raise
    publish(arguments, workflow, run_file)
    if not arguments.json:
        print(f"masks are in {arguments.output}")


def content_of(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


if __name__ == "__main__":
    with user_errors_exit():
        main()

r"""Predict masks: one for each image, on the very voxels of its file.

    python scripts/predict.py --input IMAGE_FOLDER_OR_LIST --output FOLDER
    python scripts/predict.py --input IMAGES --output OUT --weights RUN/model.pt \
        --config_file bundle/configs/quick.json
    python scripts/predict.py --input IMAGES --output OUT --weights RUNS/fold_*/models/model.pt --tta

Weights and plan belong together: pass the overlays that the weights were trained with. Several weights of one plan are
an ensemble. run.json in the output folder tells what each mask was made of, how it went, and what to look at.
"""

import argparse
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", required=True, help="an image, a folder of them, or a JSON list of them"
    )
    parser.add_argument("--output", required=True, help="folder of the masks")
    parser.add_argument("--weights", nargs="+", help="model.pt (default: bundle/models/model.pt)")
    parser.add_argument(
        "--config_file", action="extend", nargs="+", default=[], help="overlays of inference.json"
    )
    parser.add_argument(
        "--tta", action="store_true", help="average over all mirrorings: slower, a little better"
    )
    parser.add_argument("--device", help='"cpu" or "cuda:0" (default: a GPU where there is one)')
    parser.add_argument(
        "--precision", choices=("auto", "float32", "float16", "bfloat16"), help="default: auto"
    )
    parser.add_argument(
        "--continue", action="store_true", dest="resume", help="leave out cases that are done"
    )
    parser.add_argument(
        "--save_probabilities", metavar="FOLDER", help="for scripts/ensemble.py; large"
    )
    parser.add_argument("--report", type=Path, help="write a page with pictures to this HTML file")
    parser.add_argument("--json", action="store_true", help="print run.json")
    return parser.parse_args()


def main() -> None:
    arguments = parse()

    from dynunet_bundle.files import read_json  # noqa: PLC0415 - keeps --help fast
    from dynunet_bundle.workflow import load_workflow  # noqa: PLC0415

    given = {
        "input": arguments.input,
        "output_dir": arguments.output,
        "weights_file": arguments.weights,
        "device": arguments.device,
        "precision": arguments.precision,
        "probabilities_dir": arguments.save_probabilities,
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    if arguments.weights and len(arguments.weights) == 1:
        overrides["weights_file"] = arguments.weights[0]
    if arguments.tta:
        overrides["displayable_configs#mirroring"] = True
    if arguments.resume:
        overrides["resume"] = True
    workflow = load_workflow(BUNDLE, "inference.json", arguments.config_file, overrides)
    try:
        workflow.run()
    finally:
        run_file = Path(arguments.output) / "run.json"
        if arguments.json and run_file.is_file():
            print(run_file.read_text(encoding="utf-8"), end="")
    if arguments.report:
        from dynunet_bundle.errors import ConfigError  # noqa: PLC0415
        from dynunet_bundle.evaluation.report import write_report  # noqa: PLC0415

        run = read_json(run_file, ConfigError)
        images = Path(arguments.input) if Path(arguments.input).is_dir() else None
        write_report(arguments.report, Path(arguments.output), images=images, run=run)
    if not arguments.json:
        print(f"masks are in {arguments.output}")


if __name__ == "__main__":
    with user_errors_exit():
        main()

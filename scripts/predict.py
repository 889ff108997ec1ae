r"""Predict masks: one for each image, on the very voxels of its file.

    python scripts/predict.py --input IMAGE_OR_FOLDER --output FOLDER
    python scripts/predict.py --input IMAGES --output OUT --weights RUN/model.pt \
        --config_file bundle/configs/quick.json

Weights and plan belong together: pass the overlays that the weights were trained with.
"""

import argparse
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", required=True, help="an image file or a folder of them")
    parser.add_argument("--output", required=True, help="folder of the masks")
    parser.add_argument("--weights", help="model.pt (default: bundle/models/model.pt)")
    parser.add_argument(
        "--config_file", action="extend", nargs="+", default=[], help="overlays of inference.json"
    )
    arguments = parser.parse_args()

    from dynunet_bundle.workflow import load_workflow  # noqa: PLC0415 - keeps --help fast

    overrides = {"input": arguments.input, "output_dir": arguments.output}
    if arguments.weights:
        overrides["weights_file"] = arguments.weights
    workflow = load_workflow(BUNDLE, "inference.json", arguments.config_file, overrides)
    workflow.run()
    print(f"masks are in {arguments.output}")


if __name__ == "__main__":
    with user_errors_exit():
        main()

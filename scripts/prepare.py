"""Prepare all cases of a data set; training does the same for missing cases.

python scripts/prepare.py --dataset_dir DATA/Task09_Spleen --config_file bundle/configs/tasks/Task09_Spleen_3d.json
"""

import argparse
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of the data set")
    parser.add_argument(
        "--config_file", action="extend", nargs="+", default=[], help="overlays for train.json"
    )
    parser.add_argument(
        "--prepared_dir", help="folder for prepared cases (default: bundle/eval/prepared)"
    )
    parser.add_argument(
        "--trust", action="store_true", help="accept code in overlays from outside bundle/configs"
    )
    arguments = parser.parse_args()

    from dynunet_bundle.configs.workflow import load_workflow

    overrides = {"dataset_dir": arguments.dataset_dir}
    if arguments.prepared_dir:
        overrides["prepared_dir"] = arguments.prepared_dir
    workflow = load_workflow(
        BUNDLE, "train.json", arguments.config_file, overrides, trust=arguments.trust
    )
    for section in ("train", "validate"):
        workflow.parser.get_parsed_content(f"{section}#dataset").cases()
    print(f"prepared cases are in {workflow.parser.get_parsed_content('prepared_dir')}")


if __name__ == "__main__":
    with user_errors_exit():
        main()

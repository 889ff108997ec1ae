r"""Draw training patches as a PNG: without augmentation, under each augmentation alone, and under all of them.

python scripts/preview_feed.py --dataset_dir DATA/Task09_Spleen \
    --config_file bundle/configs/tasks/Task09_Spleen_3d.json --out feed.png
"""

import argparse
import logging
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def main() -> None:
    from dynunet_bundle.shapes import COUNT, POSITIVE, number_option

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of the data set")
    parser.add_argument(
        "--config_file", action="extend", nargs="+", default=[], help="overlays for train.json"
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument(
        "--prepared_dir", help="folder for prepared cases (default: bundle/eval/prepared)"
    )
    parser.add_argument(
        "--columns", type=number_option(POSITIVE), default=6, help="patches per row (default: 6)"
    )
    parser.add_argument(
        "--seed", type=number_option(COUNT), default=0, help="random seed (default: 0)"
    )
    parser.add_argument(
        "--trust", action="store_true", help="accept code in overlays from outside bundle/configs"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from dynunet_bundle.configs.workflow import load_workflow
    from dynunet_bundle.drawing.slices import save_png
    from dynunet_bundle.feed.preview import preview

    overrides = {"dataset_dir": arguments.dataset_dir, "seed": arguments.seed}
    if arguments.prepared_dir:
        overrides["prepared_dir"] = arguments.prepared_dir
    workflow = load_workflow(
        BUNDLE, "train.json", arguments.config_file, overrides, trust=arguments.trust
    )
    parts = {
        "dataset": "train#dataset",
        "patch_size": "patch_size",
        "augmentation": "augmentation",
        "seed": "seed",
    }
    settings = {name: workflow.parser.get_parsed_content(path) for name, path in parts.items()}
    picture = preview({**settings, "oversampling": 1.0}, arguments.columns)
    save_png(picture, arguments.out)
    print(f"the picture is in {arguments.out}")


if __name__ == "__main__":
    with user_errors_exit():
        main()

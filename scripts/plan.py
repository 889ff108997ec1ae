"""Analyse a data set and write its task overlay, the second config file of every command.

    python scripts/plan.py --dataset_dir DATA/Task09_Spleen
    python scripts/plan.py --dataset_dir DATA/Task09_Spleen --configuration 2d --gpu_memory_gb 16
    python scripts/plan.py --dataset_dir DATA/Task09_Spleen --planner resenc_l
    python scripts/plan.py --dataset_dir DATA/Task09_Spleen --preset seed
    python scripts/plan.py --dataset_dir DATA/Own --channel_names CT --label_names background liver
    python scripts/plan.py --fingerprint FINGERPRINT.json --out OVERLAY.json

The overlay goes to bundle/configs/tasks/, the facts of the data to fingerprints/ in it, and the folds to splits/, which
you may edit. The facts of each file are cached in --cache_dir, so planning again takes seconds.
"""

import argparse
import logging
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
TASKS_DIR = BUNDLE / "configs" / "tasks"


def parse_arguments() -> argparse.Namespace:
    from dynunet_bundle.shapes import NUMBER, POSITIVE, number_option

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--dataset_dir",
        help="folder of the data set: MSD or nnU-Net layout, or images/ and labels/",
    )
    source.add_argument(
        "--fingerprint", help="JSON file of facts to plan from without images; needs --out"
    )
    parser.add_argument(
        "--configuration",
        choices=("3d_fullres", "2d", "3d_lowres", "3d_cascade_fullres"),
        help="configuration to plan (default: 3d_fullres)",
    )
    parser.add_argument(
        "--planner",
        choices=("plain", "resenc_m", "resenc_l", "resenc_xl"),
        default="plain",
        help="nnU-Net's planner (default: plain)",
    )
    parser.add_argument(
        "--preset", choices=("seed",), help="use NVIDIA's tables for Decathlon tasks"
    )
    parser.add_argument(
        "--gpu_memory_gb",
        type=number_option(NUMBER),
        help="GPU memory to plan for (default: 8, 24 or 40, by planner)",
    )
    parser.add_argument(
        "--channel_names", nargs="+", help="names of channels, if there is no dataset.json"
    )
    parser.add_argument(
        "--label_names",
        nargs="+",
        help="names of labels, background first, if there is no dataset.json",
    )
    parser.add_argument(
        "--out", type=Path, help="JSON file to write (default: in bundle/configs/tasks)"
    )
    parser.add_argument(
        "--num_workers",
        type=number_option(POSITIVE),
        default=4,
        help="threads that read cases (default: 4)",
    )
    parser.add_argument(
        "--cache_dir",
        type=Path,
        default=BUNDLE / "eval" / "surveys",
        help="cache of the facts of each file (default: bundle/eval/surveys)",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from dynunet_bundle.planning.command import PlanRequest, plan_dataset

    print(plan_dataset(PlanRequest(tasks_dir=TASKS_DIR, **vars(arguments))))


if __name__ == "__main__":
    with user_errors_exit():
        main()

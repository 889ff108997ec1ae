r"""Train the folds of a cross-validation, predict their held-out cases and summarise; or one fold for a cluster job.

    python scripts/train.py --task_config bundle/configs/tasks/Task09_Spleen_3d.json --dataset_dir DATA/Task09_Spleen \
        --out RUNS/spleen
    python scripts/train.py --task_config ... --dataset_dir ... --out RUNS/spleen --fold 3
    python scripts/train.py --task_config ... --dataset_dir ... --out RUNS/spleen --collect
    python scripts/train.py --task_config ... --dataset_dir ... --out RUNS/spleen --fold all --gpus 8 --epochs 300

Run the same command again to resume. Any id of train.json can be set: --epochs 300 --batch_size 4.
Exit codes: 0 done, 1 a training failed, 2 bad input, 75 stopped by a signal.
"""

import argparse
import sys
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    # no abbreviations: ids of the configs must not be parsed as options
    from dynunet_bundle.shapes import POSITIVE, number_option

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--task_config",
        action="extend",
        nargs="+",
        default=[],
        type=Path,
        help="overlays for train.json: the task's, then recipes",
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of the data set")
    parser.add_argument("--out", required=True, help="folder for the run")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--folds", nargs="+", default=["all"], help="numbers of the folds, or all (the default)"
    )
    which.add_argument("--fold", help="number of one fold; all trains one model on every case")
    parser.add_argument(
        "--num_folds",
        type=number_option(POSITIVE),
        help="number of folds if the task has no splits file (default: 5)",
    )
    parser.add_argument(
        "--prepared_dir", type=Path, help="folder for prepared cases (default: OUT/prepared)"
    )
    parser.add_argument(
        "--previous_dir",
        type=Path,
        help="for a cascade: folder of the masks of all cases by the previous stage",
    )
    parser.add_argument(
        "--gpus",
        "--processes",
        dest="num_processes",
        type=number_option(POSITIVE),
        default=1,
        help="number of GPUs, or of processes on a CPU, that train a fold (default: 1)",
    )
    parser.add_argument(
        "--numa_binding",
        choices=("node", "socket", "exclusive", "core-complex"),
        help="keep each process on cores near its GPU: torchrun's --numa-binding; needs numactl",
    )
    parser.add_argument(
        "--collect",
        dest="collect_only",
        action="store_true",
        help="train nothing; score the finished folds and summarise",
    )
    parser.add_argument(
        "--trust", action="store_true", help="accept code in overlays from outside bundle/configs"
    )
    return parser.parse_known_args()


def main() -> int:
    arguments, overrides = parse_arguments()

    from dynunet_bundle.cross_validation.runs import FoldsRequest, train_folds
    from dynunet_bundle.dataset.cases import absolute

    settings = {
        "num_folds": arguments.num_folds,
        "prepared_dir": arguments.prepared_dir,
        "previous_dir": arguments.previous_dir,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    request = FoldsRequest(
        bundle=BUNDLE,
        dataset_dir=absolute(arguments.dataset_dir),
        out=absolute(arguments.out),
        overlays=tuple(absolute(path) for path in arguments.task_config),
        folds=tuple(arguments.folds),
        fold=arguments.fold,
        num_processes=arguments.num_processes,
        numa_binding=arguments.numa_binding,
        settings={
            name: str(absolute(value)) if isinstance(value, Path) else value
            for name, value in given.items()
        },
        overrides=tuple(overrides),
        collect_only=arguments.collect_only,
        trust=arguments.trust,
    )
    return train_folds(request)


if __name__ == "__main__":
    with user_errors_exit():
        sys.exit(main())

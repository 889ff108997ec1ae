r"""Print an sbatch script that trains on one or several machines and requeues itself after the time limit.

    python scripts/slurm.py --nodes 2 --gpus_per_node 4 --time 24:00:00 \
        --task_config bundle/configs/tasks/Task01_BrainTumour_3d.json --dataset_dir /data/Task01_BrainTumour \
        --out /scratch/me/brain > brain.sh
    sbatch brain.sh

All machines must see the folders under the same paths. Site-specific options: --sbatch=--partition=gpu. Any id of
train.json can be set: --epochs 300. docs/cluster.md describes the script.
"""

import argparse
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def at_least_0(text: str) -> float:
    from dynunet_bundle.shapes import COUNT, number_option

    return number_option(COUNT)(text)


def at_least_1(text: str) -> float:
    from dynunet_bundle.shapes import POSITIVE, number_option

    return number_option(POSITIVE)(text)


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    # no abbreviations: ids of the configs must not be parsed as options
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of the data set")
    parser.add_argument("--out", required=True, help="folder for the run")
    parser.add_argument(
        "--task_config",
        action="extend",
        nargs="+",
        default=[],
        type=Path,
        help="overlays for train.json: the task's, then recipes",
    )
    parser.add_argument(
        "--nodes", type=at_least_1, default=1, help="number of machines (default: 1)"
    )
    parser.add_argument(
        "--gpus_per_node",
        type=at_least_0,
        default=1,
        help="GPUs per machine; 0 trains on CPUs (default: 1)",
    )
    parser.add_argument(
        "--processes_per_node", type=at_least_1, help="processes per machine (default: one per GPU)"
    )
    parser.add_argument(
        "--cpus_per_process", type=at_least_1, default=8, help="cores per process (default: 8)"
    )
    parser.add_argument(
        "--numa_binding",
        choices=("node", "socket", "exclusive", "core-complex"),
        help="bind each process to cores near its GPU (torchrun's --numa-binding); needs numactl",
    )
    parser.add_argument(
        "--time", default="24:00:00", help="time limit in SLURM's format (default: 24:00:00)"
    )
    parser.add_argument(
        "--signal_s",
        type=at_least_1,
        default=120,
        help="seconds before the limit to stop and save (default: 120)",
    )
    parser.add_argument(
        "--max_restarts",
        type=at_least_0,
        default=3,
        help="how often torchrun restarts failed workers (default: 3)",
    )
    parser.add_argument(
        "--sbatch", action="append", default=[], help="additional option of sbatch; may be repeated"
    )
    return parser.parse_known_args()


def main() -> None:
    arguments, overrides = parse_arguments()

    from dynunet_bundle.configs.command import check_overlays
    from dynunet_bundle.configs.overrides import known_ids
    from dynunet_bundle.cross_validation.request import parse_overrides
    from dynunet_bundle.cross_validation.slurm import OWN_IDS, SlurmJob, sbatch_script
    from dynunet_bundle.dataset.cases import absolute
    from dynunet_bundle.files import ensure_writable

    configs = BUNDLE / "configs"
    known = known_ids(configs)
    files = [str(configs / "train.json"), *map(str, arguments.task_config)]
    usage = check_overlays(files, known, ["training"])
    parse_overrides(overrides, known, OWN_IDS, [usage])
    values = vars(arguments)
    paths = {name: absolute(values.pop(name)) for name in ("dataset_dir", "out")}
    job = SlurmJob(
        bundle=BUNDLE,
        overlays=tuple(absolute(path) for path in values.pop("task_config")),
        directives=tuple(values.pop("sbatch")),
        overrides=tuple(overrides),
        **paths,
        **values,
    )
    script = sbatch_script(job)
    # SLURM opens the log before the script runs
    ensure_writable(job.out)
    print(script, end="")


if __name__ == "__main__":
    with user_errors_exit():
        main()

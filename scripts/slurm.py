r"""Print an sbatch script that trains on one or several machines, and goes on by itself after the time limit.

    python scripts/slurm.py --nodes 2 --gpus_per_node 4 --time 24:00:00 \
        --task_config bundle/configs/tasks/Task01_BrainTumour_3d.json --dataset_dir /data/Task01_BrainTumour \
        --out /scratch/me/brain > brain.sh
    sbatch brain.sh

All machines must see the folders under the same paths. Options of the site: --sbatch=--partition=gpu. Any id of
train.json can be set: --epochs 300. docs/cluster.md tells what the script does.
"""

import argparse
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    # without abbreviations: ids of the configs must not be taken for options
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--dataset_dir", required=True, type=Path, help="folder of the data set")
    parser.add_argument("--out", required=True, type=Path, help="the run folder; it is created")
    parser.add_argument(
        "--task_config",
        action="extend",
        nargs="+",
        default=[],
        type=Path,
        help="overlays of train.json: the task's, then recipes",
    )
    parser.add_argument("--nodes", type=int, default=1, help="machines")
    parser.add_argument("--gpus_per_node", type=int, default=1, help="0 to train on CPUs")
    parser.add_argument("--processes_per_node", type=int, help="default: one a GPU")
    parser.add_argument("--cpus_per_process", type=int, default=8, help="cores a GPU or process")
    parser.add_argument(
        "--numa_binding",
        choices=("node", "socket", "exclusive", "core-complex"),
        help="keep each process on cores near its GPU: torchrun's --numa-binding; needs numactl",
    )
    parser.add_argument("--time", default="24:00:00", help="limit as SLURM writes it")
    parser.add_argument(
        "--signal_s", type=int, default=120, help="seconds before the limit to stop and save"
    )
    parser.add_argument("--max_restarts", type=int, default=3, help="after failed processes")
    parser.add_argument(
        "--sbatch", action="append", default=[], help="one more option of sbatch, after ="
    )
    return parser.parse_known_args()


def main() -> None:
    arguments, overrides = parse_arguments()

    from dynunet_bundle.configs.overrides import known_ids
    from dynunet_bundle.cross_validation.request import parse_overrides
    from dynunet_bundle.cross_validation.slurm import OWN_IDS, SlurmJob, sbatch_script
    from dynunet_bundle.errors import ConfigError
    from dynunet_bundle.files import ensure_writable, read_json

    parse_overrides(overrides, known_ids(BUNDLE / "configs"), OWN_IDS)
    for overlay in arguments.task_config:
        read_json(overlay, ConfigError)
    values = vars(arguments)
    paths = {name: values.pop(name).resolve() for name in ("dataset_dir", "out")}
    job = SlurmJob(
        bundle=BUNDLE,
        overlays=tuple(path.resolve() for path in values.pop("task_config")),
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

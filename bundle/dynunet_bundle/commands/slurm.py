r"""Print an sbatch script that trains on one or several machines and requeues itself after the time limit.

    dynunet-bundle slurm /data/Task01_BrainTumour --nodes 2 --gpus_per_node 4 --time 24:00:00 \
        --config_file bundle/configs/tasks/Task01_BrainTumour_3d.json --output_dir /scratch/me/brain > brain.sh
    sbatch brain.sh

All machines must see the folders under the same paths. Site-specific options: --sbatch=--partition=gpu. Any id of
train.json can be set: --epochs 300. docs/cluster.md describes the script.
"""

import argparse

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.machine.places import BUNDLE


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    from dynunet_bundle.shapes import COUNT, POSITIVE, number_option

    at_least_0, at_least_1 = number_option(COUNT), number_option(POSITIVE)
    parser.takes_ids = True
    parser.add_old_names(task_config="config_file", out="output_dir")
    parser.add_dataset_dir()
    parser.add_output_dir("folder for the run")
    parser.add_config_files("overlays for train.json: the task's, then recipes")
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


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from dynunet_bundle.configs.command import check_overlays
    from dynunet_bundle.configs.overrides import known_ids
    from dynunet_bundle.cross_validation.request import parse_overrides
    from dynunet_bundle.cross_validation.slurm import OWN_IDS, SlurmJob, sbatch_script
    from dynunet_bundle.dataset.cases import absolute
    from dynunet_bundle.files import ensure_writable

    configs = BUNDLE / "configs"
    known = known_ids(configs)
    values = vars(arguments)
    overlays = values.pop("config_file")
    usage = check_overlays([str(configs / "train.json"), *overlays], known, ["training"])
    overrides = values.pop("overrides")
    parse_overrides(overrides, known, OWN_IDS, [usage])
    job = SlurmJob(
        bundle=BUNDLE,
        dataset_dir=absolute(values.pop("dataset_dir")),
        out=absolute(values.pop("output_dir")),
        overlays=tuple(absolute(path) for path in overlays),
        directives=tuple(values.pop("sbatch")),
        overrides=tuple(overrides),
        **values,
    )
    script = sbatch_script(job)
    # SLURM opens the log before the script runs
    ensure_writable(job.out)
    print(script, end="")

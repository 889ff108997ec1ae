r"""Print an sbatch script that starts Ray on one or several machines and predicts on them; it requeues itself.

    dynunet-bundle slurm predict --nodes 4 --gpus_per_node 4 --time 24:00:00 --sbatch=--partition=gpu \
        --model PACKAGE --input /data/images --output_dir /scratch/me/masks > predict.sh
    sbatch predict.sh

All other options are those of dynunet-bundle predict. All machines must see the folders under the same paths.
docs/cluster.md describes the script.
"""

import argparse
from pathlib import Path

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.errors import ConfigError


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    from dynunet_bundle.shapes import COUNT, POSITIVE, number_option

    at_least_0, at_least_1 = number_option(COUNT), number_option(POSITIVE)
    parser.takes_rest = True
    parser.add_argument(
        "--nodes", type=at_least_1, default=1, help="number of machines (default: 1)"
    )
    parser.add_argument(
        "--gpus_per_node",
        type=at_least_0,
        default=1,
        help="GPUs per machine; 0 predicts on CPUs (default: 1)",
    )
    parser.add_argument(
        "--cpus_per_node", type=at_least_1, default=8, help="cores per machine (default: 8)"
    )
    parser.add_argument(
        "--time", default="24:00:00", help="time limit in SLURM's format (default: 24:00:00)"
    )
    parser.add_argument(
        "--signal_s",
        type=at_least_1,
        default=120,
        help="seconds before the limit to stop and be requeued (default: 120)",
    )
    parser.add_argument(
        "--sbatch", action="append", default=[], help="additional option of sbatch; may be repeated"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from dynunet_bundle.cluster.slurm import PredictionScript
    from dynunet_bundle.commands.parser import command_parser
    from dynunet_bundle.dataset.cases import absolute
    from dynunet_bundle.files import ensure_writable

    values = vars(arguments)
    words = values.pop("rest")
    given = command_parser("predict", "dynunet-bundle slurm predict").parse_words(words)
    if given.ray is not None:
        raise ConfigError("the script starts Ray on the machines of the job. Leave --ray out.")
    if given.num_parts is not None or given.output_dir is None:
        raise ConfigError("Pass --output_dir, and no --num_parts: Ray hands out the cases.")
    script = PredictionScript(
        words=words,
        output_dir=absolute(given.output_dir),
        folder=Path.cwd(),
        directives=tuple(values.pop("sbatch")),
        **values,
    )
    text = script.text()
    # SLURM opens the log before the script runs
    ensure_writable(script.output_dir)
    print(text, end="")

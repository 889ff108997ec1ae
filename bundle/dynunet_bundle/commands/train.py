r"""Train the folds of a cross-validation, predict their held-out cases and summarise; or one model.

    dynunet-bundle train DATA/Task09_Spleen --config_file bundle/configs/tasks/Task09_Spleen_3d.json \
        --output_dir RUNS/spleen
    dynunet-bundle train DATA/Task09_Spleen --config_file ... --output_dir RUNS/spleen --fold 3
    dynunet-bundle train DATA/Task09_Spleen --config_file ... --output_dir RUNS/spleen --collect
    dynunet-bundle train DATA/Task09_Spleen --config_file ... --output_dir RUNS/spleen --fold full --processes 8

Run the same command again to resume. Any id of train.json can be set: --epochs 300 --batch_size 4.
Exit codes: 0 done, 1 a training failed, 2 bad input, 75 stopped by a signal.
"""

import argparse
from pathlib import Path

from dynunet_bundle.commands.model import say_model
from dynunet_bundle.commands.parser import CommandParser, fold_name
from dynunet_bundle.configs.quiet import tell_hidden
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.terminal import next_command


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    from dynunet_bundle.shapes import POSITIVE, number_option

    parser.takes_ids = True
    parser.add_old_names(task_config="config_file", out="output_dir", gpus="processes")
    parser.add_dataset_dir()
    parser.add_config_files("overlays for train.json: the task's, then recipes")
    parser.add_output_dir("folder for the run")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--folds", nargs="+", default=["all"], help="numbers of the folds, or all (the default)"
    )
    which.add_argument(
        "--fold", type=fold_name, help="number of one fold; full trains one model on every case"
    )
    parser.add_argument(
        "--num_folds",
        type=number_option(POSITIVE),
        help="number of folds if the task has no splits file (default: 5)",
    )
    parser.add_argument(
        "--prepared_dir", type=Path, help="folder for prepared cases (default: OUTPUT_DIR/prepared)"
    )
    parser.add_argument(
        "--previous_dir",
        type=Path,
        help="for a cascade: folder of the masks of all cases by the previous stage",
    )
    parser.add_argument(
        "--processes",
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
        action="store_true",
        help="train nothing; score the finished folds and summarise",
    )
    parser.add_trust()


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
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
        out=absolute(arguments.output_dir),
        overlays=tuple(absolute(path) for path in arguments.config_file),
        folds=tuple(arguments.folds),
        fold=arguments.fold,
        num_processes=arguments.processes,
        numa_binding=arguments.numa_binding,
        settings={
            name: str(absolute(value)) if isinstance(value, Path) else value
            for name, value in given.items()
        },
        overrides=tuple(arguments.overrides),
        collect_only=arguments.collect,
        trust=arguments.trust,
    )
    code = train_folds(request)
    if code == 0 and not arguments.collect:
        _tell_next(arguments.output_dir)
    return code


def _tell_next(run_dir: Path) -> None:
    """Say where the models are, how good they are, and what to do with them."""
    from dynunet_bundle.networks.model_json import model_files

    for weights in model_files(run_dir):
        say_model(weights)
    tell_hidden()
    print(next_command("predict", model=run_dir, input="IMAGES", output_dir="MASKS"))

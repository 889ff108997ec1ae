"""Write the job with which NVFlare trains a package at several sites, or turn its result into a model.

    dynunet-bundle federate PACKAGE --output_dir JOB --num_sites 2 --num_rounds 20
    dynunet-bundle federate PACKAGE --output_dir MODEL --global_model FL_global_model.pt

Images and labels stay at their site; weights, a score and a number of cases leave it. docs/federated.md has the steps.
"""

import argparse
from pathlib import Path

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.terminal import say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    from dynunet_bundle.shapes import COUNT, number_option

    positive = number_option({**COUNT, "minimum": 1})
    parser.add_argument("package", type=Path, help="folder of the package that every site has")
    parser.add_output_dir("folder for the job, or for model.pt with --global_model")
    parser.add_argument(
        "--num_sites", type=positive, default=2, help="sites that take part (default: 2)"
    )
    parser.add_argument("--num_rounds", type=positive, default=20, help="rounds (default: 20)")
    parser.add_argument(
        "--local_epochs",
        type=positive,
        default=1,
        help="epochs that each site trains in a round (default: 1)",
    )
    parser.add_argument(
        "--from_scratch",
        action="store_true",
        help="begin with random weights instead of those of the package",
    )
    parser.add_argument(
        "--global_model",
        type=Path,
        help="FL_global_model.pt of the server, to write as model.pt and model.json",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from dynunet_bundle.federation.job import JobRequest, save_global_model, write_federated_job

    if arguments.global_model:
        model = save_global_model(arguments.global_model, arguments.package, arguments.output_dir)
        say("the model is {}", model)
        return
    job = write_federated_job(
        JobRequest(
            arguments.package,
            arguments.output_dir,
            arguments.num_sites,
            arguments.num_rounds,
            arguments.local_epochs,
            arguments.from_scratch,
        )
    )
    say("the job is {}", job)

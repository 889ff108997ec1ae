"""Write a small synthetic data set in MSD layout, to try the other commands.

    dynunet-bundle phantom --output_dir demo/Task99_Phantom --num_cases 20 --num_test 4 --seed 0

Each case shows a bent body in two parts ("head" and "tail", which touch and differ only slightly in brightness) among
blobs of similar brightness, with noise and a bias field. Spacing, orientation and intensity scale vary between cases.
Labels of the test cases are in labelsTs.
"""

import argparse

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.errors import counted
from dynunet_bundle.terminal import say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    from dynunet_bundle.shapes import COUNT, POSITIVE, number_option

    parser.add_old_names(out="output_dir")
    parser.add_output_dir("folder for the data set")
    parser.add_argument(
        "--num_cases",
        type=number_option(POSITIVE),
        default=20,
        help="number of training cases (default: 20)",
    )
    parser.add_argument(
        "--num_test", type=number_option(COUNT), default=4, help="number of test cases (default: 4)"
    )
    parser.add_argument(
        "--seed", type=number_option(COUNT), default=0, help="random seed (default: 0)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from dynunet_bundle.dataset.phantom import make_phantom

    folder, num_cases, num_test = (
        arguments.output_dir,
        arguments.num_cases,
        arguments.num_test,
    )
    make_phantom(folder, num_cases, num_test, arguments.seed)
    say(
        "{} and {} in {}",
        counted(num_cases, "training case"),
        counted(num_test, "test case"),
        folder,
    )

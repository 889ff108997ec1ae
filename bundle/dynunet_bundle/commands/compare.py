"""Compare two scores.json case by case: mean difference B - A, its 95 % interval and a p value.

    dynunet-bundle compare A/scores.json B/scores.json
    dynunet-bundle compare A/scores.json B/scores.json --output COMPARISON.json

A folder means the scores.json in it. docs/evaluation.md explains the figures.
"""

import argparse
from pathlib import Path

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.terminal import say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_argument("a", type=Path, help="scores.json of A, or its folder")
    parser.add_argument("b", type=Path, help="scores.json of B, or its folder")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from dynunet_bundle.evaluation.comparison import compare_files, format_comparison
    from dynunet_bundle.evaluation.statistics import SCORES_NAME
    from dynunet_bundle.files import ensure_writable, write_json

    first, second = (
        path / SCORES_NAME if path.is_dir() else path for path in (arguments.a, arguments.b)
    )
    comparison = compare_files(first, second)
    print(format_comparison(comparison))
    if arguments.output:
        ensure_writable(arguments.output.parent)
        write_json(arguments.output, comparison)
        say("saved to {}", arguments.output)

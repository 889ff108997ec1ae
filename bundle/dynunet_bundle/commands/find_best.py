r"""Find the best configuration or pair of configurations, and whether to keep only the largest components.

    dynunet-bundle find-best DATA/Task09_Spleen --runs RUNS/spleen_2d RUNS/spleen_3d --output best.json

Runs are folders written by train with all folds trained; the first of equal runs wins, so name simpler ones
first. Pairs need probabilities: train with
--probabilities_dir "$PWD/RUNS/spleen_3d/cross_validation/probabilities". Beside best.json it writes best_overlay.json
with the rules (keep_largest), and one overlay with plan and weights per member of the winner. Run the same command
again to resume.
"""

import argparse
from pathlib import Path

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.terminal import say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_old_names(out="output")
    parser.add_dataset_dir()
    parser.add_argument(
        "--runs", nargs="+", required=True, type=Path, help="run folders, simpler ones first"
    )
    parser.add_argument("-o", "--output", required=True, type=Path, help="JSON file to write")
    parser.add_argument(
        "--no_pairs", dest="pairs", action="store_false", help="compare single runs only"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from dynunet_bundle.best_configuration.decide import BestRequest, find_best, format_best

    content = find_best(
        BestRequest(
            runs=tuple(arguments.runs),
            dataset_dir=Path(arguments.dataset_dir),
            out=arguments.output,
            pairs=arguments.pairs,
        )
    )
    print(format_best(content, arguments.output))
    say("saved to {}", arguments.output)

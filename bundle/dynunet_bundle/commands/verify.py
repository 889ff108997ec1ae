"""Check that a bundle is ready for the Model Zoo, MONAI Label and other clients; exit code 1 if it is not.

    dynunet-bundle verify dist/hippocampus_mr_segmentation
    dynunet-bundle verify dist/hippocampus_mr_segmentation --only metadata schema readme

It runs the bundle's code offline on synthetic data and writes nothing to the bundle. All checks take a minute for a
small plan. docs/delivery.md lists the checks.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from dynunet_bundle.commands.parser import CommandParser


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="CHECK", help="run only these checks"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from dynunet_bundle.delivery.verify.checks import format_result, require_passed, verify_bundle

    def tell(result: Any) -> None:
        print(format_result(result), flush=True)

    results = verify_bundle(arguments.bundle, arguments.only, *([] if arguments.json else [tell]))
    if arguments.json:
        rows = [
            {
                "check": result.check,
                "problems": [problem._asdict() for problem in result.problems],
                "skipped": result.skipped,
            }
            for result in results
        ]
        print(json.dumps(rows, indent=4))
    require_passed(results)

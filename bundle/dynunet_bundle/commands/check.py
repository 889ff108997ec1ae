"""Report all problems of a data set. Exit code 2 if there are errors, 0 if there are only warnings.

dynunet-bundle check DATA/Task09_Spleen
dynunet-bundle check DATA/Task09_Spleen --json
"""

import argparse
import json

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.errors import EXIT_BAD_INPUT


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_dataset_dir()
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_num_workers()


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from dynunet_bundle.dataset.select import load_dataset
    from dynunet_bundle.survey.findings import dataset_findings, format_findings
    from dynunet_bundle.survey.survey import all_findings, survey_dataset

    dataset = load_dataset(arguments.dataset_dir)
    surveys = survey_dataset(dataset, arguments.num_workers)
    findings = all_findings(surveys) + dataset_findings(dataset)
    if arguments.json:
        print(json.dumps([finding.to_json() for finding in findings], indent=4))
    else:
        print(format_findings(findings, len(surveys)))
    bad = any(finding.severity == "error" for finding in findings)
    return EXIT_BAD_INPUT if bad else 0

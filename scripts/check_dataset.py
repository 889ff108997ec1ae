"""Report all problems of a data set. Exit code 2 if there are errors, 0 if there are only warnings.

python scripts/check_dataset.py DATA/Task09_Spleen
python scripts/check_dataset.py DATA/Task09_Spleen --json
"""

import argparse
import json
import logging
import sys

from dynunet_bundle.errors import EXIT_BAD_INPUT, user_errors_exit


def main() -> int:
    from dynunet_bundle.shapes import POSITIVE, number_option

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "dataset_dir",
        help="folder of the data set: MSD or nnU-Net layout, or images/ and labels/",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--num_workers",
        type=number_option(POSITIVE),
        default=4,
        help="threads that read cases (default: 4)",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

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


if __name__ == "__main__":
    with user_errors_exit():
        sys.exit(main())

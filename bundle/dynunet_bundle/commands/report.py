"""Write a page with pictures of masks, their flags and their scores: one HTML file that needs no network.

    dynunet-bundle report MASKS --input IMAGES
    dynunet-bundle report MASKS --input IMAGES --labels DATA/labelsTs --output REPORT.html
    dynunet-bundle report MASKS --input IMAGES --cases all

MASKS is a folder of predict, ensemble or evaluate; the page shows the run.json and the scores.json in it.
"""

import argparse
from pathlib import Path

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.terminal import say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_argument("predictions", type=Path, metavar="MASKS", help="folder of masks")
    parser.add_argument(
        "-i",
        "--input",
        type=Path,
        help="folder of the images, or the data set (default: no pictures)",
    )
    parser.add_argument("--labels", type=Path, help="folder of reference masks, or the data set")
    parser.add_argument(
        "-o", "--output", type=Path, help="HTML file to write (default: MASKS/report.html)"
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        metavar="CASE",
        default=(),
        help="cases to show: their names, a number of cases, or all (default: 6, flagged ones first)",
    )
    parser.add_argument("--title", help="heading of the page (default: name of the task)")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    folder: Path = arguments.predictions
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder of masks. Pass the --output_dir of predict.")

    from dynunet_bundle.dataset.cases import absolute
    from dynunet_bundle.dataset.reference_labels import labels_by_case
    from dynunet_bundle.evaluation.comparison import read_scores
    from dynunet_bundle.evaluation.label_source import label_ids_of_masks
    from dynunet_bundle.evaluation.output import page_images
    from dynunet_bundle.evaluation.statistics import SCORES_NAME
    from dynunet_bundle.evaluation.trained_cases import tell_trained
    from dynunet_bundle.files import ensure_writable
    from dynunet_bundle.inference.run_json import RUN_NAME, read_run_json
    from dynunet_bundle.report.content import require_masks
    from dynunet_bundle.report.page import write_report

    _, ids = label_ids_of_masks(folder)
    scores, record = folder / SCORES_NAME, folder / RUN_NAME
    if not (ids or scores.is_file() or record.is_file()):
        require_masks(folder)
    page: Path = arguments.output or folder / "report.html"
    ensure_writable(page.parent)
    run_json = read_run_json(record) if record.is_file() else None
    tell_trained((run_json or {}).get("cases", {}), run_json or {})
    write_report(
        page,
        folder,
        images=page_images(arguments.input),
        labels=arguments.labels and labels_by_case(absolute(arguments.labels)),
        scores=read_scores(scores) if scores.is_file() else None,
        run=run_json,
        title=arguments.title,
        class_names=dict(
            zip(ids.get("label_values", ()), ids.get("label_names", ()), strict=False)
        ),
        cases=arguments.cases,
    )
    say("the page is {}", page)

"""Options of the command ``predict``: how to predict, and what to write besides the masks."""

import argparse
import os
from pathlib import Path
from typing import Any

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.errors import ConfigError


def add_prediction_options(parser: CommandParser) -> None:
    """Options of how to predict."""
    from dynunet_bundle.shapes import COUNT, OVERLAP, POSITIVE, number_option

    parser.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        default="best",
        help="weights of the best epoch, model.pt, or of the last one, checkpoint_last.pt beside it (default: best)",
    )
    parser.add_argument(
        "--mirroring",
        action="store_true",
        help="average over mirrored versions (test-time augmentation)",
    )
    parser.add_argument(
        "--series", help='DICOM series to use: its name, or rules, e.g. \'{"modality": "CT"}\''
    )
    parser.add_argument(
        "--list_series",
        action="store_true",
        help="only list the DICOM series of the input; descriptions are shown on a terminal alone",
    )
    parser.add_argument(
        "--previous_dir",
        help="for a cascade: folder of the masks of the previous stage (default: its package predicts them, if it can)",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "float16", "bfloat16"),
        help="precision of the network (default: auto)",
    )
    parser.add_argument(
        "--overlap",
        type=number_option(OVERLAP),
        help="smallest share of a window that its neighbour also covers (default: 0.5)",
    )
    parser.add_argument(
        "--num_parts",
        type=number_option(POSITIVE),
        help="number of parts that the cases are split into, to predict them in several jobs",
    )
    parser.add_argument(
        "--part_id", type=number_option(COUNT), help="part to predict: 0 to NUM_PARTS - 1"
    )
    parser.add_restart("predict finished cases anew")


def add_result_options(parser: CommandParser) -> None:
    """Options of what to write besides the masks."""
    parser.add_argument(
        "--dicom",
        nargs="*",
        metavar="KIND",
        help="DICOM objects to write for each series: seg, fractional, rtstruct, report (default: seg)",
    )
    parser.add_argument(
        "--probabilities_dir",
        metavar="FOLDER",
        help="folder for probabilities, for the ensemble command; large files",
    )
    parser.add_argument(
        "--series_map",
        type=Path,
        metavar="FILE",
        help="JSON file to write: the DICOM series of each mask, by UID; it identifies patients",
    )
    parser.add_argument("--report", type=Path, help="HTML file to write: a page with pictures")
    parser.add_argument("--json", action="store_true", help="print run.json")


def series_rules(text: str | None) -> dict[str, Any] | None:
    """Rules as JSON, or the name of a series."""
    if text is None or not text.lstrip().startswith("{"):
        return {"series": text} if text else None
    from dynunet_bundle.files import parse_json
    from dynunet_bundle.shapes import OBJECT

    rules: dict[str, Any] = parse_json(os.fsencode(text), "--series", ConfigError, OBJECT)
    return rules


def part_of(arguments: argparse.Namespace) -> list[int] | None:
    """Number of the part, and of all parts.

    Raises:
        ConfigError: if only one of them is given.
    """
    numbers = [arguments.part_id, arguments.num_parts]
    if numbers == [None, None]:
        return None
    if None in numbers:
        raise ConfigError("--num_parts and --part_id go together. Pass both, or neither.")
    return numbers

"""Score predicted masks against labels in native space; files are paired by name, or as dataset.json lists them.

    dynunet-bundle evaluate --predictions OUT --labels DATA/labelsTs --label_names background anterior posterior
    dynunet-bundle evaluate --predictions OUT --labels DATA/labelsTs --config_file OVERLAY.json --csv OUT.csv
    dynunet-bundle evaluate --predictions OUT --labels DATA/labelsTs --report OUT.html --input DATA/imagesTs

Class names and values come from the options, else from a task overlay or --model (also regions and the ignored value),
else from the run.json that a prediction writes beside its masks. docs/evaluation.md defines the measures.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynunet_bundle.commands.cluster_options import cluster_of
from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.configs.lean_monai import import_monai
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.terminal import say

if TYPE_CHECKING:
    from dynunet_bundle.cluster.pool import ClusterWorkers


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    from dynunet_bundle.shapes import COUNT, NUMBER, number_option

    parser.add_old_names(images="input")
    parser.add_argument("--predictions", required=True, help="folder of predicted masks")
    parser.add_argument(
        "--labels", required=True, help="folder of reference masks, or the data set"
    )
    parser.add_argument(
        "--label_names",
        nargs="+",
        help="one name per class, background first (default: from run.json)",
    )
    parser.add_argument(
        "--label_values",
        nargs="+",
        type=number_option(COUNT),
        help="one value per class, if not 0, 1, 2, ...",
    )
    parser.add_model("model that made the masks, which names the classes", default=None)
    parser.add_config_files("overlays of the task")
    parser.add_argument(
        "--nsd_tolerance_mm",
        type=number_option(NUMBER),
        default=1.0,
        help="tolerance of the surface Dice (default: 1)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="JSON file to write (default: scores.json in PREDICTIONS)",
    )
    parser.add_argument("--csv", type=Path, help="CSV file to write, one row per case and class")
    parser.add_argument("--report", type=Path, help="HTML file to write")
    parser.add_argument(
        "-i", "--input", type=Path, help="folder of the images, or the data set, for the report"
    )
    parser.add_ray()


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    if arguments.input and not arguments.report:
        raise ConfigError("--input is for --report. Pass --report too, or leave it out.")

    workers = cluster_of(arguments)
    import_monai()
    from dynunet_bundle.api.data_sets import evaluate_masks
    from dynunet_bundle.evaluation.scores import format_scores

    done = evaluate_masks(
        Path(arguments.predictions),
        arguments.labels,
        names={"label_names": arguments.label_names, "label_values": arguments.label_values},
        model=arguments.model,
        config_files=arguments.config_file,
        nsd_tolerance_mm=arguments.nsd_tolerance_mm,
        files=(arguments.output, arguments.csv, arguments.report, arguments.input),
        measure=_measure_with(workers),
    )
    say("{}", done.told)
    print(format_scores(done.summary))
    say("saved to {}", ", ".join(map(str, done.written)))
    done.masks.require_all()


def _measure_with(workers: "ClusterWorkers | None") -> Callable[..., dict[str, Any]] | None:
    if workers is None:
        return None
    from dynunet_bundle.cluster.evaluate import measure_on_cluster

    return partial(measure_on_cluster, workers=workers)

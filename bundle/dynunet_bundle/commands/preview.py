r"""Draw training patches as a PNG: without augmentation, under each augmentation alone, and under all of them.

The values that were drawn are below each patch.

dynunet-bundle preview DATA/Task09_Spleen --config_file bundle/configs/tasks/Task09_Spleen_3d.json --output feed.png
"""

import argparse

from dynunet_bundle.commands.model import training_workflow
from dynunet_bundle.commands.parser import CommandParser, fold_name
from dynunet_bundle.terminal import say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    from dynunet_bundle.shapes import COUNT, POSITIVE, number_option

    parser.add_training_source()
    parser.add_picture()
    parser.add_prepared_dir()
    parser.add_argument(
        "--fold",
        default="all",
        type=fold_name,
        help="fold whose training cases are drawn (default: full, every case)",
    )
    parser.add_argument(
        "--num_folds", type=number_option(POSITIVE), help="number of folds (default: the config's)"
    )
    parser.add_argument(
        "--columns", type=number_option(POSITIVE), default=6, help="patches per row (default: 6)"
    )
    parser.add_argument(
        "--seed", type=number_option(COUNT), default=0, help="random seed (default: 0)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from dynunet_bundle.drawing.slices import save_png
    from dynunet_bundle.feed.augmentation import Augmentation
    from dynunet_bundle.feed.preview import preview
    from dynunet_bundle.feed.source import Sampling

    overrides = {name: getattr(arguments, name) for name in ("dataset_dir", "seed", "prepared_dir")}
    if arguments.num_folds is not None:
        overrides["num_folds"] = arguments.num_folds
    overrides["fold"] = int(arguments.fold) if arguments.fold.isdecimal() else arguments.fold
    workflow = training_workflow(arguments, overrides)
    get = workflow.parser.get_parsed_content
    sampling = Sampling(
        tuple(get("patch_size")),
        Augmentation.from_config(get("augmentation")),
        oversampling=1.0,
        seed=get("seed"),
        zero_outside=get("train#dataloader#zero_outside"),
    )
    picture = preview(get("train#dataset"), sampling, arguments.columns, get("label_names"))
    save_png(picture, arguments.output)
    say("the picture is in {}", arguments.output)

"""Analyse a data set and write its task overlay, the second config file of every command.

    dynunet-bundle plan DATA/Task09_Spleen
    dynunet-bundle plan DATA/Task09_Spleen --configuration 2d --gpu_memory_gb 16
    dynunet-bundle plan DATA/Task09_Spleen --planner resenc_l
    dynunet-bundle plan DATA/Task09_Spleen --preset seed
    dynunet-bundle plan DATA/Own --like PACKAGE
    dynunet-bundle plan DATA/Own --channel_names CT --label_names background liver
    dynunet-bundle plan --fingerprint FINGERPRINT.json --output OVERLAY.json

The overlay goes to bundle/configs/tasks/ of a checkout, else to tasks/; the facts of the data to fingerprints/ in it,
and the folds to splits/, which you may edit. The facts of each file are cached in --cache_dir, so planning again takes
seconds.
"""

import argparse
from pathlib import Path

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.configs.quiet import tell_hidden
from dynunet_bundle.machine.places import cache_folder, in_work_folder


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    from dynunet_bundle.shapes import NUMBER, number_option

    parser.add_old_names(out="output")
    parser.add_dataset_dir(required=False)
    parser.add_argument(
        "--fingerprint", help="JSON file of facts to plan from without images; needs --output"
    )
    parser.add_argument(
        "--configuration",
        choices=("3d_fullres", "2d", "3d_lowres", "3d_cascade_fullres"),
        help="configuration to plan (default: 3d_fullres)",
    )
    parser.add_argument(
        "--planner",
        choices=("plain", "resenc_m", "resenc_l", "resenc_xl"),
        default="plain",
        help="nnU-Net's planner (default: plain)",
    )
    parser.add_argument(
        "--preset", choices=("seed",), help="use NVIDIA's tables for Decathlon tasks"
    )
    parser.add_argument(
        "--like",
        type=Path,
        help="model whose plan is kept, to go on from it: package, folder of a training, or file of weights",
    )
    parser.add_argument(
        "--gpu_memory_gb",
        type=number_option(NUMBER),
        help="GPU memory to plan for (default: 8, 24 or 40, by planner)",
    )
    parser.add_argument(
        "--overwrite_target_spacing",
        nargs=3,
        type=number_option({"type": "number", "exclusiveMinimum": 0}),
        metavar="MM",
        help="spacing to resample to, in the order z y x, as in nnU-Net (default: by nnU-Net's rules)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="JSON file to write (default: in the folder of tasks)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an overlay that holds another plan"
    )
    parser.add_num_workers()
    parser.add_argument(
        "--cache_dir",
        type=Path,
        default=cache_folder(),
        help="cache of the facts of each file (default: %(default)s)",
    )
    _add_names(parser)


def _add_names(parser: CommandParser) -> None:
    """Names that the data set lacks."""
    parser.add_argument(
        "--channel_names", nargs="+", help="names of channels, if there is no dataset.json"
    )
    parser.add_argument(
        "--label_names",
        nargs="+",
        help="names of labels, background first, if there is no dataset.json",
    )
    parser.add_argument(
        "--name",
        help="name of the task, which titles, DICOM objects and cards carry (default: that of the folder)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from dynunet_bundle.dicom_output.codes import uncoded_doubt
    from dynunet_bundle.networks.starting_model import source_model
    from dynunet_bundle.planning.command import PlanRequest, plan_dataset
    from dynunet_bundle.planning.plan import Plan

    def codes_doubt(plan: Plan) -> list[str]:
        doubt = uncoded_doubt(plan.label_names[1:], plan.task_name)
        return [doubt] if doubt else []

    values = vars(arguments)
    out, like = values.pop("output"), values.pop("like")
    spacing = values.pop("overwrite_target_spacing")
    request = PlanRequest(
        tasks_dir=in_work_folder("configs/tasks"),
        out=out,
        like=like and source_model(like),
        target_spacing=spacing and tuple(spacing),
        more_doubts=codes_doubt,
        **values,
    )
    text = plan_dataset(request)
    tell_hidden()
    print(text)

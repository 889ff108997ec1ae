r"""Average the probabilities of several models and write one mask per image, on the voxel grid of its file.

    dynunet-bundle ensemble --members OUT_2d/probabilities OUT_3d/probabilities --input IMAGES --output_dir MASKS
    dynunet-bundle ensemble --members A B --input IMAGES --output_dir MASKS --config_file best_overlay.json

Members are folders written by predict --probabilities_dir; --config_file takes the rules (keep_largest)
found by find-best. Run the same command again to resume.
"""

import argparse
from pathlib import Path

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.configs.lean_monai import import_monai
from dynunet_bundle.errors import counted
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.terminal import say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    from dynunet_bundle.shapes import DURATION, number_option

    parser.add_old_names(images="input", output="output_dir", weights="member_weights")
    parser.add_argument(
        "--members", nargs="+", required=True, type=Path, help="folders of probabilities"
    )
    parser.add_argument(
        "-i",
        "--input",
        required=True,
        type=Path,
        help="folder of the predicted images, or their data set",
    )
    parser.add_output_dir("folder for the masks")
    parser.add_argument(
        "--member_weights",
        nargs="+",
        type=number_option(DURATION),
        help="one per member (default: equal)",
    )
    parser.add_model("model whose rules (keep_largest) are applied", default=None)
    parser.add_config_files("overlays with keep_largest")
    parser.add_restart("make finished masks anew")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    import_monai()
    from dynunet_bundle.configs.overlays import rules_of
    from dynunet_bundle.inference.ensemble import EnsembleRequest, write_ensemble
    from dynunet_bundle.networks.model_json import model_files, model_settings

    rules = rules_of(arguments.config_file, BUNDLE / "configs")
    if arguments.model and not arguments.config_file:
        rules = model_settings(model_files(arguments.model)[0]).get("keep_largest", rules)
    masks = write_ensemble(
        EnsembleRequest(
            members=tuple(arguments.members),
            images=arguments.input,
            output=arguments.output_dir,
            weights=arguments.member_weights and tuple(arguments.member_weights),
            rules=rules,
            go_on=not arguments.restart,
        )
    )
    say("{} written to {}", counted(len(masks), "mask"), arguments.output_dir)

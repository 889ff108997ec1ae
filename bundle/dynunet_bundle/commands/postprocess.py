r"""Apply rules for components (keep the largest) to masks that exist, as nnUNetv2_apply_postprocessing does.

    dynunet-bundle postprocess MASKS --output_dir CLEAN --model PACKAGE
    dynunet-bundle postprocess MASKS --output_dir CLEAN --config_file best_overlay.json
    dynunet-bundle postprocess MASKS --output_dir CLEAN --nnunet_dir crossval_results_folds_0_1_2_3_4

The masks are those of a prediction with the same rules. Rules come from the overlay of find-best, from a model, or from
postprocessing.json or postprocessing.pkl of nnU-Net, in which nothing is executed.
"""

import argparse
from pathlib import Path
from typing import Any

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.configs.lean_monai import import_monai
from dynunet_bundle.errors import ConfigError, counted
from dynunet_bundle.machine.places import BUNDLE
from dynunet_bundle.terminal import say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_argument("predictions", type=Path, metavar="MASKS", help="folder of masks")
    parser.add_output_dir("folder for the new masks")
    parser.add_model("model whose rules (keep_largest) are applied", default=None)
    parser.add_config_files("overlays with keep_largest")
    parser.add_argument(
        "--nnunet_dir",
        type=Path,
        help="folder with postprocessing.json or postprocessing.pkl of nnU-Net",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    import_monai()
    from dynunet_bundle.best_configuration.masks_by_rules import apply_rules

    rules = _rules(arguments)
    masks = apply_rules(arguments.predictions, arguments.output_dir, rules)
    say("{} written to {}", counted(len(masks), "mask"), arguments.output_dir)


def _rules(arguments: argparse.Namespace) -> Any:
    """The rules of the only source that is given."""
    from dynunet_bundle.configs.overlays import rules_of
    from dynunet_bundle.networks.model_json import model_files, model_settings
    from dynunet_bundle.nnunet.component_rules import component_rules

    given = (arguments.model, arguments.config_file, arguments.nnunet_dir)
    if sum(map(bool, given)) != 1:
        raise ConfigError("pass the rules by one of --model, --config_file and --nnunet_dir.")
    if arguments.nnunet_dir:
        rules: Any = component_rules(arguments.nnunet_dir)
    elif arguments.model:
        rules = model_settings(model_files(arguments.model)[0]).get("keep_largest")
    else:
        rules = rules_of(arguments.config_file, BUNDLE / "configs")
    if not rules:
        source = arguments.nnunet_dir or arguments.model or ", ".join(arguments.config_file)
        raise ConfigError(
            f"{source} has no rules for components (keep_largest). dynunet-bundle find-best finds such rules."
        )
    return rules

"""Install a package from its zip, so that ``predict --model NAME`` finds it in any folder.

    dynunet-bundle install hippocampus_mr_segmentation_v0.1.0.zip
    dynunet-bundle install https://example.org/spleen_v1.0.0.zip --sha256 HEX --name spleen
    dynunet-bundle predict --model spleen --input IMAGES --output_dir MASKS

Packages go to ~/.dynunet_bundle, or to the folder in the environment variable DYNUNET_BUNDLE_HOME. Nothing in a package
is executed. To uninstall one, remove its folder.
"""

import argparse

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.configs.lean_monai import import_monai
from dynunet_bundle.configs.quiet import tell_hidden
from dynunet_bundle.terminal import next_command, say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "source", metavar="ZIP_OR_URL", help="zip of a package: a path, https:// or file://"
    )
    parser.add_argument("--sha256", help="SHA-256 of the zip; required for https://")
    parser.add_argument("--name", help="name to install it as (default: name of the package)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an installed package of this name"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    import_monai()
    from dynunet_bundle.delivery.package.install import install_package

    folder = install_package(
        arguments.source, arguments.sha256, arguments.name, arguments.overwrite
    )
    say("the package is in {}", folder)
    tell_hidden()
    print(next_command("predict", model=folder.name, input="IMAGES", output_dir="MASKS"))

r"""Make a package of a model that was trained with nnU-Net v2. nnU-Net itself is not needed.

    dynunet-bundle import-nnunet --model nnUNet_results/Dataset004_Hippocampus --configuration 3d_fullres \
        --name hippocampus_mr_segmentation --output_dir PACKAGES
    dynunet-bundle import-nnunet --model export.zip --configuration 3d_fullres --folds 0 1 \
        --name hippocampus_mr_segmentation --output_dir PACKAGES
    dynunet-bundle predict --model PACKAGES/hippocampus_mr_segmentation --input IMAGES --output_dir MASKS

The masks are those of nnUNetv2_predict, see docs/nnunet.md. A model that would give other masks is refused with the
reason. Nothing in a checkpoint is executed. A cascade has both stages in one package. The weights keep the licence of
their authors: without --facts FACTS.json with data_license and authors, the package is a folder for your own use,
without a zip.
"""

import argparse
from pathlib import Path

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.configs.lean_monai import import_monai
from dynunet_bundle.machine.places import BUNDLE, changelog_file
from dynunet_bundle.terminal import say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_old_names(out="output_dir")
    parser.add_argument(
        "-m", "--model", type=Path, required=True, help="results folder of nnU-Net, or its zip"
    )
    parser.add_argument(
        "--name",
        required=True,
        help="name of the bundle, organ_modality_task, e.g. spleen_ct_segmentation",
    )
    parser.add_output_dir("folder for the package (default: dist)", Path("dist"))
    parser.add_argument(
        "--configuration", help="configuration, if there are several, e.g. 3d_fullres"
    )
    parser.add_argument(
        "--folds",
        nargs="+",
        help='folds, e.g. 0 1 2 3 4, or all (default: all that there are, except "all")',
    )
    parser.add_argument(
        "--checkpoint",
        choices=("final", "best"),
        default="final",
        help="which weights of a fold (default: final, as in nnU-Net)",
    )
    parser.add_argument(
        "--previous_model",
        type=Path,
        help="results folder of a cascade's previous stage (default: the one beside it)",
    )
    parser.add_argument(
        "--facts", type=Path, help="JSON file with data source, licence, authors, ..."
    )
    parser.add_argument("--version", help="X.Y.Z of the package (default: that of this bundle)")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    import_monai()
    from dynunet_bundle.nnunet.importing import ImportRequest, import_nnunet

    package = import_nnunet(
        ImportRequest(
            bundle=BUNDLE,
            model=arguments.model,
            name=arguments.name,
            output=arguments.output_dir,
            changelog=changelog_file(),
            configuration=arguments.configuration,
            folds=arguments.folds,
            checkpoint=arguments.checkpoint,
            facts=arguments.facts,
            version=arguments.version,
            previous=arguments.previous_model,
        )
    )
    say("{}", package.folder)
    if package.archive:
        say("{}", package.archive)
    else:
        print(
            "No zip was written: the weights keep the licence of their authors, which nnU-Net does not record. To give "
            "the package to others, pass --facts with a JSON file of data_license and authors."
        )

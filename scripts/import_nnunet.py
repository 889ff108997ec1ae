r"""Make a package of a model that was trained with nnU-Net v2. nnU-Net itself is not needed.

    python scripts/import_nnunet.py --model nnUNet_results/Dataset004_Hippocampus --configuration 3d_fullres \
        --name hippocampus_mr_segmentation --out PACKAGES
    python scripts/import_nnunet.py --model export.zip --configuration 3d_fullres --folds 0 1 \
        --name hippocampus_mr_segmentation --out PACKAGES
    python scripts/predict.py --model PACKAGES/hippocampus_mr_segmentation --input IMAGES --output MASKS

The masks are those of nnUNetv2_predict, see docs/nnunet.md. A model that would give other masks is refused with the
reason. Nothing in a checkpoint is executed. The weights keep the licence of their authors: write it into FACTS.json.
"""

import argparse
import logging
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

ROOT = Path(__file__).resolve().parents[1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="results folder of nnU-Net, or its zip"
    )
    parser.add_argument(
        "--name",
        required=True,
        help="name of the bundle, organ_modality_task, e.g. spleen_ct_segmentation",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("dist"), help="folder for the package (default: dist)"
    )
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
        "--facts", type=Path, help="JSON file with data source, licence, authors, ..."
    )
    parser.add_argument("--version", help="X.Y.Z of the package (default: that of this bundle)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from dynunet_bundle.nnunet.importing import ImportRequest, import_nnunet

    package = import_nnunet(
        ImportRequest(
            bundle=ROOT / "bundle",
            model=arguments.model,
            name=arguments.name,
            output=arguments.out,
            changelog=ROOT / "CHANGELOG.md",
            configuration=arguments.configuration,
            folds=arguments.folds,
            checkpoint=arguments.checkpoint,
            facts=arguments.facts,
            version=arguments.version,
        )
    )
    print(f"{package.folder}\n{package.archive}")


if __name__ == "__main__":
    with user_errors_exit():
        main()

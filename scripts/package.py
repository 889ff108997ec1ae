r"""Package a trained model as a standalone bundle: literal configs, weights, model card; a folder and a zip.

    python scripts/package.py --task_config bundle/configs/tasks/Task04_Hippocampus_3d.json --weights RUN/model.pt \
        --name hippocampus_mr_segmentation --scores RUN/scores.json --out PACKAGES
    python scripts/package.py --task_config OVERLAY.json bundle/configs/quick.json --weights RUN/model.pt \
        --name lung_ct_segmentation --facts FACTS.json --changelog LUNG_CHANGELOG.md --version 1.2.0 --out PACKAGES
    python scripts/package.py --refresh_template

Pass the overlays that the weights were trained with, or none for the default plan. The same inputs give a bitwise
identical zip. docs/delivery.md lists the keys of FACTS.json. Check the result with scripts/verify_bundle.py.
"""

import argparse
import logging
from pathlib import Path

from dynunet_bundle.errors import ConfigError, user_errors_exit

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--task_config", action="extend", nargs="+", default=[], help="overlays for train.json"
    )
    parser.add_argument("--weights", type=Path, help="file of weights (model.pt)")
    parser.add_argument(
        "--name", help="name of the bundle, organ_modality_task, e.g. hippocampus_mr_segmentation"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("dist"), help="folder for the package (default: dist)"
    )
    parser.add_argument("--version", help="X.Y.Z (default: the newest in the changelog)")
    parser.add_argument(
        "--changelog",
        type=Path,
        default=ROOT / "CHANGELOG.md",
        help='Markdown file with "## X.Y.Z" sections (default: CHANGELOG.md)',
    )
    parser.add_argument("--scores", type=Path, help="scores.json of an evaluation")
    parser.add_argument(
        "--facts", type=Path, help="JSON file with data source, licence, authors, ..."
    )
    parser.add_argument("--exports", type=Path, help="export.json of scripts/export.py")
    parser.add_argument("--curves", type=Path, help="progress.png of the training")
    parser.add_argument(
        "--weights_url", help="download address of weights above 25 MB, for the Model Zoo"
    )
    parser.add_argument(
        "--refresh_template",
        action="store_true",
        help="only regenerate metadata.json and the model card of bundle/",
    )
    parser.add_argument(
        "--trust", action="store_true", help="accept code in overlays from outside bundle/configs"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not arguments.refresh_template and None in (arguments.weights, arguments.name):
        raise ConfigError("a package needs --weights MODEL.pt and --name organ_modality_task.")

    from dynunet_bundle.delivery.package.make import PackageRequest, make_package
    from dynunet_bundle.delivery.package.template import refresh_template

    if arguments.refresh_template:
        for path in refresh_template(BUNDLE, arguments.changelog):
            print(f"wrote {path}")
        return
    package = make_package(
        PackageRequest(
            bundle=BUNDLE,
            overlays=arguments.task_config,
            weights=arguments.weights,
            name=arguments.name,
            output=arguments.out,
            changelog=arguments.changelog,
            version=arguments.version,
            scores=arguments.scores,
            facts=arguments.facts,
            exports=arguments.exports,
            curves=arguments.curves,
            weights_url=arguments.weights_url,
            trust=arguments.trust,
        )
    )
    print(f"{package.folder}\n{package.archive}")


if __name__ == "__main__":
    with user_errors_exit():
        main()

r"""Package a trained model as a standalone bundle: literal configs, weights, model card; a folder and a zip.

    dynunet-bundle package --model RUN --name hippocampus_mr_segmentation -o PACKAGES
    dynunet-bundle package --model RUN --config_file OVERLAY.json bundle/configs/quick.json \
        --name lung_ct_segmentation --facts FACTS.json --changelog LUNG_CHANGELOG.md --version 1.2.0 -o PACKAGES
    dynunet-bundle package --refresh_template

Plan and recipe come from the model.json beside the weights; weights of earlier versions lack the recipe, so pass the
overlays that they were trained with. Several folds become one package, whose prediction averages them. The card shows
the scores and curves that the training wrote, unless --scores or --curves names others. The same inputs give a bitwise
identical zip. docs/delivery.md lists the keys of FACTS.json. Check the result with verify.
"""

import argparse
from pathlib import Path

from dynunet_bundle.commands.model import say_model
from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.configs.lean_monai import import_monai
from dynunet_bundle.configs.quiet import tell_hidden
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.machine.places import BUNDLE, changelog_file
from dynunet_bundle.terminal import next_command, say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_old_names(task_config="config_file", weights="model", out="output_dir")
    parser.add_config_files("overlays for train.json")
    parser.add_model("folder of a training, or file of weights", default=None)
    parser.add_argument(
        "--name", help="name of the bundle, organ_modality_task, e.g. hippocampus_mr_segmentation"
    )
    parser.add_output_dir("folder for the package (default: dist)", Path("dist"))
    parser.add_argument("--version", help="X.Y.Z (default: the newest in the changelog)")
    parser.add_argument(
        "--changelog",
        type=Path,
        default=changelog_file(),
        help='Markdown file with "## X.Y.Z" sections (default: CHANGELOG.md)',
    )
    parser.add_argument(
        "--scores", type=Path, help="scores.json of an evaluation (default: of the training)"
    )
    parser.add_argument(
        "--facts", type=Path, help="JSON file with data source, licence, authors, ..."
    )
    parser.add_argument("--exports", type=Path, help="export.json of the export command")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure time and memory on this machine for the card; packages then differ between builds",
    )
    parser.add_argument("--curves", type=Path, help="progress.png (default: of the training)")
    parser.add_argument(
        "--example",
        type=Path,
        nargs=2,
        metavar=("IMAGE", "MASK"),
        help="a case that may be published, as a picture in the model card",
    )
    parser.add_argument(
        "--weights_url", help="download address of weights above 25 MB, for the Model Zoo"
    )
    parser.add_argument(
        "--refresh_template",
        action="store_true",
        help="only regenerate metadata.json and the model card of bundle/",
    )
    parser.add_trust()


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    if not arguments.refresh_template and None in (arguments.model, arguments.name):
        raise ConfigError("a package needs --model MODEL.pt and --name organ_modality_task.")

    import_monai()
    from dynunet_bundle.delivery.package.make import PackageRequest, make_package
    from dynunet_bundle.delivery.package.template import refresh_template
    from dynunet_bundle.delivery.package.training_results import (
        TrainingScores,
        training_curves,
        training_scores,
    )
    from dynunet_bundle.networks.model_json import model_files

    if arguments.refresh_template:
        for path in refresh_template(BUNDLE, arguments.changelog):
            say("wrote {}", path)
        return
    weights, *members = model_files(arguments.model)
    given, files = arguments.scores, [weights, *members]
    scores = TrainingScores(given) if given else training_scores(files)
    curves = arguments.curves or training_curves(files)
    package = make_package(
        PackageRequest(
            bundle=BUNDLE,
            overlays=arguments.config_file,
            weights=weights,
            members=members,
            name=arguments.name,
            output=arguments.output_dir,
            changelog=arguments.changelog,
            version=arguments.version,
            scores=scores.path,
            facts=arguments.facts,
            exports=arguments.exports,
            curves=curves,
            measure=arguments.measure,
            example=arguments.example and tuple(arguments.example),
            weights_url=arguments.weights_url,
            trust=arguments.trust,
        )
    )
    for file in files:
        say_model(file)
    say(
        "scores: {}",
        scores.path or scores.told or "none; pass those of an evaluation with --scores",
    )
    say("curves: {}", curves or "none")
    say("{}\n{}", package.folder, package.archive)
    if not (package.folder / "models" / "model.pt").is_file():
        say("next: python -m monai.bundle download_large_files --bundle_path {}", package.folder)
        return
    tell_hidden()
    print(next_command("predict", model=package.folder, input="IMAGES", output_dir="MASKS"))

r"""Average the probabilities of several models and write one mask per image, on the voxel grid of its file.

    python scripts/ensemble.py --members OUT_2d/probabilities OUT_3d/probabilities --images IMAGES --output MASKS
    python scripts/ensemble.py --members ... --images IMAGES --output MASKS --config_file best_overlay.json

Members are folders written by scripts/predict.py --save_probabilities; --config_file takes the rules (keep_largest)
found by scripts/find_best.py. Run the same command with --continue to resume.
"""

import argparse
import logging
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def main() -> None:
    from dynunet_bundle.shapes import DURATION, number_option

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--members", nargs="+", required=True, type=Path, help="folders of probabilities"
    )
    parser.add_argument(
        "--images",
        required=True,
        type=Path,
        help="folder of the predicted images, or their data set",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for the masks")
    parser.add_argument(
        "--weights", nargs="+", type=number_option(DURATION), help="one per member (default: equal)"
    )
    parser.add_argument(
        "--config_file", action="extend", nargs="+", default=[], help="overlays with keep_largest"
    )
    parser.add_argument("--continue", dest="go_on", action="store_true", help="skip finished masks")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from dynunet_bundle.configs.overlays import rules_of
    from dynunet_bundle.inference.ensemble import EnsembleRequest, write_ensemble

    masks = write_ensemble(
        EnsembleRequest(
            members=tuple(arguments.members),
            images=arguments.images,
            output=arguments.output,
            weights=arguments.weights and tuple(arguments.weights),
            rules=rules_of(arguments.config_file, BUNDLE / "configs"),
            go_on=arguments.go_on,
        )
    )
    print(f"{len(masks)} masks written to {arguments.output}")


if __name__ == "__main__":
    with user_errors_exit():
        main()

r"""Find the best configuration or pair of configurations, and whether to keep only the largest components.

    python scripts/find_best.py --runs RUNS/spleen_2d RUNS/spleen_3d --dataset_dir DATA/Task09_Spleen --out best.json

Runs are folders written by scripts/train.py with all folds trained; the first of equal runs wins, so name simpler ones
first. Pairs need probabilities: train with
--probabilities_dir "$PWD/RUNS/spleen_3d/cross_validation/probabilities". Beside best.json it writes best_overlay.json
with the rules (keep_largest), and one overlay with plan and weights per member of the winner. Run the same command
again to resume.
"""

import argparse
import logging
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", nargs="+", required=True, type=Path, help="run folders, simpler ones first"
    )
    parser.add_argument("--dataset_dir", required=True, type=Path, help="folder of the data set")
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    parser.add_argument(
        "--no_pairs", dest="pairs", action="store_false", help="compare single runs only"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from dynunet_bundle.best_configuration.decide import (
        BestRequest,
        find_best,
        format_best,
    )

    content = find_best(
        BestRequest(
            runs=tuple(arguments.runs),
            dataset_dir=arguments.dataset_dir,
            out=arguments.out,
            pairs=arguments.pairs,
        )
    )
    print(f"{format_best(content, arguments.out)}\nsaved to {arguments.out}")


if __name__ == "__main__":
    with user_errors_exit():
        main()

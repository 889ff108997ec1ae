r"""Find the best of several configurations and of all pairs of them, and whether to keep only largest components.

    python scripts/find_best.py --runs RUNS/spleen_2d RUNS/spleen_3d --dataset_dir DATA/Task09_Spleen --out best.json

Runs are folders that scripts/train.py wrote, with all folds trained; the first of equally good ones wins, so name the
simpler ones first. Pairs need probabilities: train with
--probabilities_dir "$PWD/RUNS/spleen_3d/cross_validation/probabilities". Beside best.json goes best_overlay.json with
the rules (keep_largest), and an overlay with plan and weights of each member of the winner. Run the same command again
to go on where it stopped.
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
        "--runs", nargs="+", required=True, type=Path, help="run folders, the simpler first"
    )
    parser.add_argument("--dataset_dir", required=True, type=Path, help="folder of the data set")
    parser.add_argument("--out", required=True, type=Path, help="JSON to write")
    parser.add_argument(
        "--no_pairs", dest="pairs", action="store_false", help="compare single runs only"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from dynunet_bundle.best_configuration.decide import (
        BestRequest,
        format_best,
        run,
    )

    content = run(
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

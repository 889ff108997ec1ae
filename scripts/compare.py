"""Compare two scores.json case by case: is B better than A, by how much, and how sure is that?

    python scripts/compare.py A/scores.json B/scores.json
    python scripts/compare.py A/scores.json B/scores.json --output COMPARISON.json

Folders stand for the scores.json in them. How to read the figures is in docs/evaluation.md.
"""

import argparse
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", type=Path, help="scores.json to start from")
    parser.add_argument("b", type=Path, help="scores.json to compare with it")
    parser.add_argument("--output", type=Path, help="JSON to write")
    arguments = parser.parse_args()

    from dynunet_bundle.evaluation.comparison import compare_files, format_comparison
    from dynunet_bundle.evaluation.statistics import SCORES_NAME
    from dynunet_bundle.files import ensure_writable, write_json

    first, second = (
        path / SCORES_NAME if path.is_dir() else path for path in (arguments.a, arguments.b)
    )
    comparison = compare_files(first, second)
    print(format_comparison(comparison))
    if arguments.output:
        ensure_writable(arguments.output.parent)
        write_json(arguments.output, comparison)
        print(f"saved to {arguments.output}")


if __name__ == "__main__":
    with user_errors_exit():
        main()

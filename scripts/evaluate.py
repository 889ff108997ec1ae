"""Score predicted masks against labels, voxel by voxel in native space; files are paired by their names.

    python scripts/evaluate.py --predictions OUT --labels DATA/labelsTs --label_names background anterior posterior
    python scripts/evaluate.py --predictions OUT --labels DATA/labelsTs --config_file OVERLAY.json

A task overlay tells the names and values of the labels, its regions, and the value of voxels to leave out.
"""

import argparse
import logging
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--predictions", required=True, help="folder of predicted masks")
    parser.add_argument("--labels", required=True, help="folder of reference masks")
    parser.add_argument("--label_names", nargs="+", help="one name a class, background first")
    parser.add_argument("--label_values", nargs="+", type=int, help="if not 0, 1, 2, ...")
    parser.add_argument(
        "--config_file", action="extend", nargs="+", default=[], help="overlays of the task"
    )
    parser.add_argument("--output", type=Path, help="JSON to write (default: in PREDICTIONS)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from dynunet_bundle.evaluation.folder import label_ids, score_folders  # noqa: PLC0415 - keeps --help fast
    from dynunet_bundle.evaluation.scores import SCORES_NAME, format_table, summarize  # noqa: PLC0415
    from dynunet_bundle.files import ensure_writable, write_json  # noqa: PLC0415

    ids = label_ids(arguments.config_file, BUNDLE / "configs")
    given = {"label_names": arguments.label_names, "label_values": arguments.label_values}
    ids |= {name: value for name, value in given.items() if value is not None}
    scores, names = score_folders(arguments.predictions, arguments.labels, **ids)
    summary = summarize(scores, names)
    out = arguments.output or Path(arguments.predictions) / SCORES_NAME
    ensure_writable(out.parent)
    write_json(out, summary)
    print(f"Dice in native space\n{format_table(summary)}\nsaved to {out}")


if __name__ == "__main__":
    with user_errors_exit():
        main()

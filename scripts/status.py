r"""Show the state of one or more trainings. Pass their --output_dir, or the --out of train.py.

    python scripts/status.py bundle/eval --ckpt_dir bundle/models
    python scripts/status.py RUNS
    python scripts/status.py bundle/eval --json

It only reads files. Exit code 2 if a folder contains no training.
"""

import argparse
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="--output_dir of a training, or --out of train.py",
    )
    parser.add_argument(
        "--ckpt_dir", nargs="+", type=Path, help="--ckpt_dir of each DIR, to show its checkpoint"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    from dynunet_bundle.errors import ConfigError
    from dynunet_bundle.training.watching.status import find_runs, read_status
    from dynunet_bundle.training.watching.status_text import describe_run, runs_table

    folders = [run for folder in arguments.folders for run in find_runs(folder)]
    ckpt_dirs = arguments.ckpt_dir or [None] * len(folders)
    if len(ckpt_dirs) != len(folders):
        parser.error(f"{len(ckpt_dirs)} --ckpt_dir for {len(folders)} folders")
    found, faults = [], []
    for folder, ckpt_dir in zip(folders, ckpt_dirs, strict=True):
        try:
            found.append(read_status(folder, time.time(), ckpt_dir))
        except ConfigError as error:
            faults.append(str(error))
    if arguments.json:
        print(json.dumps([asdict(status) for status in found], indent=4))
    elif len(found) == 1:
        print(describe_run(found[0]))
    elif found:
        print(runs_table(found))
    if faults:
        # after the states of the other folders
        raise ConfigError(" ".join(faults))


if __name__ == "__main__":
    with user_errors_exit():
        main()

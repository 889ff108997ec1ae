r"""Show the state of one or more trainings. Pass the --output_dir of train, or that of a training of the bundle.

    dynunet-bundle status RUNS
    dynunet-bundle status bundle/eval --ckpt_dir bundle/models
    dynunet-bundle status bundle/eval --json

It only reads files. Exit code 2 if a folder contains no training.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.errors import ConfigError


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="--output_dir of a training"
    )
    parser.add_argument(
        "--ckpt_dir", nargs="+", type=Path, help="--ckpt_dir of each DIR, to show its checkpoint"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from dynunet_bundle.training.watching.status import find_runs, read_status
    from dynunet_bundle.training.watching.status_text import describe_run, runs_table

    folders = [run for folder in arguments.folders for run in find_runs(folder)]
    ckpt_dirs = arguments.ckpt_dir or [None] * len(folders)
    if len(ckpt_dirs) != len(folders):
        raise ConfigError(
            f"{len(ckpt_dirs)} --ckpt_dir for {len(folders)} folders. Pass one for each folder."
        )
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

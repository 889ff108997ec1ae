"""Fetch a data set of the Medical Segmentation Decathlon.

    dynunet-bundle download --task 09
    dynunet-bundle download --task Task09_Spleen --output_dir DATA --keep_archive

This leaves DATA/Task09_Spleen. Until the archive is removed, the disk must hold it and the data set: twice its size.
A proxy is taken from the environment (https_proxy). A download that was cut begins anew. Where that happens often, let
curl go on after each cut, and run the command above on the archive that lies there then:

    curl -C - -o DATA/Task09_Spleen.tar https://msd-for-monai.s3-us-west-2.amazonaws.com/Task09_Spleen.tar
"""

import argparse
import sys
from pathlib import Path

from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.terminal import say

EXIT_STOPPED = 75
"""Stopped by a signal; the same command may be run again."""


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_old_names(out="output_dir")
    parser.add_argument("--task", required=True, help="task: 9, 09, Task09 or Task09_Spleen")
    parser.add_output_dir("folder for data sets (default: DATA)", Path("DATA"))
    parser.add_argument(
        "--keep_archive", action="store_true", help="keep the .tar file in the folder"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    try:
        from dynunet_bundle.dataset.download import LICENCE, download_task

        folder = download_task(arguments.task, arguments.output_dir, arguments.keep_archive)
    except KeyboardInterrupt:
        print(
            "stopped. Run the same command again; it downloads the archive anew.", file=sys.stderr
        )
        return EXIT_STOPPED
    say("the data set is in {}", folder)
    print(LICENCE)
    return 0

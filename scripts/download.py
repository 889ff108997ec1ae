"""Fetch a data set of the Medical Segmentation Decathlon.

    python scripts/download.py --task 09
    python scripts/download.py --task Task09_Spleen --out DATA --keep_archive

This leaves DATA/Task09_Spleen. Until the archive is removed, the disk must hold it and the data set: twice its size.
A proxy is taken from the environment (https_proxy). A download that was cut begins anew. Where that happens often, let
curl go on after each cut, and run the command above on the archive that lies there then:

    curl -C - -o DATA/Task09_Spleen.tar https://msd-for-monai.s3-us-west-2.amazonaws.com/Task09_Spleen.tar
"""

import argparse
import logging
import sys
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

EXIT_STOPPED = 75
"""Stopped by a signal; the same command may be run again."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", required=True, help="task: 9, 09, Task09 or Task09_Spleen")
    parser.add_argument(
        "--out", type=Path, default=Path("DATA"), help="folder for data sets (default: DATA)"
    )
    parser.add_argument("--keep_archive", action="store_true", help="keep the .tar file in --out")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from dynunet_bundle.dataset.download import LICENCE, download_task

    folder = download_task(arguments.task, arguments.out, arguments.keep_archive)
    print(f"the data set is in {folder}")
    print(LICENCE)


if __name__ == "__main__":
    with user_errors_exit():
        try:
            main()
        except KeyboardInterrupt:
            print(
                "stopped. Run the same command again; it downloads the archive anew.",
                file=sys.stderr,
            )
            sys.exit(EXIT_STOPPED)

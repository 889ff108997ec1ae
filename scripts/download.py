"""Fetch a data set of the Medical Segmentation Decathlon; interrupted, it goes on when it is run again.

    python scripts/download.py --task 09
    python scripts/download.py --task Task09_Spleen --out DATA --keep_archive

This leaves DATA/Task09_Spleen. Until the archive is removed, the disk must hold it and the data set: twice its size.
A proxy is taken from the environment (https_proxy).
"""

import argparse
import logging
import sys
from pathlib import Path

from dynunet_bundle.errors import user_errors_exit

EXIT_STOPPED = 75
"""Stopped by a signal; the same command goes on."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", required=True, help="9, 09, Task09 or Task09_Spleen")
    parser.add_argument(
        "--out", type=Path, default=Path("DATA"), help="folder of the data sets (default: DATA)"
    )
    parser.add_argument("--keep_archive", action="store_true", help="keep the .tar in --out")
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
            print("stopped. The same command goes on from here.", file=sys.stderr)
            sys.exit(EXIT_STOPPED)

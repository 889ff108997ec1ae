"""A fuzzer of everything that the package reads from others; ``make test-attack`` prints its table.

    python tests/security/attack.py --count 5000 --seed 0 --folder FOLDER

Each attempt runs in a forked process with limited memory and time. It must end with the right result, or with a
BundleError of one line. The seed decides everything: ``--only NUMBER`` runs one attempt again. Exit code 1: an attempt
ended in another way; FOLDER/faults has its number and the traceback.
"""

import argparse
import faulthandler
import json
import os
import resource
import shutil
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(folder) for folder in (HERE, HERE.parent, HERE.parent / "configs")]

from attack_kinds import Attempt, attempts  # noqa: E402 - lies in this folder

from dynunet_bundle.dicom_input.archives import remove_extractions  # noqa: E402
from dynunet_bundle.errors import find_user_error  # noqa: E402

CHUNK = 64
"""Attempts per process; a process that was killed costs its attempt alone."""

SPARE_BYTES = 2 << 30
"""Additional memory of a process: an allowed image of 128 MiB may become 1 GiB by resampling."""

MAX_SECONDS = 20
"""Time limit of an attempt. The slowest takes 2 s on an idle core; the rest is for busy machines."""

LIMIT_GIB = "0.125"
MAX_MESSAGE = 8000  # characters; lists of several cases are long

RIGHT, REFUSED = "right", "refused in one line"
BAD = ("traceback", "hang", "over memory", "wrong voxels", "code run")
OUTCOMES = (RIGHT, REFUSED, *BAD)


def outcome_of(attempt: Attempt, folder: Path, marker: Path) -> tuple[str, str]:
    """Run one attempt: its outcome and, for a bad one, what was found."""
    try:
        found = attempt.act(folder)
        outcome, detail = (RIGHT, "") if found is None else (found, attempt.kind)
    except MemoryError:
        outcome, detail = "over memory", traceback.format_exc()[-3000:]
    except BaseException as error:
        outcome, detail = "traceback", traceback.format_exc()[-3000:]
        # what the scripts print
        message = str(find_user_error(error) or "")
        if message and message.isprintable() and len(message) <= MAX_MESSAGE:
            outcome, detail = REFUSED, ""
    if marker.exists():
        marker.unlink()
        outcome, detail = "code run", attempt.kind
    return outcome, detail


def run_chunk(chunk: list[tuple[int, Attempt]], folder: Path, marker: Path) -> None:
    """Run attempts in this process, which is a fork."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number, attempt in chunk:
        (folder / "at").write_text(str(number))
        # SimpleITK cannot be interrupted from Python
        faulthandler.dump_traceback_later(MAX_SECONDS, exit=True)
        work = folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        outcome, detail = outcome_of(attempt, work, marker)
        faulthandler.cancel_dump_traceback_later()
        note(folder, number, attempt.kind, outcome, detail)


def note(folder: Path, number: int, kind: str, outcome: str, detail: str) -> None:
    """Add an outcome to the files of the run."""
    with (folder / "outcomes").open("a") as file:
        file.write(json.dumps([number, kind, outcome]) + "\n")
    if outcome in BAD:
        with (folder / "faults").open("a") as file:
            file.write(json.dumps([number, kind, outcome, detail]) + "\n")


def run_all(todo: list[tuple[int, Attempt]], folder: Path, marker: Path) -> None:
    """Run attempts in forks; one that kills its process is noted, and the next ones go on in another."""
    while todo:
        chunk = todo[:CHUNK]
        child = os.fork()
        if child == 0:
            run_chunk(chunk, folder, marker)
            remove_extractions()  # os._exit runs no exit handlers
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            todo = todo[len(chunk) :]
            continue
        number = int((folder / "at").read_text())
        kind = next(attempt.kind for index, attempt in chunk if index == number)
        outcome = "hang" if os.WIFEXITED(status) else "traceback"
        note(folder, number, kind, outcome, f"the process ended with status {status}")
        todo = [(index, attempt) for index, attempt in todo if index > number]


def table(folder: Path) -> str:
    """Outcomes by group of kinds."""
    rows = [json.loads(line) for line in (folder / "outcomes").read_text().splitlines()]
    counts = Counter((kind.split(":")[0], outcome) for _, kind, outcome in rows)
    groups = sorted({group for group, _ in counts})
    width = max(map(len, (*groups, "all")))
    columns = ("attempts", *OUTCOMES)
    lines = [f"{'':{width}}  {'  '.join(columns)}"]
    for group in (*groups, "all"):
        numbers = [
            sum(counts[one, outcome] for one in groups if group in (one, "all"))
            for outcome in OUTCOMES
        ]
        cells = (
            f"{number:>{len(column)}}"
            for number, column in zip([sum(numbers), *numbers], columns, strict=True)
        )
        lines.append(f"{group:{width}}  {'  '.join(cells)}")
    return "\n".join(lines)


def main() -> int:
    """Run the attempts and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=5000, help="number of attempts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="folder for files of the run")
    parser.add_argument("--only", type=int, help="number of the one attempt to run")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["DYNUNET_MAX_IMAGE_GIB"] = LIMIT_GIB
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    marker = folder / "marker"
    find: Callable[[int], Attempt] = attempts(arguments.seed, folder / "made", marker)
    numbers = range(arguments.count) if arguments.only is None else [arguments.only]
    run_all([(number, find(number)) for number in numbers], folder, marker)
    print(table(folder))
    return 1 if (folder / "faults").exists() else 0


if __name__ == "__main__":
    sys.exit(main())

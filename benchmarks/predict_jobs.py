"""Jobs of the prediction benchmark: their contenders and environments, and the fastest of several rounds."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Contender, Measurement, Step, measure, peer_command

PROGRAM = "benchmarks.predict_contender"
PEER = "nnunetv2"


def contender(
    name: str, job: Mapping[str, Any], folder: Path, peers: Path, missing: str = ""
) -> Contender:
    """A contender whose process does one job.

    Args:
        name: name in the table.
        job: job for ``predict_contender``.
        folder: folder for job and figures.
        peers: environment with nnunetv2.
        missing: why it cannot run here, or empty.
    """
    stem = "_".join([name.replace(" ", "_").replace(",", ""), str(len(list(folder.iterdir())))])
    figures, path = folder / f"{stem}.figures.json", folder / f"{stem}.job.json"
    path.write_text(json.dumps({**job, "figures": str(figures)}), encoding="utf-8")
    python = sys.executable
    # nnU-Net sets its number of threads to its number of processes
    environment = {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1"}
    if job["contender"] == PEER:
        python, absent = peer_command(peers, "python")
        missing = missing or absent
    command = (python, "-P", "-W", "ignore", "-m", PROGRAM, str(path))
    return Contender(name, (Step(command, figures=figures),), environment, missing)


def take_turns(
    contenders: Sequence[Contender], rounds: int, core: int | None
) -> list[list[Measurement]]:
    """Measure all contenders one after the other, in several rounds.

    Args:
        contenders: the contenders.
        rounds: number of rounds.
        core: see ``measure``.

    Returns:
        The measurements of each contender.
    """
    found: list[list[Measurement]] = [[] for _ in contenders]
    for _ in range(rounds):
        for one, rows in zip(contenders, found, strict=True):
            if not rows or not rows[-1].remark:
                rows.append(measure(one, core))
    return found


def fastest(rows: Sequence[Measurement], by_cpu: bool = True) -> Measurement:
    """The fastest round of one contender, or the first that failed.

    Args:
        rows: its measurements.
        by_cpu: whether to compare CPU seconds or wall seconds.
    """
    failed = next((row for row in rows if row.remark), None)
    return failed or min(rows, key=lambda row: (row.cpu_s if by_cpu else row.wall_s) or 0.0)

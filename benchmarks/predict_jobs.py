"""Jobs of the prediction benchmark: who does them, in which environment, and the fastest of several turns."""

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
        name: for the table.
        job: what ``predict_contender`` reads.
        folder: where job and figures are written.
        peers: environment with nnunetv2.
        missing: why it cannot run here.
    """
    stem = "_".join([name.replace(" ", "_").replace(",", ""), str(len(list(folder.iterdir())))])
    figures, path = folder / f"{stem}.figures.json", folder / f"{stem}.job.json"
    path.write_text(json.dumps({**job, "figures": str(figures)}), encoding="utf-8")
    python = sys.executable
    # its threads: what it takes for its processes
    environment = {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1"}
    if job["contender"] == PEER:
        python, absent = peer_command(peers, "python")
        missing = missing or absent
    command = (python, "-P", "-W", "ignore", "-m", PROGRAM, str(path))
    return Contender(name, (Step(command, figures=figures),), environment, missing)


def take_turns(
    contenders: Sequence[Contender], rounds: int, core: int | None
) -> list[list[Measurement]]:
    """Measure all contenders one after the other, several times.

    Args:
        contenders: who.
        rounds: turns.
        core: see ``measure``.

    Returns:
        For each contender its measurements.
    """
    found: list[list[Measurement]] = [[] for _ in contenders]
    for _ in range(rounds):
        for one, rows in zip(contenders, found, strict=True):
            if not rows or not rows[-1].remark:
                rows.append(measure(one, core))
    return found


def fastest(rows: Sequence[Measurement], by_cpu: bool = True) -> Measurement:
    """The fastest of the turns of one contender; the failure where one failed.

    Args:
        rows: its measurements.
        by_cpu: whether CPU seconds count, or those that went by.
    """
    failed = next((row for row in rows if row.remark), None)
    return failed or min(rows, key=lambda row: (row.cpu_s if by_cpu else row.wall_s) or 0.0)

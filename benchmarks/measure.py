"""Run contenders, each in separate processes on one core with one thread, and show their figures in a table.

CPU seconds are compared: on a shared machine, wall seconds mean little.
"""

import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dynunet_bundle.delivery.export.export import machine_facts
from dynunet_bundle.drawing.text_table import number_cell, text_table
from dynunet_bundle.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = Path(__file__).with_name("launcher.py")
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
COLUMNS = ("CPU s", "wall s", "peak MiB", "CPU ratio", "memory ratio")
PERCENTILES = (90, 95, 99)


@dataclass(frozen=True)
class Step:
    """One command of a contender.

    Attributes:
        command: program and arguments.
        timed: whether its figures count.
        figures: JSON that the command writes with ``cpu_s``, ``wall_s`` and ``peak_mib`` of the measured part; without
            it the whole process counts, and its peak memory is that of the largest descendant process.
    """

    command: Sequence[str]
    timed: bool = True
    figures: Path | None = None


@dataclass(frozen=True)
class Contender:
    """A program to measure.

    Attributes:
        name: name in the table.
        steps: commands to run, one after another.
        environment: variables in addition to those of this process.
        missing: why it cannot run here; empty if it can.
    """

    name: str
    steps: Sequence[Step] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class Measurement:
    """Figures of one contender; None if it was skipped or failed, for the reason in ``remark``.

    ``details`` are further figures by name; those of type float become columns of the table.
    """

    contender: str
    cpu_s: float | None = None
    wall_s: float | None = None
    peak_mib: float | None = None
    remark: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def measure(contender: Contender, core: int | None) -> Measurement:
    """Run the steps of a contender on one core.

    Args:
        contender: the contender.
        core: core to which all its processes are bound (Linux only), with one thread each; None for no limit, in which
            case each step must have ``figures``.

    Returns:
        Sums of seconds, and the largest peak memory, of the timed steps.
    """
    if contender.missing:
        return Measurement(contender.name, remark=f"skipped: {contender.missing}")
    threads = {} if core is None else ONE_THREAD
    # for imports of benchmarks; dynunet_bundle is found where it is installed
    paths = {"PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **threads, **paths, **contender.environment}
    total = Measurement(contender.name, 0.0, 0.0, 0.0)
    for step in contender.steps:
        measured = _run(step, environment, core)
        if measured.remark:
            return replace(measured, contender=contender.name)
        if step.timed:
            total = _sum(total, measured)
    return total


def _run(step: Step, environment: Mapping[str, str], core: int | None) -> Measurement:
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        launcher: Sequence[str] = (sys.executable, "-I", str(LAUNCHER), str(figures), str(core))
        if core is None:
            launcher = ()
        process = subprocess.run(  # noqa: S603 - commands of the benchmark's own
            [*launcher, *step.command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=dict(environment),
            check=False,
        )
        if process.returncode:
            last = (process.stdout.strip().splitlines() or ["no output"])[-1]
            name = Path(step.command[0]).name
            return Measurement("", remark=f"failed: {name} ({process.returncode}): {last}")
        path = step.figures or figures
        return Measurement("", **json.loads(path.read_text(encoding="utf-8")))


def choose_core(core: int | None) -> int:
    """The core to run on: the requested one, or the first that this process may use.

    Raises:
        ConfigError: if this process may not use the requested core.
    """
    allowed = sorted(_allowed_cores())
    if core is None:
        return allowed[0]
    if core not in allowed:
        raise ConfigError(
            f"--core is {core}, but this process may only use {allowed}. Pass another."
        )
    return core


def _allowed_cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _sum(total: Measurement, step: Measurement) -> Measurement:
    return replace(
        total,
        cpu_s=(total.cpu_s or 0) + (step.cpu_s or 0),
        wall_s=(total.wall_s or 0) + (step.wall_s or 0),
        peak_mib=max(total.peak_mib or 0, step.peak_mib or 0),
        details={**total.details, **step.details},
    )


def peer_command(peers: Path, program: str) -> tuple[str, str]:
    """Path of a program in the peers' environment, and why it cannot be used (empty if it can).

    Args:
        peers: folder of the virtual environment, created from ``peers-requirements.txt``.
        program: e.g. ``python``.
    """
    path = peers / "bin" / program
    missing = "" if path.exists() else f"{path} does not exist (see peers-requirements.txt)"
    return str(path), missing


def latencies(milliseconds: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles (90, 95, 99) of the times of single steps, for ``details``; in ms."""
    figures = {"mean ms": float(np.mean(milliseconds))}
    for percent in PERCENTILES:
        figures[f"{percent} % ms"] = float(np.percentile(milliseconds, percent))
    return figures


def table(rows: Sequence[Measurement]) -> str:
    """The figures as text; ratios are to the first row."""
    lines = _cells(rows)
    return "\n".join(text_table(lines, left=(0, len(lines[0]) - 1)))


def markdown(name: str, sections: Mapping[str, Sequence[Measurement]]) -> str:
    """The figures of ``report`` as a Markdown document."""
    content = report(name, sections)
    facts = ", ".join(f"{key} {value}" for key, value in content["machine"].items())
    parts = [f"# Benchmark: {name}", f"{content['date']}; {facts}"]
    for title, rows in sections.items():
        header, *lines = ("| " + " | ".join(line) + " |" for line in _cells(rows))
        rule = "|---|" + "---:|" * (header.count("|") - 3) + "---|"
        parts.append("\n".join([f"## {title}", "", header, rule, *lines]))
    return "\n\n".join(parts) + "\n"


def _cells(rows: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """Header and lines; columns without any value are left out."""
    first = rows[0]
    columns: dict[str, list[str]] = {}
    base = [
        [
            number_cell(row.cpu_s, ".2f"),
            number_cell(row.wall_s, ".2f"),
            number_cell(row.peak_mib, ".0f"),
            number_cell(_ratio(row.cpu_s, first.cpu_s), ".2f"),
            number_cell(_ratio(row.peak_mib, first.peak_mib), ".2f"),
        ]
        for row in rows
    ]
    for title, cells in zip(COLUMNS, zip(*base, strict=True), strict=True):
        columns[title] = list(cells)
    for row in rows:
        for title, value in row.details.items():
            if isinstance(value, float):
                columns[title] = [number_cell(other.details.get(title), ".1f") for other in rows]
    shown = {title: cells for title, cells in columns.items() if set(cells) != {"-"}}
    lines = [("contender", *shown, "remark")]
    for index, row in enumerate(rows):
        lines.append((row.contender, *(cells[index] for cells in shown.values()), row.remark))
    return lines


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def report(name: str, sections: Mapping[str, Sequence[Measurement]]) -> dict[str, Any]:
    """All figures with date and machine, as JSON data."""
    return {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine_facts(),
        "sections": {title: [asdict(row) for row in rows] for title, rows in sections.items()},
    }

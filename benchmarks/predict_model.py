"""Benchmark: a model that nnU-Net trained, predicted by nnU-Net and, imported, by this project, from file to file.

Both have the same weights and images, and whole processes are measured, with their start. On one core nnU-Net predicts
as with ``-npp 0 -nps 0``; on all cores also with its default of several processes.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.measure import LAUNCHER, ROOT, Contender, Measurement, Step, peer_command
from benchmarks.predict_jobs import PEER, fastest, take_turns
from dynunet_bundle.files import IMAGE_SUFFIXES
from dynunet_bundle.images.read import read_volume
from dynunet_bundle.nnunet.importing import ImportRequest, import_nnunet
from dynunet_bundle.nnunet.results_folder import choose_model, opened, read_results

PRECISIONS = ("float32", "auto")
SCRIPT = Path(__file__).with_name("predict_model_peer.py")
COMMAND = "nnUNetv2_predict_from_modelfolder"
DEFAULT_PROCESSES = "default processes"


@dataclass(frozen=True)
class ModelJob:
    """What both predict.

    Attributes:
        model: results folder of nnU-Net, a folder above it, or a zip.
        images: folder of images by nnU-Net's names.
        configuration: as in the import.
        mirroring: whether both average over mirrored versions.
        previous_dir: masks of the previous stage of a cascade, or None.
    """

    model: Path
    images: Path
    configuration: str | None = None
    mirroring: bool = False
    previous_dir: Path | None = None


def run(
    bundle: Path, work_dir: Path, peers: Path, core: int, job: ModelJob, rounds: int = 1
) -> dict[str, list[Measurement]]:
    """Measure both on one core, and on all cores.

    Args:
        bundle: the bundle folder.
        work_dir: an empty folder.
        peers: environment with nnunetv2.
        core: CPU core of the first table.
        job: what to predict.
        rounds: rounds of all contenders; the fastest counts.

    Returns:
        Measurements by title, nnU-Net's first, so that the ratios are to nnU-Net. The remark compares the masks.

    Raises:
        BundleError: if the model cannot be imported.
    """
    request = ImportRequest(
        bundle=bundle,
        model=job.model,
        name="imported_any_model",
        output=work_dir,
        changelog=ROOT / "CHANGELOG.md",
        configuration=job.configuration,
    )
    package = import_nnunet(request).folder
    sections = {}
    how = "with" if job.mirroring else "without"
    folder = choose_model(opened(job.model), job.configuration, job.model)
    for cores in (core, None):
        place = work_dir / ("one" if cores is not None else "all")
        place.mkdir()
        contenders = [
            *_theirs(peers, folder, job, place, cores),
            *(_ours(bundle, package, job, place, cores, name) for name in PRECISIONS),
        ]
        turns = take_turns(contenders, rounds, cores)
        rows = [fastest(found, by_cpu=cores is not None) for found in turns]
        count = "one core" if cores is not None else f"{_num_cores()} cores"
        title = f"{folder.name}, file to file, {how} mirroring, {count}"
        sections[title] = _compared(rows, place)
    return sections


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _step(command: Sequence[str], place: Path, core: int | None) -> Step:
    """A step on one core; with None, on all cores."""
    if core is not None:
        return Step(command)
    figures = place / f"figures_{len(list(place.glob('figures_*')))}.json"
    figures.touch()
    return Step(
        (sys.executable, "-I", str(LAUNCHER), str(figures), "all", *command), figures=figures
    )


def _theirs(
    peers: Path, folder: Path, job: ModelJob, place: Path, core: int | None
) -> list[Contender]:
    """nnU-Net in one process; on all cores also with its default of three processes to read and three to write."""
    folds = list(read_results(folder, None, "final").checkpoints)
    found = []
    for name in (PEER, *([f"{PEER}, {DEFAULT_PROCESSES}"] if core is None else [])):
        output = place / name.replace(", ", "_").replace(" ", "_")
        several = name != PEER
        program, missing = peer_command(peers, COMMAND if several else "python")
        own = () if several else ("-P", "-W", "ignore", str(SCRIPT))
        arguments = ["-m", folder, "-i", job.images, "-o", output, "-f", *folds]
        if job.previous_dir:
            arguments += ["-prev_stage_predictions", job.previous_dir]
        if not job.mirroring:
            arguments.append("--disable_tta")
        if several:
            arguments += ["-device", "cpu", "--disable_progress_bar"]
        step = _step((program, *own, *map(str, arguments)), place, core)
        found.append(Contender(name, (step,), _threads(core), missing))
    return found


def _ours(
    bundle: Path, package: Path, job: ModelJob, place: Path, core: int | None, precision: str
) -> Contender:
    arguments = ["--model", package, "--input", job.images, "--output_dir", place / precision]
    arguments += ["--precision", precision, "--device", "cpu"]
    if job.previous_dir:
        arguments += ["--previous_dir", job.previous_dir]
    if job.mirroring:
        arguments.append("--mirroring")
    command = (sys.executable, "-m", "dynunet_bundle", "predict", *map(str, arguments))
    environment = {**_threads(core), "PYTHONPATH": str(bundle)}
    return Contender(f"ours, {precision}", (_step(command, place, core),), environment)


def _threads(core: int | None) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(1 if core is not None else _num_cores())}


def _compared(rows: Sequence[Measurement], place: Path) -> list[Measurement]:
    """The measurements, with the share of voxels in which our masks are nnU-Net's."""
    return [_with_share(row, place) if not rows[0].remark else row for row in rows]


def _with_share(row: Measurement, place: Path) -> Measurement:
    name = row.contender.removeprefix("ours, ")
    if name not in PRECISIONS or row.remark:
        return row
    share = _equal_share(place / name, place / PEER)
    return replace(row, remark=f"{share:.3%} or more of the voxels of each mask are equal")


def _equal_share(ours: Path, theirs: Path) -> float:
    """Share of equal voxels in the mask that differs most."""
    shares = []
    for path in sorted(theirs.iterdir()):
        if path.name.endswith(IMAGE_SUFFIXES):
            one, other = (read_volume(folder / path.name).array for folder in (ours, theirs))
            shares.append(float(np.mean(one == other)))
    return min(shares)

"""Benchmark: a large synthetic CT from file to file, and the memory needed to restore many classes.

The network takes a quarter of an hour on one core, so it only computes two batches of windows; a 1x1x1 convolution
computes all of them. Everything except the network is measured, and the time per window; the total is computed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.measure import Contender, Measurement, measure
from benchmarks.predict_files import files_job, link_images, make_weights
from benchmarks.predict_jobs import PEER, contender, fastest, take_turns
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.inference.windows import window_starts
from dynunet_bundle.planning.nnunet_rules import features_of

WIDTH = 100.0
"""Difference of intensity between neighbouring classes of the synthetic CT."""

NOISE = 12.0
NUM_ELLIPSOIDS = 60
NETWORK, STAND_IN = "network", "stand-in"
STAGES = ("start-up", "preprocess", "windows", "restore", "write", "other")
NUM_REAL = 2
"""Batches of windows that the network computes; in the second batch, the volume of results is in memory, too."""

OURS: dict[str, dict[str, Any]] = {
    "ours, auto": {"precision": "auto"},
    "ours, float32": {"precision": "float32"},
    "ours, auto, two windows at once": {"precision": "auto", "sw_batch_size": 2},
    "ours, float32, two windows at once": {"precision": "float32", "sw_batch_size": 2},
}
"""Measured settings, by name."""


@dataclass(frozen=True)
class Scan:
    """A synthetic CT and the plan for it.

    Attributes:
        shape: voxels of the file, slices first.
        spacing: mm of the file, isotropic.
        target: mm of the plan, isotropic.
        patch: voxels of a window.
        levels: levels of the network.
        num_classes: classes of the mask.
    """

    shape: tuple[int, int, int]
    spacing: float
    target: float
    patch: tuple[int, int, int]
    levels: int
    num_classes: int

    @property
    def prepared(self) -> tuple[int, ...]:
        """Shape in voxels at the spacing of the plan."""
        return tuple(round(self.spacing / self.target * size) for size in self.shape)

    @property
    def num_windows(self) -> int:
        """Number of windows with half a patch of overlap, the same for us and nnU-Net."""
        pairs = zip(self.prepared, self.patch, strict=True)
        return math.prod(len(window_starts(max(pair), pair[1], 0.5)) for pair in pairs)

    def plan(self) -> dict[str, Any]:
        """Overrides of inference.json."""
        return {
            "device": "cpu",
            "channel_names": ["CT"],
            "label_names": ["background", *(f"class_{k}" for k in range(1, self.num_classes))],
            "label_values": list(range(self.num_classes)),
            "spacing": [self.target] * 3,
            "patch_size": list(self.patch),
            "kernel_sizes": [[3, 3, 3]] * self.levels,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (self.levels - 1),
            "filters": list(features_of(self.levels, 3)),
            "normalization": ["ct"],
            "intensity_statistics": [self.statistics],
        }

    @property
    def statistics(self) -> dict[str, float]:
        """Intensity statistics."""
        top = WIDTH * self.num_classes
        return {"lower": -WIDTH, "upper": top, "mean": top / 2, "std": top / 4}

    def bands(self) -> dict[str, Any]:
        """Arguments of ``band_convolution``."""
        statistics = self.statistics
        own = {"mean": statistics["mean"], "std": statistics["std"], "width": WIDTH}
        return {"num_classes": self.num_classes, **own}


SCANS = tuple(
    Scan((250, 320, 320), 0.8, 1.0, (96, 160, 160), 5, num_classes) for num_classes in (8, 15)
)
MANY_CLASSES = Scan((400, 512, 512), 0.75, 1.5, (96, 160, 160), 5, 25)


def run(
    bundle: Path,
    work_dir: Path,
    peers: Path,
    core: int,
    rounds: int = 1,
    scans: Sequence[Scan] = SCANS,
) -> dict[str, list[Measurement]]:
    """Measure ours in the precision of this processor and in float32, and nnU-Net, without mirroring.

    Args:
        bundle: the bundle folder.
        work_dir: an empty folder.
        peers: environment with nnunetv2.
        core: CPU core to run on, with one thread.
        rounds: rounds of all contenders; the fastest counts.
        scans: the scans to measure.

    Returns:
        Measurements by title: CPU seconds of everything except the network, by stage; then of a window, and in total.
    """
    sections = {}
    for number, scan in enumerate(scans):
        folder = work_dir / f"scan_{number}"
        folder.mkdir()
        contenders = _contenders(bundle, folder, peers, scan)
        rows = [fastest(turns) for turns in take_turns(contenders, rounds, core)]
        sizes = "x".join(map(str, scan.prepared))
        title = f"synthetic CT, {sizes} at the spacing of the plan, {scan.num_classes} classes"
        sections[f"{title}; everything except the network"] = [_rest(row) for row in rows]
        sections[f"{title}; total, computed"] = [
            _whole(row, scan.num_windows, bundle) for row in rows
        ]
    return sections


def _contenders(bundle: Path, folder: Path, peers: Path, scan: Scan) -> list[Contender]:
    plan, weights = make_weights(bundle, folder, scan.plan())
    image = write_scan(folder / "scan.nii.gz", scan)
    folders = link_images([image], folder / "images")
    contenders = []
    peer = {"contender": PEER, "precision": "float32"}
    settings = {name: {"contender": "ours", **own} for name, own in OURS.items()} | {PEER: peer}
    for name, own in settings.items():
        job = files_job(bundle, plan, weights, False, own)
        output = folder / f"masks_{name}".replace(" ", "_")
        sizes = {key: own[key] for key in ("sw_batch_size",) if key in own}
        job |= {"overrides": {**scan.plan(), **sizes}, "bands": scan.bands()}
        job |= {"num_real": NUM_REAL}
        job |= {"input": str(folders[own["contender"]]), "output": str(output)}
        contenders.append(contender(name, job, folder, peers))
    return contenders


def write_scan(path: Path, scan: Scan, seed: int = 0) -> Path:
    """Write a synthetic CT: ellipsoids in bands of intensity, with noise that is narrow compared with a band.

    Args:
        path: of the NIfTI file; its axes are x, y, z.
        scan: shape, spacing and number of classes.
        seed: equal seeds give equal voxels.

    Returns:
        The path.
    """
    random = np.random.default_rng(seed)
    image = np.zeros(scan.shape, np.int16)
    grid = np.ogrid[tuple(slice(-1, 1, size * 1j) for size in scan.shape)]
    for number in range(NUM_ELLIPSOIDS):
        middle, radius = random.uniform(-0.8, 0.8, 3), random.uniform(0.05, 0.4, 3)
        terms = zip(grid, middle, radius, strict=True)
        distance = sum(((line - place) / size) ** 2 for line, place, size in terms)
        image[distance < 1] = WIDTH * (1 + number % (scan.num_classes - 1))
    for index in range(len(image)):  # slice by slice, to save memory
        image[index] += random.normal(0, NOISE, image[index].shape).astype(np.int16)
    nib.save(nib.Nifti1Image(image.transpose(2, 1, 0), np.diag([*[scan.spacing] * 3, 1])), path)
    return path


def _rest(row: Measurement) -> Measurement:
    """All stages except the network, and their peak memory."""
    if row.remark:
        return row
    seconds, peaks = row.details["stages_s"], row.details["stages_mib"]
    stages = {f"{stage} s": seconds.get(stage, 0.0) for stage in STAGES}
    peak = max((value for stage, value in peaks.items() if stage != NETWORK), default=None)
    shown = {**stages, "(stand-in s)": seconds[STAND_IN]}
    return replace(
        row,
        cpu_s=sum(stages.values()),
        wall_s=None,
        peak_mib=peak,
        details={**shown, "stages_mib": peaks},
    )


def _whole(row: Measurement, num_windows: int, bundle: Path) -> Measurement:
    """The total time for all windows, and the peak memory including the network."""
    if row.remark:
        return row
    rest = _rest(row).cpu_s or 0.0
    window = row.details["stages_s"][NETWORK] / (NUM_REAL * _batch_size(row.contender, bundle))
    details = {"rest s": rest, "window s": window, "windows": float(num_windows)}
    return replace(row, cpu_s=rest + num_windows * window, wall_s=None, details=details)


def _batch_size(name: str, bundle: Path) -> int:
    """Windows per batch of a contender's network."""
    if name == PEER:
        return 1
    if "sw_batch_size" in OURS[name]:
        return int(OURS[name]["sw_batch_size"])
    parser = load_workflow(bundle, "inference.json").parser
    return int(parser.get_parsed_content("sw_batch_size"))


def restore(
    bundle: Path, work_dir: Path, core: int, scan: Scan = MANY_CLASSES
) -> dict[str, list[Measurement]]:
    """Measure the peak memory of a process that prepares a file and restores synthetic logits to its grid.

    Args:
        bundle: the bundle folder.
        work_dir: an empty folder.
        core: CPU core to run on, with one thread.
        scan: shape, spacing and classes of the file.

    Returns:
        One measurement by its title.
    """
    image = write_scan(work_dir / "many.nii", scan)
    job: Mapping[str, Any] = {
        "job": "restore",
        "contender": "ours",
        "bundle": str(bundle),
        "plan": scan.plan(),
        "input": str(image),
    }
    sizes = "x".join(map(str, scan.shape))
    title = f"restoring {scan.num_classes} classes to {sizes}; the peak is of the whole process"
    return {title: [measure(contender("ours", job, work_dir, work_dir), core)]}

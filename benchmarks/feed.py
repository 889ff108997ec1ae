"""Benchmark: augmented training patches, against nnU-Net's transforms and MONAI's."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Contender, Measurement, Step, measure, peer_command

PROGRAM = Path(__file__).with_name("feed_contender.py")
NUM_CLASSES = 2
POSITIONS = 4096
OVERSAMPLING = 0.33
WARM_UP = 3


@dataclass(frozen=True)
class Setting:
    """Cases and patches of one table.

    Attributes:
        name: heading.
        num_cases: number of synthetic cases.
        shape: voxels of a case.
        channels: channels of a case.
        patch: voxels of a patch.
        batch: patches per batch.
        num_batches: timed batches.
    """

    name: str
    num_cases: int
    shape: tuple[int, int, int]
    channels: int
    patch: tuple[int, ...]
    batch: int
    num_batches: int


SETTINGS = (
    Setting("small 3D (hippocampus)", 20, (36, 52, 36), 1, (40, 56, 40), 9, 60),
    Setting("large 3D (brain tumour)", 2, (160, 192, 192), 4, (128, 128, 128), 2, 50),
    Setting("2D", 4, (100, 240, 240), 1, (192, 160), 64, 50),
)


def run(
    configs: Path,
    work_dir: Path,
    peers: Path,
    core: int,
    num_batches: int | None = None,
    settings: Sequence[Setting] = SETTINGS,
) -> dict[str, list[Measurement]]:
    """Measure all contenders on all settings; seconds are for 1,000 samples.

    Args:
        configs: folder of train.json, for its augmentation.
        work_dir: an empty folder for the synthetic cases.
        peers: environment with nnunetv2.
        core: CPU core to run on.
        num_batches: timed batches; None for the number in each setting.
        settings: the settings to measure.

    Returns:
        Measurements by title, ours first.
    """
    train = json.loads((configs / "train.json").read_text(encoding="utf-8"))
    python, missing = peer_command(peers, "python")
    sections = {}
    for number, setting in enumerate(settings):
        folder = work_dir / str(number)
        folder.mkdir()
        facts = {
            "cases": make_cases(setting, folder),
            "shape": setting.shape,
            "patch": setting.patch,
            "batch": setting.batch,
            "num_batches": num_batches or setting.num_batches,
            "warm_up": WARM_UP,
            "oversampling": OVERSAMPLING,
            "augmentation": train["augmentation"],
        }
        contenders = (
            _contender("ours", sys.executable, "", facts, folder),
            _contender("batchgeneratorsv2", python, missing, facts, folder),
            _contender("monai", sys.executable, "", facts, folder),
        )
        sizes = "x".join(map(str, setting.patch))
        title = (
            f"{setting.name}: {setting.channels} x {sizes}, batch {setting.batch}, "
            f"{facts['num_batches']} batches; seconds for 1,000 samples"
        )
        sections[title] = [measure(contender, core) for contender in contenders]
    return sections


def _contender(
    name: str, python: str, missing: str, facts: Mapping[str, Any], folder: Path
) -> Contender:
    figures, job = folder / f"{name}.figures.json", folder / f"{name}.job.json"
    job.write_text(
        json.dumps({**facts, "contender": name, "figures": str(figures)}), encoding="utf-8"
    )
    return Contender(
        name, (Step((python, "-P", str(PROGRAM), str(job)), figures=figures),), missing=missing
    )


def make_cases(setting: Setting, folder: Path) -> list[str]:
    """Write synthetic cases in the form of the prepared store.

    Returns:
        Path of each case without ``.image.npy``, ``.label.npy`` and ``.positions.npy``.
    """
    stems = []
    for index in range(setting.num_cases):
        rng = np.random.default_rng(index)
        stem = folder / f"case_{index}"
        image = rng.standard_normal((setting.channels, *setting.shape), dtype=np.float32)
        label = np.zeros((1, *setting.shape), np.uint8)
        rows, columns = (slice(size // 3, size // 2) for size in setting.shape[1:])
        third = setting.shape[0] // 3
        positions = np.empty((NUM_CLASSES, POSITIONS, 3), np.int16)
        for value in range(1, NUM_CLASSES + 1):
            slab = slice(third + (value - 1) * third // 2, third + value * third // 2)
            label[0, slab, rows, columns] = value
            voxels = np.argwhere(label[0] == value)
            positions[value - 1] = voxels[rng.integers(len(voxels), size=POSITIONS)]
        for name, array in (("image", image), ("label", label), ("positions", positions)):
            np.save(f"{stem}.{name}.npy", array, allow_pickle=False)
        stems.append(str(stem))
    return stems

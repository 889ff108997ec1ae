"""Benchmark: resampling of a synthetic CT and its label, compared with nnU-Net's preprocessing."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.measure import Contender, Measurement, Step, measure, peer_command
from dynunet_bundle.errors import ConfigError

PROGRAM = Path(__file__).with_name("resample_contender.py")
OLD_SPACING = (1.5, 0.8, 0.8)
NEW_SPACING = (1.0, 0.7, 0.7)
"""Spacing in mm of an abdominal CT, and a typical target spacing for it."""
NUM_ORGANS = 14
SLAB = 16


def run(
    shape: Sequence[int], work_dir: Path, peers: Path, core: int
) -> dict[str, list[Measurement]]:
    """Measure all contenders on the image, then on the label.

    Only the resampling is timed, not imports and reading; peak memory is that of the whole process.

    Args:
        shape: voxels of the synthetic CT.
        work_dir: an empty folder for arrays.
        peers: environment with nnunetv2.
        core: CPU core to run on.

    Returns:
        Measurements by title, ours first; remarks compare the other results with ours.

    Raises:
        ConfigError: if a size is not positive.
    """
    if min(shape) < 1:
        raise ConfigError(
            f"--shape is {list(shape)}, but sizes must be positive. Pass larger ones."
        )
    new_shape = [
        max(round(old / new * size), 1)
        for old, new, size in zip(OLD_SPACING, NEW_SPACING, shape, strict=True)
    ]
    python, missing = peer_command(peers, "python")
    made = dict(zip(("image", "label"), make_ct(shape), strict=True))
    for kind, array in made.items():
        np.save(work_dir / f"{kind}.npy", array)
    made.clear()
    sections = {}
    for kind in ("image", "label"):
        facts = {
            "kind": kind,
            "shape": new_shape,
            "old_spacing": OLD_SPACING,
            "new_spacing": NEW_SPACING,
            "input": str(work_dir / f"{kind}.npy"),
        }
        rows = [
            measure(_contender("ours", sys.executable, "", facts, work_dir), core),
            measure(_contender("nnunetv2", python, missing, facts, work_dir), core),
        ]
        ours, *others = (work_dir / f"{kind}.{row.contender}.npy" for row in rows)
        rows[1:] = [
            replace(row, remark=agreement(ours, path)) if path.exists() and ours.exists() else row
            for row, path in zip(rows[1:], others, strict=True)
        ]
        sections[f"{kind}, {list(shape)} to {new_shape}"] = rows
    return sections


def _contender(
    name: str, python: str, missing: str, facts: Mapping[str, object], work_dir: Path
) -> Contender:
    stem = work_dir / f"{facts['kind']}.{name}"
    figures = stem.with_name(stem.name + ".figures.json")
    job = stem.with_name(stem.name + ".job.json")
    output = stem.with_name(stem.name + ".npy")
    job.write_text(
        json.dumps({**facts, "contender": name, "output": str(output), "figures": str(figures)}),
        encoding="utf-8",
    )
    # -P: no imports from the folder of the program
    step = Step((python, "-P", str(PROGRAM), str(job)), figures=figures)
    return Contender(name, (step,), missing=missing)


def make_ct(shape: Sequence[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A synthetic CT: ellipsoids, each with a random intensity, and noise.

    Args:
        shape: ``(D, H, W)``.
        seed: equal seeds give equal voxels.

    Returns:
        ``[1, D, H, W]`` float32 of mean 0 and about unit variance, as after normalisation, and uint8 labels from 0 to
        ``NUM_ORGANS``.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal([max(size // 16, 1) for size in shape], dtype=np.float32)
    factors = [size / old for size, old in zip(shape, coarse.shape, strict=True)]
    image = ndimage.zoom(coarse, factors, order=1, mode="nearest", grid_mode=True)
    label = np.zeros(shape, np.uint8)
    grid = np.ogrid[tuple(slice(-1, 1, size * 1j) for size in shape)]
    for organ in range(1, NUM_ORGANS + 1):
        middle, radius = rng.uniform(-0.6, 0.6, 3), rng.uniform(0.1, 0.4, 3)
        distance = sum(
            ((line - place) / size) ** 2
            for line, place, size in zip(grid, middle, radius, strict=True)
        )
        label[distance < 1] = organ
        image[distance < 1] += rng.normal()
    for index in range(len(image)):  # slice by slice, to save memory
        image[index] += 0.3 * rng.standard_normal(image[index].shape, dtype=np.float32)
    return image[None], label[None]


def agreement(ours: Path, other: Path) -> str:
    """Compare two results: labels by the fraction of equal voxels, images by the largest difference in std."""
    first, second = (np.load(path, mmap_mode="r", allow_pickle=False) for path in (ours, other))
    if first.shape != second.shape:
        return f"shape {second.shape}, ours {first.shape}"
    pairs = [
        (first[0, start : start + SLAB], second[0, start : start + SLAB])
        for start in range(0, first.shape[1], SLAB)
    ]
    if np.issubdtype(first.dtype, np.integer):
        equal = sum(int((one == two).sum()) for one, two in pairs)
        return f"{equal / first.size:.6%} of voxels equal ours"
    largest = max(float(abs(one - two).max()) for one, two in pairs)
    return f"differs from ours by at most {largest / float(first.std(dtype=np.float64)):.1e} std"

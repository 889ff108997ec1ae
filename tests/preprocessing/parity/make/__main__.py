"""Store nnU-Net v2's own plans and prepared cases as references for tests/preprocessing/test_parity.py.

    .venv-peers/bin/python tests/preprocessing/parity/make --data DATA
    .venv-peers/bin/python tests/preprocessing/parity/make --only made_isotropic --work /tmp/parity

It runs in a separate environment with nnunetv2 2.8.1 (peers-requirements.txt) and imports neither this project
nor MONAI. Each data set (MSD layout; synthetic ones are written by this script) is converted to nnU-Net's raw
layout in a temporary folder; nnU-Net takes its fingerprint, plans and preprocesses it, at the spacing of its own plan
and at others that force resampling. The output is one ``NAME.npz`` per data set:

    facts                  JSON: channels, labels, fingerprint; by variant and configuration nnU-Net's plan and cases
    ARRAY.voxels           [N] int32, flat indices into the preprocessed array, drawn at random
    ARRAY.image            [C, N] float32, nnU-Net's values there
    ARRAY.label            [N] int8, nnU-Net's values there; -1 outside its nonzero mask. If the licence of the labels
                           forbids it, the facts have "label_sha256" instead: hash of the values as uint8, -1 as 0
    made.image, made.label, made.affine     the complete input of a synthetic set

Images cannot be reconstructed: of a real case at most every 20th voxel is kept, and every fourth of its foreground.
"""

import argparse
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from made import MADE, Spacing, write_made
from nnunet import NnunetDataset, array_orientation

OUT = Path(__file__).resolve().parents[1]
CONFIGURATIONS = ("3d_fullres", "2d")
NUM_VOXELS_REAL = 4000
NUM_VOXELS_MADE = 2000
MAX_SHARE_REAL = 1 / 20
MAX_FOREGROUND_SHARE_REAL = 1 / 4
PLAN_KEYS = (
    "spacing",
    "patch_size",
    "batch_size",
    "batch_dice",
    "median_image_size_in_voxels",
    "normalization_schemes",
    "use_mask_for_norm",
)
NETWORK_KEYS = {"strides": "strides", "kernels": "kernel_sizes", "features": "features_per_stage"}


@dataclass(frozen=True)
class Real:
    """A data set on disk.

    Attributes:
        folder: folder in ``--data``.
        targets: spacings to resample to, mm along the file's axes (x, y, z), besides that of nnU-Net's own plan.
        cases: cases whose arrays are kept; the plan uses all cases.
        labels_kept: whether the licence of the labels allows to keep their values; otherwise a hash is kept.
    """

    folder: str
    targets: tuple[Spacing, ...]
    cases: tuple[str, ...]
    labels_kept: bool = True


REAL = (
    Real(
        "Task04_Hippocampus",
        ((0.77, 0.77, 1.3),),
        ("hippocampus_003", "hippocampus_170", "hippocampus_172"),
    ),
    Real("extra/prostatex_t2_adc", ((0.385, 0.385, 2.2),), ("ProstateX-0001",), False),
    Real("extra/spinalcord_t2s", ((0.385, 0.385, 5.0),), ("errsm30_t2s",)),
    Real("extra/spinalcord_t2_psr", ((0.77, 1.3, 0.8),), ("errsm30_t2",)),
    Real("extra/totalseg_ct_organs", ((2.2, 2.5, 2.7),), ("ts_ct_full", "ts_ct_slab")),
    Real("extra/ct_aorta_dissection", ((2.2, 2.5, 2.7),), ("ts_aorta",)),
    Real("extra/open_ms_4ch", ((1.4, 1.4, 1.4),), ("patient19",)),
    Real("extra/pyradiomics_brain_lesion", ((0.6, 0.6, 5.0),), ("brain1",)),
)


def draw_voxels(label: np.ndarray, real: bool) -> np.ndarray:
    """Flat indices of the voxels to keep, half of them foreground if there is enough; ``[N]`` int32, sorted."""
    random = np.random.RandomState(0)
    foreground = np.flatnonzero(label > 0)
    total = min(NUM_VOXELS_REAL, int(label.size * MAX_SHARE_REAL)) if real else NUM_VOXELS_MADE
    share = MAX_FOREGROUND_SHARE_REAL if real else 1
    of_foreground = min(total // 2, int(len(foreground) * share))
    chosen = random.choice(foreground, of_foreground, replace=False)
    others = np.flatnonzero(label <= 0)
    of_others = min(total - of_foreground, len(others))
    return np.sort(
        np.concatenate([chosen, random.choice(others, of_others, replace=False)])
    ).astype(np.int32)


def plan_facts(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """The parts of nnU-Net's plan that are compared."""
    plan = plans["configurations"][configuration]
    network = plan["architecture"]["arch_kwargs"]
    return {
        **{key: plan[key] for key in PLAN_KEYS},
        **{ours: network[theirs] for ours, theirs in NETWORK_KEYS.items()},
    }


def references(
    dataset: NnunetDataset,
    targets: Sequence[Spacing],
    cases: Sequence[str],
    real: bool,
    labels_kept: bool = True,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Facts and arrays of one data set."""
    fingerprint = dataset.fingerprint()
    arrays: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    variants = {}
    for variant, target in _variants(targets):
        plans = dataset.plans(variant, target)
        configurations = {}
        for configuration in CONFIGURATIONS:
            if configuration not in plans["configurations"]:
                continue
            prepared = {}
            for case in cases:
                image, label, properties = dataset.preprocess(case, plans, configuration)
                digest = hashlib.sha256(image.tobytes() + label.tobytes() + case.encode())
                # equal arrays of two configurations are stored once
                name = names.setdefault(digest.hexdigest(), f"{case}.{variant}.{configuration}")
                if f"{name}.voxels" not in arrays:
                    voxels = draw_voxels(label, real)
                    arrays[f"{name}.voxels"] = voxels
                    arrays[f"{name}.image"] = image.reshape(len(image), -1)[:, voxels]
                    arrays[f"{name}.label"] = label.reshape(-1)[voxels].astype(np.int8)
                drawn = np.maximum(arrays[f"{name}.label"], 0).astype(np.uint8)
                values, counts = np.unique(label, return_counts=True)
                prepared[case] = {
                    "array": name,
                    "cropped": list(properties["shape_after_cropping_and_before_resampling"]),
                    "shape": list(label.shape),
                    "orientation": array_orientation(
                        properties["sitk_stuff"]["direction"], plans["transpose_forward"]
                    ),
                    "mean": [float(channel.mean(dtype=np.float64)) for channel in image],
                    "std": [float(channel.std(dtype=np.float64)) for channel in image],
                    "label_sha256": hashlib.sha256(drawn.tobytes()).hexdigest(),
                    "label_voxels": dict(zip(values.tolist(), counts.tolist(), strict=True)),
                }
            configurations[configuration] = {
                "plan": plan_facts(plans, configuration),
                "cases": prepared,
            }
        variants[variant] = {
            "transpose_forward": plans["transpose_forward"],
            "configurations": configurations,
        }
    if not labels_kept:
        arrays = {name: array for name, array in arrays.items() if not name.endswith(".label")}
    facts = {
        "channels": dataset.channels,
        "labels": dataset.labels,
        "fingerprint": fingerprint,
        "variants": variants,
    }
    return facts, arrays


def _variants(targets: Sequence[Spacing]) -> Iterator[tuple[str, Spacing | None]]:
    yield "own", None
    for target in targets:
        yield "x".join(f"{value:g}" for value in target), target


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the references")
    parser.add_argument(
        "--work", type=Path, help="folder for nnU-Net's files, kept (default: none)"
    )
    parser.add_argument("--only", nargs="*", help="names of data sets (default: all)")
    return parser.parse_args()


def make_all(arguments: argparse.Namespace, work: Path) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ[variable] = str(work / variable)
    # nnU-Net's planner fails with 0; more than 1 starts processes
    os.environ["nnUNet_n_proc_DA"] = os.environ["nnUNet_def_n_proc"] = "1"
    wanted = set(arguments.only or [])
    arguments.out.mkdir(parents=True, exist_ok=True)
    made_folders = {f"made_{made.name}": made for made in MADE}
    real_folders = {Path(real.folder).name: real for real in REAL} if arguments.data else {}
    for number, name in enumerate([*made_folders, *real_folders], start=1):
        if wanted and name not in wanted:
            continue
        inputs: dict[str, np.ndarray] = {}
        labels_kept = True
        if name in made_folders:
            folder, source = work / name, None
            inputs = write_made(made_folders[name], folder)
            targets, cases = made_folders[name].targets, ("case",)
        else:
            real = real_folders[name]
            folder, source = arguments.data / real.folder, real.folder
            targets, cases, labels_kept = real.targets, real.cases, real.labels_kept
        facts, arrays = references(
            NnunetDataset(folder, number), targets, cases, source is not None, labels_kept
        )
        text = json.dumps({"name": name, "folder": source, **facts}, sort_keys=True)
        path = arguments.out / f"{name}.npz"
        np.savez_compressed(path, facts=np.array(text), **inputs, **arrays)
        print(f"{path} {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    arguments = parse_arguments()
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
        make_all(arguments, arguments.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_all(arguments, Path(folder))


if __name__ == "__main__":
    main()

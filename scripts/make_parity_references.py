"""Store what nnU-Net v2 itself plans and prepares, for tests/preprocessing/test_parity.py to compare with.

    .venv-peers/bin/python scripts/make_parity_references.py --data DATA
    .venv-peers/bin/python scripts/make_parity_references.py --only made_isotropic --work /tmp/parity

It runs in an environment of its own that has nnunetv2 2.8.1 (peers-requirements.txt) and imports neither this project
nor MONAI. Each data set (MSD layout; made ones are written by this script) is converted to nnU-Net's raw
layout in a temporary folder; nnU-Net takes its fingerprint, plans and preprocesses it, at the spacing of its own plan
and at others that force resampling. One ``NAME.npz`` a data set comes out:

    facts                  JSON: channels, labels, fingerprint; by variant and configuration nnU-Net's plan and cases
    ARRAY.voxels           [N] int32, flat indices into the preprocessed array, drawn at random
    ARRAY.image            [C, N] float32, nnU-Net's values there
    ARRAY.label            [N] int8, likewise; -1 is nnU-Net's mark outside the nonzero mask. Where the licence of the
                           labels forbids it, "label_sha256" in the facts: of these values as uint8, -1 as 0
    made.image, made.label, made.affine     the input of a made set, whole

No image can be seen in this: of a real case at most every 20th voxel is kept, and every fourth of its foreground.
"""

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt2axcodes, ornt_transform

OUT = Path(__file__).resolve().parents[1] / "tests" / "preprocessing" / "parity"
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

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Real:
    """A data set on disk.

    Attributes:
        folder: below ``--data``.
        targets: spacings to resample to, mm along the file's axes (x, y, z), besides that of nnU-Net's own plan.
        cases: cases whose arrays are kept; all of them are planned from.
        labels_kept: whether the licence of the labels lets their values be kept, else a hash of them is.
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


@dataclass(frozen=True)
class Made:
    """A made data set of one case.

    Attributes:
        name: its name.
        spacing: mm along right, anterior, superior.
        stored: orientation in which the file stores it.
        targets: as in ``Real``, along the stored axes.
        zero: where the image is zero: ``nowhere``; in a ``corner`` or all ``around`` its middle, and in a closed hole.
        channels: names of its channels.
        degrees: rotation about two axes.
        label_radius: how far the label reaches; 0.8 is where it is zero all around the middle.
        scale: factor of the intensities.
    """

    name: str
    spacing: Spacing
    stored: str
    targets: tuple[Spacing, ...]
    zero: str = "nowhere"
    channels: tuple[str, ...] = ("MRI",)
    degrees: float = 0
    label_radius: float = 0.75
    scale: int = 1


THICK = (0.5, 0.5, 3.0)
MADE = (
    Made("isotropic", (1.0, 1.0, 1.0), "RAS", ((0.7, 0.9, 1.3), (2.0, 2.0, 2.0))),
    Made("flipped", (1.0, 1.0, 1.0), "LPI", ((0.7, 0.9, 1.3), (2.0, 2.0, 2.0))),
    # a coarse axis: three slices for two, two for three and one for two put centres exactly between slices
    Made("thick", THICK, "RAS", ((0.4, 0.4, 2.0), (0.4, 0.6, 4.5), (0.6, 0.5, 6.0))),
    Made("thick_flipped", THICK, "LAI", ((0.4, 0.4, 2.0), (0.4, 0.6, 4.5), (0.6, 0.5, 6.0))),
    Made("thick_sideways", (4.0, 0.7, 0.7), "RAS", ((3.1, 0.6, 0.8),), degrees=9),
    Made("thick_target", (1.0, 1.0, 1.2), "PSR", ((0.8, 4.0, 0.9),)),
    Made("two_coarse_axes", (0.4, 1.5, 1.5), "LPS", ((0.53, 1.21, 1.32),)),
    # the second target makes sizes of 27.5, 32.5 and 28.5 voxels, before rounding
    Made(
        "oblique",
        (0.8, 1.1, 1.9),
        "PIL",
        ((1.0, 1.3, 0.9), (0.88, 1.2, 0.64)),
        degrees=-23,
        scale=4000,
    ),
    Made("holes", (1.0, 1.2, 1.5), "LPS", ((0.8, 0.9, 1.1),), zero="corner"),
    Made(
        "brain",
        (1.0, 1.0, 1.2),
        "LAS",
        ((0.8, 1.3, 0.9),),
        zero="around",
        channels=("FLAIR", "T1w"),
        label_radius=0.5,
    ),
    Made("brain_label_to_edge", (1.0, 1.0, 1.2), "RAS", ((0.8, 1.3, 0.9),), zero="around"),
    Made(
        "brain_label_beyond_edge",
        (1.0, 1.0, 1.2),
        "RAS",
        ((0.8, 1.3, 0.9),),
        zero="around",
        label_radius=0.95,
    ),
    Made("ct", (0.9, 0.9, 2.0), "LPS", ((0.8, 1.0, 1.6),), channels=("CT",)),
    Made(
        "ct_and_mr",
        (0.9, 0.9, 2.0),
        "RPS",
        ((0.8, 1.0, 1.6),),
        zero="around",
        channels=("CT", "MRI"),
        label_radius=0.5,
    ),
)
LABEL_NAMES = ("background", "one", "two", "three", "four")
MADE_SHAPE = (22, 26, 18)


def make_volume(made: Made) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Image and label of a made set as they are stored: four classes that meet, in noise."""
    random = np.random.RandomState(len(made.name))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in MADE_SHAPE], indexing="ij"))
    seeds = random.uniform(-0.5, 0.5, (4, 3))
    classes = np.linalg.norm(grid - seeds[:, :, None, None, None], axis=1).argmin(axis=0) + 1
    radius = np.linalg.norm(grid - np.reshape([0.1, -0.1, 0.05], (3, 1, 1, 1)), axis=0)
    outside = np.zeros(MADE_SHAPE, bool)
    if made.zero == "corner":
        outside = grid.sum(axis=0) > 0.6  # noqa: PLR2004 - cuts a corner off, through the classes
    if made.zero == "around":
        outside = radius > 0.8  # noqa: PLR2004
    label = np.where(radius < made.label_radius, classes, 0)
    if made.zero == "corner":
        label[outside] = 0
    zero = outside.copy()
    if outside.any():
        zero[8:11, 9:13, 6:9] = True  # a closed hole, which counts as inside
    channels = []
    for name in made.channels:
        tissue = 60 * label + 40 * np.sin(3 * grid[0] + 2 * grid[1] * grid[2])
        image = tissue + random.normal(0, 15, MADE_SHAPE)
        # tissue of an MR is above zero everywhere
        image = 4 * image - 500 if name == "CT" else np.maximum(image + 200, 1)
        channels.append(np.where(zero, 0, np.rint(image)) * made.scale)
    volume = np.stack(channels, axis=-1) if len(channels) > 1 else channels[0]
    kind = np.int16 if made.scale == 1 else np.int32
    affine = _affine(made)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(made.stored))
    return tuple(
        nib.Nifti1Image(array.astype(dtype), affine).as_reoriented(turn)
        for array, dtype in ((volume, kind), (label, np.uint8))
    )


def _affine(made: Made) -> np.ndarray:
    angle = np.deg2rad(made.degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ np.diag(made.spacing)
    affine[:3, 3] = [-30, 12, 400]
    return affine


def write_made(made: Made, folder: Path) -> dict[str, np.ndarray]:
    """Write a made set in MSD layout; returns its input as it is to be stored."""
    image, label = make_volume(made)
    for part, volume in (("imagesTr", image), ("labelsTr", label)):
        (folder / part).mkdir(parents=True)
        nib.save(volume, folder / part / "case.nii.gz")
    content = {
        "modality": {str(index): name for index, name in enumerate(made.channels)},
        "labels": {str(value): name for value, name in enumerate(LABEL_NAMES)},
        "training": [{"image": "imagesTr/case.nii.gz", "label": "labelsTr/case.nii.gz"}],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return {
        "made.image": np.asanyarray(image.dataobj),
        "made.label": np.asanyarray(label.dataobj),
        "made.affine": image.affine,
    }


class NnunetDataset:
    """A data set as nnU-Net sees it.

    Args:
        msd: folder in MSD layout.
        number: id for nnU-Net, below 1000.
    """

    def __init__(self, msd: Path, number: int) -> None:
        content = json.loads((msd / "dataset.json").read_text())
        self.name = f"Dataset{number:03d}_{msd.name}"
        self.channels = [content["modality"][key] for key in sorted(content["modality"], key=int)]
        self.labels = [content["labels"][key] for key in sorted(content["labels"], key=int)]
        self.raw = Path(os.environ["nnUNet_raw"]) / self.name
        self.preprocessed = Path(os.environ["nnUNet_preprocessed"]) / self.name
        self.json = {
            "channel_names": {str(index): name for index, name in enumerate(self.channels)},
            "labels": {name: value for value, name in enumerate(self.labels)},
            "numTraining": len(content["training"]),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
        }
        self._convert(msd, [(case["image"], case["label"]) for case in content["training"]])

    def _convert(self, msd: Path, cases: Sequence[tuple[str, str]]) -> None:
        from nnunetv2.dataset_conversion.convert_MSD_dataset import (  # noqa: PLC0415
            split_4d_nifti,
        )

        for part in ("imagesTr", "labelsTr"):
            (self.raw / part).mkdir(parents=True)
        (self.raw / "dataset.json").write_text(json.dumps(self.json))
        for image, label in cases:
            split_4d_nifti(str(msd / image), str(self.raw / "imagesTr"))
            shutil.copy(msd / label, self.raw / "labelsTr" / Path(image).name)

    def fingerprint(self) -> dict[str, Any]:
        """What nnU-Net finds in the cases."""
        from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (  # noqa: PLC0415
            DatasetFingerprintExtractor,
        )

        DatasetFingerprintExtractor(self.name, num_processes=1).run(overwrite_existing=True)
        return json.loads((self.preprocessed / "dataset_fingerprint.json").read_text())

    def plans(self, variant: str, target: Spacing | None) -> dict[str, Any]:
        """nnU-Net's plans, for its own spacing or for ``target`` (x, y, z)."""
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (  # noqa: PLC0415
            ExperimentPlanner,
        )

        spacing = None if target is None else list(target[::-1])
        ExperimentPlanner(
            self.name, plans_name=variant, overwrite_target_spacing=spacing
        ).plan_experiment()
        return json.loads((self.preprocessed / f"{variant}.json").read_text())

    def preprocess(
        self, case: str, plans: dict[str, Any], configuration: str
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Image ``[C, D, H, W]``, label ``[D, H, W]`` and geometry of one case, by nnU-Net's own preprocessor."""
        from nnunetv2.preprocessing.preprocessors.default_preprocessor import (  # noqa: PLC0415
            DefaultPreprocessor,
        )
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415

        manager = PlansManager(plans)
        images = sorted(str(path) for path in (self.raw / "imagesTr").glob(f"{case}_????.nii.gz"))
        image, label, properties = DefaultPreprocessor(verbose=False).run_case(
            images,
            str(self.raw / "labelsTr" / f"{case}.nii.gz"),
            manager,
            manager.get_configuration(configuration),
            self.json,
        )
        return image, label[0], properties


def array_orientation(direction: Sequence[float], transpose: Sequence[int]) -> str:
    """Where the axes of nnU-Net's array point, e.g. ``SPL``, from SimpleITK's direction matrix (LPS)."""
    to_ras = np.diag([-1.0, -1.0, 1.0]) @ np.reshape(direction, (3, 3))
    affine = np.eye(4)
    affine[:3, :3] = to_ras
    # SimpleITK gives arrays as (z, y, x)
    codes = ornt2axcodes(io_orientation(affine))[::-1]
    return "".join(codes[axis] for axis in transpose)


def draw_voxels(label: np.ndarray, real: bool) -> np.ndarray:
    """Flat indices of the voxels to keep, half of them foreground where there is enough; ``[N]`` int32, sorted."""
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
    """What of nnU-Net's plan is compared."""
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
                # equal arrays of two configurations are kept once
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
    # 0 makes its planner fail, more than one makes processes
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

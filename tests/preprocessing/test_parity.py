"""The same cases planned and prepared by nnU-Net v2 2.8.1 and by this project: plans and voxels must agree.

The references in parity/ are nnU-Net's own results (tests/preprocessing/parity/make). nnU-Net keeps the order and the
direction of the axes in the file; here they follow the plan's axcodes. Arrays are turned to nnU-Net's for comparison.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_nifti
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

from dynunet_bundle.dataset.case_errors import apply_to_case
from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.dataset.select import load_dataset
from dynunet_bundle.files import write_json
from dynunet_bundle.planning.fingerprint import AXCODES, Fingerprint, extract_fingerprint
from dynunet_bundle.planning.planner import make_plan

PARITY = Path(__file__).parent / "parity"
MAX_DIFFERENCE_STD = 1e-3
MIN_SHARE = 0.999
SCHEMES = {"CTNormalization": "ct", "ZScoreNormalization": "zscore"}
CANONICAL = str.maketrans("LPI", "RAS")
DIFFERENT = {
    "made_brain_label_beyond_edge": "where there is a label, nnU-Net counts labelled voxels outside the nonzero mask "
    "as inside; for an image without a label it does not",
    "made_brain_label_to_edge-0.8x1.3x0.9": "nnU-Net resamples the background outside the nonzero mask as a class of "
    "its own: each half of the background loses to a class that has less than both together",
    "made_oblique-0.88x1.2x0.64": "26 voxels of 1.1 mm are 32.5 of 0.88 mm: nnU-Net's spacing, from the header, is "
    "rounded up, that of the affine down",
}
"""Known differences: start of a reference's name, and the cause."""

OTHER_SLICES = {
    "spinalcord_t2_psr-2d": "isotropic: nnU-Net cuts 2D slices across the last axis of the file (here sagittal), this "
    "project axial ones"
}
MAX_DRAWN_STD = 5e-3
SPACING_TOLERANCE = 1e-6


@lru_cache
def reference_file(name: str) -> dict[str, Any]:
    """The stored reference of one data set: the arrays, and the facts parsed from JSON."""
    with np.load(PARITY / f"{name}.npz", allow_pickle=False) as stored:
        content = dict(stored)
    return {**content, "facts": json.loads(str(content["facts"]))}


@dataclass(frozen=True)
class Reference:
    """One case prepared by nnU-Net."""

    dataset: str
    variant: str
    configuration: str
    case: str

    def __str__(self) -> str:
        return f"{self.dataset}-{self.variant}-{self.configuration}-{self.case}"

    @property
    def facts(self) -> dict[str, Any]:
        return reference_file(self.dataset)["facts"]

    @property
    def plan(self) -> dict[str, Any]:
        variant = self.facts["variants"][self.variant]
        return variant["configurations"][self.configuration]["plan"]

    @property
    def prepared(self) -> dict[str, Any]:
        variant = self.facts["variants"][self.variant]
        return variant["configurations"][self.configuration]["cases"][self.case]

    def array(self, what: str) -> np.ndarray:
        return reference_file(self.dataset)[f"{self.prepared['array']}.{what}"]

    @property
    def axcodes(self) -> str:
        """Axcodes of the plan, with nnU-Net's first axis, which a 2D plan does not resample.

        If a flip would decide ties, they are nnU-Net's orientation: halfway between two voxels nnU-Net takes the
        one that is later in the file, so its result depends on how a case is stored.
        """
        orientation = self.prepared["orientation"]
        axcodes = next(
            codes for codes in AXCODES if codes[0] == orientation.translate(CANONICAL)[0]
        )
        sizes = zip(orientation, self.prepared["cropped"], self.prepared["shape"], strict=True)
        flipped_ties = any(has_ties(old, new) for code, old, new in sizes if code not in axcodes)
        return orientation if flipped_ties else axcodes

    def overrides(self) -> dict[str, Any]:
        """nnU-Net's plan, converted to ids of train.json."""
        facts, plan = self.facts, self.plan
        dims = len(plan["spacing"])
        theirs = self.prepared["orientation"].translate(CANONICAL)[-dims:]
        spacing = dict(zip(theirs, plan["spacing"], strict=True))
        return {
            "spatial_dims": dims,
            "axcodes": self.axcodes,
            "channel_names": facts["channels"],
            "label_names": facts["labels"],
            "label_values": list(range(len(facts["labels"]))),
            "spacing": [spacing[code] for code in self.axcodes.translate(CANONICAL)[-dims:]],
            "patch_size": [16] * dims,
            "kernel_sizes": [[3] * dims] * 3,
            "strides": [[1] * dims] + [[2] * dims] * 2,
            "normalization": normalization(plan),
            "intensity_statistics": [
                ct_statistics(facts, channel) if scheme == "ct" else None
                for channel, scheme in enumerate(normalization(plan))
            ],
        }


def has_ties(old_size: int, new_size: int) -> bool:
    """Whether centres of new voxels are halfway between old ones: (2 i + 1) old / new is even for some i."""
    return old_size != new_size and old_size // math.gcd(old_size, new_size) % 2 == 0


def normalization(plan: dict[str, Any]) -> list[str]:
    """nnU-Net's schemes under this project's names."""
    schemes = zip(plan["normalization_schemes"], plan["use_mask_for_norm"], strict=True)
    return ["zscore_nonzero" if masked else SCHEMES[scheme] for scheme, masked in schemes]


def ct_statistics(facts: dict[str, Any], channel: int) -> dict[str, float]:
    found = facts["fingerprint"]["foreground_intensity_properties_per_channel"][str(channel)]
    return {
        "lower": found["percentile_00_5"],
        "upper": found["percentile_99_5"],
        "mean": found["mean"],
        "std": found["std"],
    }


def all_references(real: bool) -> Iterator[Any]:
    for path in sorted(PARITY.glob("*.npz")):
        facts = reference_file(path.stem)["facts"]
        if (facts["folder"] is not None) != real:
            continue
        for variant, content in facts["variants"].items():
            for configuration, found in content["configurations"].items():
                for case in found["cases"]:
                    reference = Reference(path.stem, variant, configuration, case)
                    causes = [
                        why for name, why in DIFFERENT.items() if str(reference).startswith(name)
                    ]
                    marks = [pytest.mark.xfail(reason=why, raises=AssertionError) for why in causes]
                    yield pytest.param(reference, id=str(reference), marks=marks)


def made_case(dataset: str, folder: Path) -> dict[str, str]:
    """Write the input of a synthetic set."""
    content = reference_file(dataset)
    affine = content["made.affine"]
    return {
        key: str(save_nifti(folder / f"{key}s/case.nii.gz", content[f"made.{key}"], affine))
        for key in ("image", "label")
    }


def turned(array: np.ndarray, axcodes: str, orientation: str) -> np.ndarray:
    """Reorient ``[C, D, H, W]`` from ``axcodes`` to ``orientation``."""
    turn = ornt_transform(axcodes2ornt(axcodes), axcodes2ornt(orientation))
    return np.moveaxis(apply_orientation(np.moveaxis(array, 0, -1), turn), -1, 0)


def prepare(
    reference: Reference, case: dict[str, str], train_workflow: Callable[..., Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Image ``[C, D, H, W]`` and label ``[1, D, H, W]`` as train.json prepares them, turned to nnU-Net's axes."""
    workflow = train_workflow(**reference.overrides())
    result = apply_to_case(case, workflow.parser.get_parsed_content("preprocessing"))
    image, label = (
        turned(
            result[key].as_tensor().numpy(), reference.axcodes, reference.prepared["orientation"]
        )
        for key in ("image", "label")
    )
    return image, label


def check(reference: Reference, image: np.ndarray, label: np.ndarray) -> None:
    prepared = reference.prepared
    assert list(image.shape[1:]) == list(label.shape[1:]) == prepared["shape"]
    std = np.array(prepared["std"])
    voxels = reference.array("voxels")
    ours = image.reshape(len(image), -1)[:, voxels]
    close = np.abs(ours - reference.array("image")) <= MAX_DIFFERENCE_STD * std[:, np.newaxis]
    assert close.mean() >= MIN_SHARE, f"{1 - close.mean():.3%} of the voxels differ"
    found = label.reshape(-1)[voxels].astype(np.uint8)
    if f"{prepared['array']}.label" in reference_file(reference.dataset):
        # nnU-Net marks the background outside the nonzero mask
        equal = found == np.maximum(reference.array("label"), 0)
        assert equal.mean() >= MIN_SHARE, f"{1 - equal.mean():.3%} of the labels differ"
    else:
        assert hashlib.sha256(found.tobytes()).hexdigest() == prepared["label_sha256"]
    # and where no voxel was drawn
    exact = image.astype(np.float64)
    np.testing.assert_allclose(
        exact.mean(axis=(1, 2, 3)), prepared["mean"], atol=MAX_DIFFERENCE_STD * std.min()
    )
    np.testing.assert_allclose(exact.std(axis=(1, 2, 3)), std, rtol=MAX_DIFFERENCE_STD)
    counted = dict.fromkeys(range(len(reference.facts["labels"])), 0)
    for value, count in prepared["label_voxels"].items():
        counted[max(int(value), 0)] += count
    found = np.bincount(label.reshape(-1), minlength=len(counted))
    np.testing.assert_allclose(
        found, list(counted.values()), atol=(1 - MIN_SHARE) * label.size, rtol=0
    )


@pytest.mark.parametrize("reference", all_references(real=False))
def test_a_made_case_is_prepared_as_nnunet_prepares_it(
    reference: Reference, tmp_path: Path, train_workflow: Callable[..., Any]
):
    check(
        reference,
        *prepare(reference, made_case(reference.dataset, tmp_path / "raw"), train_workflow),
    )


@pytest.mark.parametrize("reference", all_references(real=True))
def test_a_real_case_is_prepared_as_nnunet_prepares_it(
    reference: Reference, real_data: Path, train_workflow: Callable[..., Any]
):
    folder = real_data / reference.facts["folder"]
    case = {
        "image": str(folder / "imagesTr" / f"{reference.case}.nii.gz"),
        "label": str(folder / "labelsTr" / f"{reference.case}.nii.gz"),
    }
    check(reference, *prepare(reference, case, train_workflow))


# --- plans


@lru_cache
def our_facts(folder: Path) -> tuple[DatasetDescription, Fingerprint]:
    dataset = load_dataset(folder)
    return dataset, extract_fingerprint(dataset)


def made_dataset(name: str, folder: Path) -> Path:
    facts = reference_file(name)["facts"]
    case = made_case(name, folder)
    content = {
        "modality": {str(index): channel for index, channel in enumerate(facts["channels"])},
        "labels": {str(value): label for value, label in enumerate(facts["labels"])},
        "training": [{key: str(Path(path).relative_to(folder)) for key, path in case.items()}],
    }
    write_json(folder / "dataset.json", content)
    return folder


def all_plans(real: bool) -> Iterator[Any]:
    for path in sorted(PARITY.glob("*.npz")):
        facts = reference_file(path.stem)["facts"]
        if (facts["folder"] is not None) == real:
            for configuration in facts["variants"]["own"]["configurations"]:
                name = f"{path.stem}-{configuration}"
                marks = [
                    pytest.mark.xfail(reason=why, raises=AssertionError)
                    for known, why in OTHER_SLICES.items()
                    if known == name
                ]
                yield pytest.param(path.stem, configuration, id=name, marks=marks)


def check_fingerprint(found: Fingerprint, facts: dict[str, Any], axes: list[int]) -> None:
    """``axes``: for each of our axes, nnU-Net's axis in the file."""
    theirs = facts["fingerprint"]
    shapes = np.array(theirs["shapes_after_crop"])[:, axes]
    np.testing.assert_array_equal(found.shapes_after_crop, shapes)
    # nnU-Net's are the header's, ours the affine's
    np.testing.assert_allclose(
        found.spacings_mm, np.array(theirs["spacings"])[:, axes], rtol=SPACING_TOLERANCE
    )
    relative_size = theirs["median_relative_size_after_cropping"]
    assert found.median_relative_size == pytest.approx(relative_size, rel=1e-9)
    for channel, statistics in theirs["foreground_intensity_properties_per_channel"].items():
        ours = found.intensities[int(channel)]
        for name, value in statistics.items():
            # nnU-Net draws voxels at random for them
            drawn = 0 if name in ("min", "max") else MAX_DRAWN_STD * statistics["std"]
            assert ours[name] == pytest.approx(value, abs=drawn, rel=1e-6), (channel, name)


def check_plan(name: str, configuration: str, folder: Path) -> None:
    facts = reference_file(name)["facts"]
    own = facts["variants"]["own"]
    content = own["configurations"][configuration]
    theirs = content["plan"]
    dims = len(theirs["spacing"])
    transposed = next(iter(content["cases"].values()))["orientation"].translate(CANONICAL)
    in_file = [transposed[own["transpose_forward"].index(axis)] for axis in range(3)]
    dataset, found = our_facts(folder)
    check_fingerprint(found, facts, [in_file.index(code) for code in found.axcodes])
    plan = make_plan(dataset, found, configuration)
    assert set(plan.axcodes[-dims:]) == set(transposed[-dims:])
    order = [transposed[-dims:].index(code) for code in plan.axcodes[-dims:]]

    def ordered(values: list[Any]) -> list[Any]:
        return [values[axis] for axis in order]

    np.testing.assert_allclose(plan.spacing, ordered(theirs["spacing"]), rtol=SPACING_TOLERANCE)
    assert plan.patch_size == ordered(theirs["patch_size"])
    assert plan.strides == [ordered(stride) for stride in theirs["strides"]]
    assert plan.kernel_sizes == [ordered(kernel) for kernel in theirs["kernels"]]
    assert plan.filters == theirs["features"]
    assert (plan.batch_size, plan.batch_dice) == (theirs["batch_size"], theirs["batch_dice"])
    assert plan.normalization == normalization(theirs)
    for channel, statistics in enumerate(plan.intensity_statistics):
        if plan.normalization[channel] == "ct":
            expected = ct_statistics(facts, channel)
            assert statistics == pytest.approx(expected, abs=MAX_DRAWN_STD * expected["std"])
        else:
            assert statistics is None


@pytest.mark.parametrize(("name", "configuration"), all_plans(real=False))
def test_a_made_set_is_planned_as_nnunet_plans_it(name: str, configuration: str, tmp_path: Path):
    check_plan(name, configuration, made_dataset(name, tmp_path / name))


@pytest.mark.parametrize(("name", "configuration"), all_plans(real=True))
def test_a_real_set_is_planned_as_nnunet_plans_it(name: str, configuration: str, real_data: Path):
    folder = reference_file(name)["facts"]["folder"]
    check_plan(name, configuration, real_data / folder)

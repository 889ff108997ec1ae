"""Synthetic cross-validations of a synthetic data set, in the form that dynunet-bundle train writes."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from conftest import BUNDLE, save_nifti
from monai.data import MetaTensor

from dynunet_bundle.cross_validation.results import ResultFolder, fold_record
from dynunet_bundle.evaluation.dice import dice_by_target
from dynunet_bundle.evaluation.scores import summarize
from dynunet_bundle.files import write_json
from dynunet_bundle.inference.probabilities import SaveProbabilitiesd
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.planning.plan import plan_from

SHAPE = (14, 12, 8)
AFFINE = np.array([[-1.2, 0, 0, 5], [0, 0, 2, -3], [0, 1.2, 0, 1], [0, 0, 0, 1.0]])
CASES = [f"case_{index}" for index in range(6)]
HELD_OUT = [CASES[0:2], CASES[2:4], CASES[4:6]]
DEFAULT_PLAN = plan_from(json.loads((BUNDLE / "configs" / "train.json").read_text())).overlay()
PLAN = {
    **DEFAULT_PLAN,
    "task_name": "Task77_Made",
    "label_names": ["background", "organ", "lesion"],
    "label_values": [0, 1, 2],
}
REGION_PLAN = {
    **PLAN,
    "label_values": [0, 1, 5],
    "regions": {"whole": [1, 5], "lesion": [5]},
    "regions_class_order": [1, 5],
}


def truth_of(case: str) -> np.ndarray:
    """Class numbers of the label of a case: an organ with a lesion in it."""
    shift = CASES.index(case) % 3
    truth = np.zeros(SHAPE, np.uint8)
    truth[2 + shift : 9 + shift, 2:9, 1:6] = 1
    truth[4 + shift : 7 + shift, 4:7, 2:5] = 2
    return truth


def make_dataset(folder: Path, plan: Mapping[str, Any] = PLAN, ignored: int | None = None) -> Path:
    """Images and labels in MSD layout; if ``ignored`` is given, one row of each label has that value."""
    values = np.array(plan["label_values"], np.int16)
    entries = []
    for case in CASES:
        save_nifti(folder / "imagesTr" / f"{case}.nii.gz", np.ones(SHAPE, np.float32), AFFINE)
        label = values[truth_of(case)]
        if ignored is not None:
            label[:, 2] = ignored
        save_nifti(folder / "labelsTr" / f"{case}.nii.gz", label, AFFINE)
        names = {key: f"./{key}sTr/{case}.nii.gz" for key in ("image", "label")}
        entries.append(names)
    labels = dict(zip(map(str, plan["label_values"]), plan["label_names"], strict=True))
    if ignored is not None:
        labels[str(ignored)] = "ignore"
    write_json(
        folder / "dataset.json",
        {"modality": {"0": "CT"}, "labels": labels, "training": entries, "test": []},
    )
    return folder


def noisy_probabilities(seed: int, share: float) -> Callable[[str], np.ndarray]:
    """Softmax of a model that is wrong and uncertain in some voxels, which depend on the seed."""

    def probabilities(case: str) -> np.ndarray:
        rng = np.random.default_rng([seed, CASES.index(case)])
        truth = truth_of(case)
        right = np.stack([truth == number for number in range(3)]).astype(float)
        wrong = np.roll(right, 1, axis=0)
        errs = rng.random(SHAPE) < share
        return np.where(errs, 0.56 * wrong + 0.44 * right, 0.8 * right + 0.2 * wrong)

    return probabilities


def as_regions(probabilities: np.ndarray) -> np.ndarray:
    """Sigmoids of the organ including its lesion, and of the lesion."""
    return np.stack([probabilities[1] + probabilities[2], probabilities[2]])


def decide(probabilities: np.ndarray, plan: Mapping[str, Any]) -> np.ndarray:
    """Class numbers decided from a model's own probabilities."""
    if plan["regions"] is None:
        return probabilities.argmax(0).astype(np.uint8)
    return np.where(probabilities[1] > 0.5, 2, probabilities[0] > 0.5).astype(np.uint8)


def make_run(
    folder: Path,
    probabilities: Callable[[str], np.ndarray],
    plan: Mapping[str, Any] = PLAN,
    held_out: Sequence[Sequence[str]] = HELD_OUT,
    save: bool = True,
    folds: Sequence[int] | None = None,
) -> Path:
    """A run folder with fold files, masks, models and, if ``save``, probabilities."""
    results = ResultFolder(folder / "cross_validation")
    results.predictions.mkdir(parents=True)
    labels = LabelScheme.from_plan(plan)
    for fold, cases in enumerate(held_out):
        if folds is not None and fold not in folds:
            continue
        scores = {}
        for case in cases:
            found = probabilities(case)
            mask = decide(found, plan)
            scores[case] = dice_by_target(mask, truth_of(case), labels.target_classes)
            values = np.array(plan["label_values"], np.int16)[mask]
            save_nifti(results.predictions / f"{case}.nii.gz", values, AFFINE)
            if save:
                save_probabilities(folder, case, found, plan)
        record = fold_record(
            fold, summarize(scores, labels.target_names), plan, held_out, {"epoch": 3}
        )
        write_json(results.fold_file(fold), record)
        model = folder / f"fold_{fold}" / "models" / "model.pt"
        model.parent.mkdir(parents=True)
        model.touch()
    return folder


def save_probabilities(
    folder: Path, case: str, found: np.ndarray, plan: Mapping[str, Any] = PLAN
) -> None:
    """Save the probabilities of a case into a run."""
    tensor = MetaTensor(
        torch.from_numpy(found),
        affine=torch.from_numpy(AFFINE),
        meta={"filename_or_obj": f"{case}.nii.gz"},
    )
    SaveProbabilitiesd(
        "probability",
        str(folder / "cross_validation" / "probabilities"),
        LabelScheme.from_plan(plan),
    )({"probability": tensor})


def change_mask(run: Path, case: str, value: int) -> None:
    """Set the voxel at the origin of a mask to a value."""
    path = run / "cross_validation" / "predictions" / f"{case}.nii.gz"
    array = np.asarray(nib.load(path).dataobj).copy()
    array[0, 0, 0] = value
    save_nifti(path, array, AFFINE)

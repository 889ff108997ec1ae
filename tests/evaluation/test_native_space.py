"""Scores of the same masks by the evaluator and by the script, on a non-trivial grid."""

import json

import nibabel as nib
import numpy as np
import pytest
from conftest import BUNDLE, TINY

from dynunet_bundle.evaluation.mask_folders import find_masks, measure_masks

AFFINE = np.array([[0, 0, 2.5, 3], [-0.9, 0.3, 0, 40], [0.3, 0.9, 0, -7], [0, 0, 0, 1.0]])
"""Voxels of 0.95 x 0.95 x 2.5 mm, stored P, S, R and turned by 18 degrees."""


@pytest.fixture
def oblique(own_phantom):
    for path in own_phantom.glob("*/*.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), AFFINE), path)
    return own_phantom


def test_the_evaluator_measures_what_the_script_does(train_workflow, oblique, tmp_path):
    settings = {"dataset_dir": oblique, "spacing": [2.5, 2.0, 2.0], "epochs": 1}
    train_workflow(**settings).run()
    # nested ids are merged into train.json as MONAI merges files
    evaluating = json.loads((BUNDLE / "configs" / "evaluate.json").read_text())
    masks = tmp_path / "masks"
    train_workflow(**settings, **{**evaluating, "masks_dir": str(masks)}).run()
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["nsd_tolerance_mm"] == 1
    pairs = find_masks(str(masks), str(oblique / "labelsTr"), label_names=TINY["label_names"])
    measures, names = measure_masks(pairs), pairs.labels.target_names
    assert set(measures) == set(scores["measures"]) and measures
    assert any(row["hd95_mm"] for rows in measures.values() for row in rows)
    for case, rows in measures.items():
        for name, row in zip(names[1:], rows, strict=True):
            assert scores["measures"][case][name] == pytest.approx(row, abs=1e-4)
            assert scores["cases"][case][name] == row["dice"]
            label = nib.load(oblique / "labelsTr" / f"{case}.nii.gz")
            size = np.sum(np.asarray(label.dataobj) == names.index(name))
            assert row["reference_volume_ml"] == pytest.approx(size * 0.9 * 2.5 / 1000)

"""One rule for the same grid: all code that combines files accepts and refuses the same ones."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import save_nifti

from dynunet_bundle.best_configuration.candidates import Candidate, ReferenceLabels
from dynunet_bundle.best_configuration.run_results import RunResults
from dynunet_bundle.errors import CaseError
from dynunet_bundle.evaluation.mask_folders import find_masks
from dynunet_bundle.images.grid import corner_shift, grid_difference, same_grid
from dynunet_bundle.images.read import Volume, read_channels
from dynunet_bundle.inference.ensemble import require_alike
from dynunet_bundle.inference.probabilities import ProbabilityFile
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.report.pictures import CaseFiles, draw_case
from dynunet_bundle.survey.problems import find_problems

SHAPE = (501, 4, 3)
PLAN = {"label_names": ["background", "organ"], "label_values": [0, 1]}
LABELS = LabelScheme.from_plan(PLAN)


def mask() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[200:300, 1:3, 1] = 1
    return array


def two_files(folder: Path, other: np.ndarray, names: tuple[str, str]) -> list[Path]:
    places = zip(names, (np.eye(4), other), strict=True)
    return [save_nifti(folder / name, mask(), affine) for name, affine in places]


def channels(folder: Path, other: np.ndarray) -> None:
    read_channels([str(f) for f in two_files(folder, other, ("a_0000.nii.gz", "a_0001.nii.gz"))])


def survey(folder: Path, other: np.ndarray) -> None:
    image, label = Volume(mask()[None], np.eye(4)), Volume(mask()[None], other)
    for problem, remedy in find_problems(image, label, 1, [0, 1]):
        raise CaseError("a", problem, remedy)


def ensemble(folder: Path, other: np.ndarray) -> None:
    members = [
        {"a": ProbabilityFile("a", folder / "a.npy", "a.nii.gz", SHAPE, affine, LABELS)}
        for affine in (np.eye(4), other)
    ]
    require_alike(members, ["one", "two"])


def best_configuration(folder: Path, other: np.ndarray) -> None:
    label, found = two_files(folder, other, ("labels/a.nii.gz", "masks/a.nii.gz"))
    run = RunResults("run", folder, PLAN, [["a"]], {"a": [1.0]}, {"a": found}, None, None)
    Candidate((run,)).compare("a", ReferenceLabels({"a": label}, LABELS))


def report(folder: Path, other: np.ndarray) -> None:
    prediction, image = two_files(folder, other, ("prediction.nii.gz", "image.nii.gz"))
    note = draw_case(CaseFiles("a", image, prediction)).note
    if note:
        raise CaseError("a", note, "Resample it.")


def evaluation(folder: Path, other: np.ndarray) -> None:
    two_files(folder, other, ("labels/a.nii.gz", "predictions/a.nii.gz"))
    find_masks(str(folder / "predictions"), str(folder / "labels"))


PLACES = [channels, survey, ensemble, best_configuration, report, evaluation]


@pytest.mark.parametrize("place", PLACES)
def test_a_shifted_origin_of_a_few_hundredths_of_a_voxel_is_accepted(
    tmp_path: Path, place: Callable[[Path, np.ndarray], None]
):
    other = np.eye(4)
    other[1, 3] = 0.02
    place(tmp_path, other)


@pytest.mark.parametrize("place", PLACES)
def test_a_small_shear_that_adds_up_over_many_voxels_is_refused(
    tmp_path: Path, place: Callable[[Path, np.ndarray], None]
):
    other = np.eye(4)
    other[1, 0] = 0.005  # 2.5 mm at voxel 500
    with pytest.raises(CaseError, match=r"2\.5 voxels apart|on different grids\."):
        place(tmp_path, other)


def test_corner_shift_is_in_voxels_of_the_first():
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    other = affine.copy()
    other[2, 3] = 5
    assert corner_shift(affine, other, (7, 6, 5)) == pytest.approx(2.5)
    # 1 % wider voxels: the far corner, 6 voxels away
    wider = affine @ np.diag([1.01, 1, 1, 1])
    assert corner_shift(affine, wider, (7, 6, 5)) == pytest.approx(0.06)
    assert corner_shift(affine, affine, (1, 1, 1)) == 0


def test_positions_are_not_compared_in_voxels_without_volume():
    flat = np.diag([1.0, 1, 0, 1])
    assert corner_shift(flat, np.eye(4), SHAPE) == 0
    assert same_grid(SHAPE, flat, SHAPE, np.eye(4))


def test_a_difference_names_both_shapes():
    difference = grid_difference((5, 5, 6), np.eye(4), (5, 5, 5), np.eye(4))
    assert difference == "have shapes (5, 5, 6) and (5, 5, 5)"
    assert grid_difference(SHAPE, np.eye(4), SHAPE, np.eye(4)) is None


def test_an_affine_in_float32_is_the_same_grid(tmp_path: Path):
    affine = np.diag([0.7, 0.7, 1.25, 1.0]) + np.outer([211.3, -187.9, 900.1, 0], [0, 0, 0, 1])
    path = save_nifti(tmp_path / "a.nii.gz", np.zeros((512, 512, 3), np.uint8), affine)
    assert same_grid((512, 512, 3), affine, (512, 512, 3), nib.load(path).affine)

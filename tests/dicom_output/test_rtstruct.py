"""Outlines of masks enclose their voxels exactly, and structure sets store them in patient coordinates."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import label

pytest.importorskip("highdicom")

from helpers.dicom_readers import fill, read_rtstruct
from out_checks import ALGORITHM, KNOWN, NO_DICOMDIR, PRIVATE_CODE, require_valid
from out_series import DIRECTIONS, LABELS, OBLIQUE, SHAPE, made_mask, made_series
from pydicom import dcmread

from dynunet_bundle.dicom_input.series import load_series
from dynunet_bundle.dicom_output.outlines import outlines
from dynunet_bundle.dicom_output.rtstruct import write_rtstruct
from dynunet_bundle.errors import OutputError


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def windings(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Winding number of a polygon around each point: the sum of the angles of its edges seen from the point."""
    seen = polygon[np.newaxis] - points[:, np.newaxis]
    angles = np.unwrap(np.arctan2(seen[..., 1], seen[..., 0]), axis=1)
    step = np.angle(np.exp(1j * (angles[:, 0] - angles[:, -1])))
    return np.round((angles[:, -1] + step - angles[:, 0]) / (2 * np.pi)).astype(int)


@pytest.mark.parametrize("density", [0.2, 0.5, 0.8, 0.95])
def test_outlines_enclose_the_voxels_and_nothing_else(density: float) -> None:
    random = np.random.default_rng(0)
    for _ in range(60):
        mask = random.random(random.integers(1, 12, 2)) < density
        found = outlines(mask)
        # one polygon a piece, also where pieces touch at a corner or have holes
        assert len(found) == label(mask)[1]
        assert sum(map(area, found)) == mask.sum()
        points = np.argwhere(np.ones_like(mask))
        around = sum((windings(polygon, points) for polygon in found), np.zeros(mask.size, int))
        np.testing.assert_array_equal(around.reshape(mask.shape), mask)
        np.testing.assert_array_equal(fill(found, mask.shape), mask)


def test_outline_of_a_ring_is_a_keyhole() -> None:
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    (polygon,) = outlines(mask)
    corners = {tuple(point) for point in polygon.tolist()}
    assert corners == {
        *((-0.5, -0.5), (4.5, -0.5), (4.5, 4.5), (-0.5, 4.5)),
        *((1.5, 1.5), (2.5, 1.5), (2.5, 2.5), (1.5, 2.5)),
        # where the channel ends
        (-0.5, 1.5),
    }


def test_filling_takes_contours_of_any_program() -> None:
    square = np.array([[1, 1], [6, 1], [6, 6], [1, 6]], float) + 0.1
    hole = np.array([[2, 2], [2, 4], [4, 4], [4, 2]], float) + 0.1
    mask = np.zeros((8, 8), bool)
    mask[2:7, 2:7] = True
    mask[3:5, 3:5] = False
    np.testing.assert_array_equal(fill([square, hole], (8, 8)), mask)
    # a contour that leaves the slice is clipped at its border
    np.testing.assert_array_equal(fill([square + 4], (8, 8))[6:, 6:], np.ones((2, 2)))
    assert fill([square + 4], (8, 8)).sum() == 4
    assert not fill([square + 9, square - 9], (8, 8)).any()


def write(mask: np.ndarray, series: Any, path: Path, **changes: Any) -> Path:
    settings = {"labels": LABELS, "path": path, "algorithm": ALGORITHM, **changes}
    assert write_rtstruct(mask, series, **settings) == path
    return path


@pytest.mark.parametrize("enhanced", [False, True], ids=["slices", "enhanced"])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_round_trip(name: str, enhanced: bool, tmp_path: Path) -> None:
    series = made_series(DIRECTIONS[name], enhanced=enhanced)
    mask = made_mask()
    path = write(mask, series, tmp_path / "rt.dcm")
    np.testing.assert_array_equal(read_rtstruct(path, series), mask)


@pytest.mark.parametrize("enhanced", [False, True], ids=["slices", "enhanced"])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_contours_lie_around_the_voxels_in_millimetres(
    name: str, enhanced: bool, tmp_path: Path
) -> None:
    series = made_series(DIRECTIONS[name], enhanced=enhanced)
    mask = np.zeros(SHAPE, np.uint8)
    mask[3, 8, 5] = 1
    dataset = dcmread(write(mask, series, tmp_path / "rt.dcm"))
    (contour,) = dataset.ROIContourSequence[0].ContourSequence
    points = np.array(contour.ContourData, float).reshape(-1, 3) * [-1, -1, 1]
    corners = np.array([[2.5, 7.5, 5], [3.5, 7.5, 5], [3.5, 8.5, 5], [2.5, 8.5, 5]])
    wanted = corners @ series.affine[:3, :3].T + series.affine[:3, 3]
    assert {tuple(point) for point in points.round(2) + 0.0} == {
        tuple(point) for point in wanted.round(2) + 0.0
    }
    image = contour.ContourImageSequence[0]
    if enhanced:
        assert image.ReferencedFrameNumber == series.frame_numbers[5]
    else:
        assert image.ReferencedSOPInstanceUID == series.headers[5].SOPInstanceUID


def test_regions_carry_codes_colours_and_values(tmp_path: Path) -> None:
    path = write(
        made_mask(),
        made_series(),
        tmp_path / "rt.dcm",
        labels={"left kidney": 1, "tumor": 2, "x": 5},
    )
    dataset = dcmread(path)
    regions = dataset.StructureSetROISequence
    assert [item.ROIName for item in regions] == ["left kidney", "tumor", "x"]
    assert [item.ROIDescription for item in regions] == [f"label value {i}" for i in (1, 2, 5)]
    assert dataset.ROIContourSequence[1].ROIDisplayColor == [200, 60, 60]
    observations = dataset.RTROIObservationsSequence
    assert [item.RTROIInterpretedType for item in observations] == ["ORGAN", "", ""]
    code = observations[0].RTROIIdentificationCodeSequence[0]
    assert code.CodeMeaning == "Kidney"
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    swapped = read_rtstruct(path, made_series(), {"x": 1, "tumor": 5, "left kidney": 2})
    np.testing.assert_array_equal(swapped, np.array([0, 2, 5, 0, 0, 1])[made_mask()])
    with pytest.raises(OutputError, match='has "tumor"'):
        read_rtstruct(path, made_series(), {"x": 1, "left kidney": 2})


@pytest.mark.parametrize("enhanced", [False, True], ids=["slices", "enhanced"])
def test_objects_are_valid(enhanced: bool, tmp_path: Path) -> None:
    series = made_series(OBLIQUE, enhanced=enhanced)
    require_valid(write(made_mask(), series, tmp_path / "a.dcm", labels=KNOWN))
    require_valid(write(made_mask(), series, tmp_path / "b.dcm"), PRIVATE_CODE)
    bare = made_series(
        PatientBirthDate=None, PatientSex=None, StudyID=None, AccessionNumber=None, StudyDate=None
    )
    require_valid(write(made_mask(), bare, tmp_path / "c.dcm", labels=KNOWN), NO_DICOMDIR)


def test_nothing_is_written_for_an_empty_mask(tmp_path: Path) -> None:
    empty = np.zeros(SHAPE, np.uint8)
    path = tmp_path / "rt.dcm"
    assert write_rtstruct(empty, made_series(), LABELS, path, algorithm=ALGORITHM) is None
    assert not path.exists()


def test_contours_between_slices_are_refused(tmp_path: Path) -> None:
    path = write(made_mask(), made_series(), tmp_path / "rt.dcm")
    with pytest.raises(OutputError, match="voxels from slice"):
        read_rtstruct(path, made_series(spacing=(0.7, 1.3, 2.0)))
    with pytest.raises(OutputError, match="voxels from slice"):
        read_rtstruct(path, made_series(shape=(13, 11, 3)))


def test_contours_through_the_centres_of_voxels_are_read_unchanged(tmp_path: Path) -> None:
    """Other programs draw contours like this, and without our description of the label's value."""
    series = made_series(OBLIQUE)
    path = write(np.ones(SHAPE, np.uint8), series, tmp_path / "rt.dcm", labels=KNOWN)
    dataset = dcmread(path)
    (first, *_) = dataset.ROIContourSequence[0].ContourSequence
    corners = np.array([[2, 3], [2, 7], [6, 7], [6, 3]])
    contours = []
    for index in (1, 2):
        voxels = np.column_stack([corners, np.full(len(corners), index)])
        points = voxels @ series.affine[:3, :3].T + series.affine[:3, 3]
        contour = deepcopy(first)
        contour.NumberOfContourPoints = len(corners)
        contour.ContourData = [f"{value:.4f}" for value in (points * [-1, -1, 1]).ravel()]
        contours.append(contour)
    dataset.ROIContourSequence[0].ContourSequence = contours
    del dataset.StructureSetROISequence[0].ROIDescription
    dataset.save_as(tmp_path / "other.dcm")
    found = read_rtstruct(tmp_path / "other.dcm", series, KNOWN).astype(bool)
    outer, inner = np.zeros((2, *SHAPE), bool)
    outer[2:7, 3:8, 1:3] = True
    inner[3:6, 4:7, 1:3] = True
    # voxels whose centres are on the contour may be inside or outside
    assert not (found & ~outer).any() and not (inner & ~found).any()


@pytest.mark.parametrize("folder", ["Study1/13_HCropVolume", "Study1/12-T1post-05670"])
def test_real_studies(folder: str, real_data: Path, tmp_path: Path) -> None:
    source = real_data / "dicom" / folder
    if not source.is_dir():
        pytest.skip(f"{folder} is not in shared/data/dicom")
    series = load_series(str(source))
    shape = series.array.shape[1:]
    steps = [size // 3 for size in shape]
    coarse = np.random.default_rng(1).choice([0, 1, 2, 5], (4, 4, 4))
    blobs = coarse.repeat(steps[0], 0).repeat(steps[1], 1).repeat(steps[2], 2)
    blobs = blobs[: shape[0], : shape[1], : shape[2]]
    blobs[::67, ::53] = 0
    path = write(blobs, series, tmp_path / "rt.dcm", labels=KNOWN)
    np.testing.assert_array_equal(read_rtstruct(path, series), blobs)
    require_valid(path)

"""Enhanced multi-frame objects."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynunet_bundle.errors import CaseError

pytest.importorskip("pydicom")

from helpers.made_dicom import item, make_enhanced, oblique, volume
from pydicom import Dataset
from pydicom.uid import RLELossless

from dynunet_bundle.dataset.dicom_cases import find_cases
from dynunet_bundle.dicom_input.series import load_series

UID = "1.2.826.0.1.77"


@pytest.mark.parametrize("syntax", [None, RLELossless])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_frames_are_sorted_by_position(
    tmp_path: Path, order: list[int], syntax: str | None
) -> None:
    array, affine = volume(), oblique()
    make_enhanced(tmp_path / "object", array, affine, order=order, syntax=syntax)
    series = load_series(str(tmp_path))
    np.testing.assert_array_equal(series.array[0], array)
    np.testing.assert_allclose(series.affine, affine, atol=1e-5)
    assert len(series.headers) == 1 and series.headers[0].NumberOfFrames == 5
    assert [order[number - 1] for number in series.frame_numbers] == [0, 1, 2, 3, 4]


def test_file_can_be_named_itself_and_frames_have_their_own_rescaling(tmp_path: Path) -> None:
    array, slopes = volume(), np.array([1, 0.5, 2, 3, 0.25])
    file = make_enhanced(tmp_path / "object.dcm", array, oblique(), modality="CT", slopes=slopes)
    (case,) = find_cases(file)
    series = load_series(case["image"])
    np.testing.assert_array_equal(series.array[0], (array * slopes).astype(np.float32))


def test_geometry_of_each_frame_precedes_the_shared_one(tmp_path: Path) -> None:
    def move_to_frames(header: Dataset) -> None:
        shared = header.SharedFunctionalGroupsSequence[0]
        for group in header.PerFrameFunctionalGroupsSequence:
            group.PlaneOrientationSequence = shared.PlaneOrientationSequence
            group.PixelMeasuresSequence = shared.PixelMeasuresSequence
        shared.PixelMeasuresSequence = item(PixelSpacing=[9, 9], SliceThickness=9)
        del shared.PlaneOrientationSequence

    make_enhanced(tmp_path / "object", volume(), oblique(), change=move_to_frames)
    np.testing.assert_allclose(load_series(str(tmp_path)).affine, oblique(), atol=1e-5)


def two_of(tag: str, values: tuple[Any, Any], sequence: str = "FrameContentSequence") -> Any:
    """Give the first and second half of the frames different values."""

    def change(header: Dataset) -> None:
        groups = header.PerFrameFunctionalGroupsSequence
        for index, group in enumerate(groups):
            if sequence not in group:
                setattr(group, sequence, item())
            setattr(group[sequence][0], tag, values[2 * index // len(groups)])

    return change


@pytest.mark.parametrize(
    ("tag", "values", "sequence"),
    [
        ("StackID", ("1", "2"), "FrameContentSequence"),
        ("TemporalPositionIndex", (1, 2), "FrameContentSequence"),
        ("EffectiveEchoTime", (10.0, 80.0), "MREchoSequence"),
        ("DiffusionBValue", (0.0, 500.0), "MRDiffusionSequence"),
    ],
)
def test_several_stacks_are_refused_by_name_and_can_be_selected(
    tmp_path: Path, tag: str, values: tuple[Any, Any], sequence: str
) -> None:
    array = volume((7, 6, 4))
    make_enhanced(
        tmp_path / "object",
        array,
        oblique(),
        order=[0, 1, 2, 3, 3, 2, 1, 0],
        series_uid=UID,
        change=lambda header: (two_of(tag, values, sequence)(header), add_one(header)),
    )
    with pytest.raises(CaseError, match=f"8 images at 4 positions, which differ in {tag} "):
        load_series(str(tmp_path))
    name = f"{tmp_path}::{UID}::{tag}={values[1]}"
    series = load_series(name)
    np.testing.assert_array_equal(series.array[0], array + 1)
    assert series.frame_numbers == (8, 7, 6, 5)


def add_one(header: Dataset) -> None:
    """Change the second half of the frames."""
    pixels = np.frombuffer(header.PixelData, np.int16).copy()
    pixels[len(pixels) // 2 :] += 1
    header.PixelData = pixels.tobytes()


def test_frame_without_a_position_is_refused(tmp_path: Path) -> None:
    def take_out(header: Dataset) -> None:
        del header.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence

    make_enhanced(tmp_path / "object", volume(), oblique(), change=take_out)
    with pytest.raises(CaseError, match="lacks ImagePositionPatient"):
        load_series(str(tmp_path))


def test_frames_without_groups_are_refused(tmp_path: Path) -> None:
    def take_out(header: Dataset) -> None:
        del header.PerFrameFunctionalGroupsSequence[4]

    make_enhanced(tmp_path / "object", volume(), oblique(), change=take_out)
    with pytest.raises(CaseError, match="5 frames has 4 functional groups"):
        load_series(str(tmp_path))


def test_missing_frame_is_refused(tmp_path: Path) -> None:
    make_enhanced(tmp_path / "object", volume(), oblique(), order=[4, 3, 1, 0])
    with pytest.raises(CaseError, match=r"1 missing slice after slice 2 of 4"):
        load_series(str(tmp_path))


def test_stack_in_two_objects_is_refused(tmp_path: Path) -> None:
    make_enhanced(tmp_path / "a", volume(), oblique(), order=[0, 1, 2], series_uid=UID)
    make_enhanced(tmp_path / "b", volume(), oblique(), order=[3, 4], series_uid=UID)
    with pytest.raises(CaseError, match="5 slices are in 2 multi-frame objects"):
        load_series(str(tmp_path))


def test_duplicate_object_is_read_once(tmp_path: Path) -> None:
    for name in "ab":
        make_enhanced(tmp_path / name, volume(), oblique(), series_uid=UID)
    series = load_series(str(tmp_path))
    np.testing.assert_array_equal(series.array[0], volume())
    assert len(series.headers) == 1

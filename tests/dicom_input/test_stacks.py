"""Several images at one position: duplicates are dropped, stacks are selected by a tag or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynunet_bundle.errors import CaseError

pytest.importorskip("pydicom")

from helpers.made_dicom import make_series, straight, volume
from pydicom import Dataset

from dynunet_bundle.dataset.dicom_cases import find_cases
from dynunet_bundle.dicom_input.series import load_series

UID = "1.2.826.0.1.99"


def two_stacks(folder: Path, first: np.ndarray, second: np.ndarray, *tags: dict[str, Any]) -> Path:
    for number, (array, own) in enumerate(zip((first, second), tags, strict=True)):
        make_series(
            folder, array, straight(), series_uid=UID, start=number * first.shape[2], tags=own
        )
    return folder


def test_same_image_twice_is_dropped_with_a_note(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    array = volume()
    folder = make_series(tmp_path, array, straight(), series_uid=UID)
    make_series(folder, array[:, :, 2:4], moved(2), series_uid=UID, start=5)
    series = load_series(str(folder))
    np.testing.assert_array_equal(series.array[0], array)
    assert len(series.headers) == 5
    assert "dropped 2 duplicate images of the series" in log.text


def moved(slices: int) -> np.ndarray:
    affine = straight()
    affine[2, 3] += slices * 2.5
    return affine


def test_same_pixels_with_another_slope_are_not_duplicates(tmp_path: Path) -> None:
    array = volume()
    folder = make_series(tmp_path, array, straight(), series_uid=UID)
    make_series(folder, array, straight(), series_uid=UID, start=5, slopes=2.0)
    with pytest.raises(CaseError, match="10 images at 5 positions"):
        load_series(str(folder))


def test_differing_images_at_one_position_are_refused(tmp_path: Path) -> None:
    array = volume()
    folder = make_series(tmp_path, array, straight(), series_uid=UID)
    make_series(folder, array[:, :, 2:3] + 1, moved(3), series_uid=UID, start=5)
    with pytest.raises(CaseError, match="those at position 4 differ, and no tag splits them"):
        load_series(str(folder))


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        ("EchoNumbers", (1, 2)),
        ("EchoTime", (4.5, 90.0)),
        ("AcquisitionNumber", (1, 2)),
        ("TemporalPositionIdentifier", (1, 2)),
        ("DiffusionBValue", (0.0, 1000.0)),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])),
    ],
)
def test_stack_is_named_and_can_be_selected(
    tmp_path: Path, tag: str, values: tuple[Any, Any]
) -> None:
    arrays = volume(), volume() + 1
    folder = two_stacks(tmp_path, *arrays, *({tag: value} for value in values))
    with pytest.raises(CaseError, match=f"10 images at 5 positions, which differ in {tag} "):
        load_series(str(folder))
    names = set()
    for array, value in zip(arrays, values, strict=True):
        (case,) = find_cases(folder, {"select": {tag: value}})
        names.add(case["name"])
        # MONAI's LoadImaged passes names through Path
        series = load_series(str(Path(case["image"]).expanduser()))
        np.testing.assert_array_equal(series.array[0], array)
        assert series.name == case["name"]
    assert len(names) == 2


def test_private_b_values_of_vendors(tmp_path: Path) -> None:
    def siemens(value: float) -> Callable[[Dataset, int], None]:
        def change(header: Dataset, index: int) -> None:
            header.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(
                0x0C, "IS", str(value)
            )

        return change

    for number, b_value in enumerate((0, 800)):
        make_series(
            tmp_path,
            volume() + number,
            straight(),
            series_uid=UID,
            start=number * 5,
            change=siemens(b_value),
        )
    with pytest.raises(CaseError, match=r"DiffusionBValue \(0, 800\)"):
        load_series(str(tmp_path))
    np.testing.assert_array_equal(
        load_series(f"{tmp_path}::{UID}::DiffusionBValue=800").array[0], volume() + 1
    )


def test_unknown_selection_lists_values(tmp_path: Path) -> None:
    folder = two_stacks(tmp_path, volume(), volume() + 1, {"EchoNumbers": 1}, {"EchoNumbers": 2})
    with pytest.raises(CaseError, match="no image has EchoNumbers=3; its values are 1, 2"):
        load_series(f"{folder}::{UID}::EchoNumbers=3")


def test_interleaved_acquisitions_can_be_split(tmp_path: Path) -> None:
    half = straight()
    half[2, 3] += 1.0
    make_series(tmp_path, volume(), straight(), series_uid=UID, tags={"AcquisitionNumber": 1})
    make_series(
        tmp_path, volume() + 1, half, series_uid=UID, start=5, tags={"AcquisitionNumber": 2}
    )
    with pytest.raises(CaseError, match="AcquisitionNumber"):
        load_series(str(tmp_path))
    series = load_series(f"{tmp_path}::{UID}::AcquisitionNumber=2")
    np.testing.assert_array_equal(series.array[0], volume() + 1)

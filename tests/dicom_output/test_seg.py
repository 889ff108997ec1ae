"""DICOM Segmentation: every orientation, empty classes, probabilities, validity, real studies."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom")

from conftest import ROOT
from helpers.dicom_readers import read_probabilities, read_seg
from helpers.made_dicom import make_enhanced, oblique, volume
from highdicom import VolumeGeometry
from highdicom.seg import segread
from out_checks import ALGORITHM, KNOWN, PRIVATE_CODE, masks_of_segments, require_valid, write
from out_series import DIRECTIONS, LABELS, OBLIQUE, SHAPE, made_mask, made_series
from pydicom import dcmread

from dynunet_bundle.dicom_input.series import load_series
from dynunet_bundle.dicom_output.count_voxels import count_voxels
from dynunet_bundle.dicom_output.seg import (
    write_probabilities,
    write_seg,
)
from dynunet_bundle.dicom_output.slice_grid import lps_affine
from dynunet_bundle.errors import OutputError


@pytest.mark.parametrize("enhanced", [False, True], ids=["slices", "enhanced"])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_every_voxel_keeps_its_position(name: str, enhanced: bool, tmp_path: Path) -> None:
    series = made_series(DIRECTIONS[name], enhanced=enhanced)
    mask = made_mask()
    path = write(mask, series, tmp_path / "seg.dcm")
    masks = masks_of_segments(path, series)
    assert list(masks) == ["liver", "cancer", "odd thing"]
    for label, found in masks.items():
        np.testing.assert_array_equal(found, mask == LABELS[label])
    np.testing.assert_array_equal(read_seg(path, series), mask)


@pytest.mark.parametrize("enhanced", [False, True], ids=["slices", "enhanced"])
def test_frames_refer_to_the_image_below_them(enhanced: bool, tmp_path: Path) -> None:
    series = made_series(OBLIQUE, enhanced=enhanced)
    dataset = dcmread(write(made_mask(), series, tmp_path / "seg.dcm"))
    assert dataset.FrameOfReferenceUID == series.headers[0].FrameOfReferenceUID
    images = dataset.ReferencedSeriesSequence[0]
    assert images.SeriesInstanceUID == series.headers[0].SeriesInstanceUID
    assert [item.ReferencedSOPInstanceUID for item in images.ReferencedInstanceSequence] == [
        header.SOPInstanceUID for header in series.headers
    ]
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        if enhanced:
            group = series.headers[0].PerFrameFunctionalGroupsSequence[
                source.ReferencedFrameNumber - 1
            ]
            assert group.PlanePositionSequence[0].ImagePositionPatient == place
        else:
            header = next(
                one
                for one in series.headers
                if one.SOPInstanceUID == source.ReferencedSOPInstanceUID
            )
            assert header.ImagePositionPatient == place


def test_one_stack_of_several_in_an_enhanced_object(tmp_path: Path) -> None:
    series = made_series(enhanced=True)
    frames = series.headers[0].PerFrameFunctionalGroupsSequence
    # a second stack at the same positions, after the one of the series
    series.headers[0].PerFrameFunctionalGroupsSequence = [*frames, *frames]
    series.headers[0].NumberOfFrames = 2 * len(frames)
    second = tuple(number + len(frames) for number in series.frame_numbers)
    object.__setattr__(series, "frame_numbers", second)
    mask = made_mask()
    path = write(mask, series, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_seg(path, series), mask)
    for frame in dcmread(path).PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedFrameNumber > len(frames)


def test_the_code_of_a_side_belongs_to_the_region_or_the_type(tmp_path: Path) -> None:
    labels = {"left kidney": 1, "tumor of the right kidney": 2, "odd thing": 5}
    dataset = dcmread(write(made_mask(), made_series(), tmp_path / "seg.dcm", labels=labels))
    kidney, tumor, odd = dataset.SegmentSequence
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    region = tumor.AnatomicRegionSequence[0]
    assert region.CodeMeaning == "Kidney"
    assert region.AnatomicRegionModifierSequence[0].CodeMeaning == "Right"
    assert odd.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99DYNUNET"
    assert dataset.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99DYNUNET"
    colours = {tuple(item.RecommendedDisplayCIELabValue) for item in dataset.SegmentSequence}
    assert len(colours) == 3
    for item in dataset.SegmentSequence:
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (
            ALGORITHM.name,
            ALGORITHM.version,
        )


@pytest.mark.parametrize("kind", [bool, np.float32, np.int64])
def test_masks_of_any_type(kind: type, tmp_path: Path) -> None:
    mask = (made_mask() == 1).astype(kind)
    path = write(mask, made_series(), tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_seg(path, made_series()), mask)


def test_several_multi_frame_objects_are_refused(tmp_path: Path) -> None:
    series = made_series(enhanced=True)
    object.__setattr__(series, "headers", series.headers * 2)
    with pytest.raises(OutputError, match="2 multi-frame objects"):
        write(made_mask(), series, tmp_path / "seg.dcm")


def test_classes_that_do_not_occur_are_left_out_and_values_stay(tmp_path: Path) -> None:
    series = made_series()
    mask = np.where(made_mask() == 5, 300, 0).astype(np.uint16)
    labels = {"background": 0, "liver": 1, "odd thing": 300}
    path = write(mask, series, tmp_path / "seg.dcm", labels=labels)
    dataset = dcmread(path)
    assert [item.SegmentLabel for item in dataset.SegmentSequence] == ["odd thing"]
    # empty frames are left out too
    assert dataset.NumberOfFrames == np.any(mask, axis=(0, 1)).sum() < SHAPE[2]
    np.testing.assert_array_equal(read_seg(path, series), mask)
    np.testing.assert_array_equal(read_seg(path, series, {"odd thing": 7}), mask // 300 * 7)


def test_an_empty_mask_gives_no_object_and_removes_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(b"of yesterday")
    empty = np.zeros(SHAPE, np.uint8)
    assert write_seg(empty, made_series(), LABELS, path, algorithm=ALGORITHM) is None
    assert not path.exists()
    assert "seg.dcm is not written: the mask is empty" in caplog.text


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (np.zeros((13, 11, 6), np.uint8), r"shape \(13, 11, 6\), the series has \(13, 11, 7\)"),
        (np.full(SHAPE, 9, np.uint8), r"has the values \[9\]"),
        (np.full(SHAPE, -1, np.int16), r"has the values \[-1\]"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: np.ndarray, match: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=match):
        write_seg(mask, made_series(), LABELS, tmp_path / "seg.dcm", algorithm=ALGORITHM)
    assert not list(tmp_path.iterdir())


def test_probabilities_come_back_to_half_a_step(tmp_path: Path) -> None:
    series = made_series(OBLIQUE)
    random = np.random.default_rng(0).dirichlet([1, 1, 1, 1], SHAPE).astype(np.float16)
    probability = np.moveaxis(random, -1, 0)
    probability[2] = 0
    path = tmp_path / "seg.dcm"
    write_probabilities(probability, series, LABELS, path, algorithm=ALGORITHM)
    labels = [item.SegmentLabel for item in dcmread(path).SegmentSequence]
    assert labels == ["liver", "odd thing"]
    found = read_probabilities(path, series, LABELS)
    assert list(found) == ["liver", "cancer", "odd thing"]
    for name, fractions in found.items():
        wanted = probability[list(LABELS).index(name)].astype(float)
        np.testing.assert_allclose(fractions, wanted, atol=1 / 510 + 1e-6)
    with pytest.raises(OutputError, match="not a BINARY segmentation but FRACTIONAL"):
        count_voxels(path, series)


def test_probabilities_need_a_channel_for_each_label_and_something_in_them(tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    with pytest.raises(OutputError, match="3 channels of probabilities and 4 labels"):
        write_probabilities(np.zeros((3, *SHAPE)), made_series(), LABELS, path, algorithm=ALGORITHM)
    none = np.zeros((4, *SHAPE))
    none[0] = 1
    none[1] = 0.001
    assert write_probabilities(none, made_series(), LABELS, path, algorithm=ALGORITHM) is None
    assert not path.exists()


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_values_that_are_not_probabilities_are_refused(value: float, tmp_path: Path) -> None:
    probability = np.full((4, *SHAPE), value, np.float32)
    with pytest.raises(OutputError, match="softmax"):
        write_probabilities(
            probability, made_series(), LABELS, tmp_path / "seg.dcm", algorithm=ALGORITHM
        )


@pytest.mark.parametrize("enhanced", [False, True], ids=["slices", "enhanced"])
@pytest.mark.parametrize("name", ["axial", "oblique"])
def test_objects_are_valid(name: str, enhanced: bool, tmp_path: Path) -> None:
    series = made_series(DIRECTIONS[name], enhanced=enhanced)
    path = tmp_path / "seg.dcm"
    require_valid(write(made_mask(), series, path, labels=KNOWN, task_name="Task03_Liver"))
    require_valid(write(made_mask(), series, path), PRIVATE_CODE)
    one = np.where(made_mask() == 5, 5, 0)
    require_valid(write(one, series, path, labels={"left kidney": 5}))
    probability = np.full((4, *SHAPE), 0.25)
    write_probabilities(probability, series, KNOWN, path, algorithm=ALGORITHM)
    require_valid(path)


def test_a_segmentation_of_another_grid_is_refused(tmp_path: Path) -> None:
    path = write(made_mask(), made_series(), tmp_path / "seg.dcm")
    for other in (
        made_series(OBLIQUE),
        made_series(spacing=(0.7, 1.4, 2.5)),
        made_series(shape=(13, 12, 7)),
    ):
        with pytest.raises(OutputError, match="another grid"):
            count_voxels(path, other)


@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_single_slice_keeps_the_step_between_slices(place: int, tmp_path: Path) -> None:
    series = made_series(OBLIQUE)
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:5, 3, place] = 1
    path = write(mask, series, tmp_path / "seg.dcm", labels=KNOWN)
    shared = dcmread(path).SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].SpacingBetweenSlices == pytest.approx(2.5)
    np.testing.assert_array_equal(read_seg(path, series), mask)
    require_valid(path)


@pytest.mark.parametrize("name", ["axial", "oblique"])
def test_highdicom_reads_the_mask_on_the_grid_of_the_series(name: str, tmp_path: Path) -> None:
    series, mask = made_series(DIRECTIONS[name]), made_mask()
    path = write(mask, series, tmp_path / "seg.dcm", labels=KNOWN)
    segmentation = segread(path)
    values = [
        int(str(item.SegmentDescription).rpartition(" ")[2])
        for item in segmentation.SegmentSequence
    ]
    # highdicom's arrays are [slice, row, column]
    grid = VolumeGeometry(
        lps_affine(series)[:, [2, 1, 0, 3]], mask.shape[::-1], coordinate_system="PATIENT"
    )
    found = segmentation.get_volume(combine_segments=True).match_geometry(grid).array
    np.testing.assert_array_equal(np.array([0, *values])[found].transpose(2, 1, 0), mask)


def test_the_documented_lines_read_a_mask_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "dicom_output.md").read_text()
    (lines,) = [block for block in text.split("```python\n")[1:] if "segread" in block]
    mask = made_mask()
    mask[mask == 5] = 3
    series = made_series(OBLIQUE)
    labels = {"background": 0, "liver": 1, "cancer": 2, "cyst": 3}
    write(mask, series, tmp_path / "liver.seg.dcm", labels=labels)
    monkeypatch.chdir(tmp_path)
    names = {"mask": mask, "series": series}
    exec(lines.partition("```")[0], names)  # noqa: S102 - it is ours
    np.testing.assert_array_equal(names["found"], mask)


def test_from_files_of_an_enhanced_object_and_back(tmp_path: Path) -> None:
    source = make_enhanced(tmp_path / "enhanced.dcm", volume(SHAPE), oblique())
    series = load_series(str(source))
    mask = made_mask()
    path = write(mask, series, tmp_path / "seg.dcm", labels=KNOWN)
    np.testing.assert_array_equal(read_seg(path, series), mask)
    for label, found in masks_of_segments(path, series).items():
        np.testing.assert_array_equal(found, mask == KNOWN[label])
    require_valid(path)


STUDIES = [
    "Study1/13_HCropVolume",
    "Study2/14_HCropVolume",
    "Study1/12-T1post-05670",
    "Study2/14-T1post-22014",
]


@pytest.mark.parametrize("folder", STUDIES)
def test_real_studies(folder: str, real_data: Path, tmp_path: Path) -> None:
    source = real_data / "dicom" / folder
    if not source.is_dir():
        pytest.skip(f"{folder} is not in shared/data/dicom")
    series = load_series(str(source))
    shape = series.array.shape[1:]
    coarse = np.random.default_rng(1).choice([0, 1, 2, 5], [size // 4 + 1 for size in shape])
    blobs = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: shape[0], : shape[1], : shape[2]]
    path = write(blobs, series, tmp_path / "seg.dcm", labels=KNOWN, task_name="Task03_Liver")
    np.testing.assert_array_equal(read_seg(path, series), blobs)
    for label, found in masks_of_segments(path, series).items():
        np.testing.assert_array_equal(found, blobs == KNOWN[label])
    require_valid(path)

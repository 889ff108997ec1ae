"""dicom-validator finds no fault in written objects, by the tables of the standard from ``standard_tables``.

Nothing that it says is filtered. What it cannot see is in docs/dicom_output.md.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standard_tables

pytest.importorskip("highdicom")

from helpers.made_dicom import make_enhanced, oblique, volume
from out_checks import ALGORITHM, KNOWN
from out_series import DIRECTIONS, LABELS, OBLIQUE, SHAPE, made_mask, made_series
from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.uid import ComprehensiveSRStorage, RTStructureSetStorage, SegmentationStorage

from dynunet_bundle.dicom_input.series import load_series
from dynunet_bundle.dicom_output.rtstruct import write_rtstruct
from dynunet_bundle.dicom_output.seg import write_probabilities, write_seg
from dynunet_bundle.dicom_output.structured_report import write_measurements

KINDS = {
    "seg": SegmentationStorage,
    "fractional": SegmentationStorage,
    "rtstruct": RTStructureSetStorage,
    "report": ComprehensiveSRStorage,
}
Faults = Callable[[Any], list[str]]


@pytest.fixture(scope="module")
def faults_of() -> Faults:
    """Findings of dicom-validator in an object: ``"SegmentSequence.SegmentNumber TagMissing"``."""
    info = standard_tables.dicom_info(set(KINDS.values()))
    from dicom_validator.validator import error_handler, iod_validator

    def faults(written: Any) -> list[str]:
        # not by DicomFileValidator, which changes how pydicom reads from then on
        dataset = written if isinstance(written, Dataset) else dcmread(written)
        assert dataset.SOPClassUID in info.iods
        handler = error_handler.NullValidationResultHandler()
        result = iod_validator.IODValidator(dataset, info, error_handler=handler).validate()
        # its status is not asked: it leaves out attributes that belong to no module
        return sorted(spelled(result.module_errors))

    return faults


def spelled(errors: Any) -> Iterator[str]:
    for tags in errors.values():
        for tag, error in tags.items():
            path = [keyword_for_tag(one) for one in (*(tag.parents or ()), tag.tag)]
            yield f"{'.'.join(path)} {error.code.name}"


def write_all(
    folder: Path, series: Any, mask: np.ndarray, labels: dict[str, int], **rest: Any
) -> dict[str, Path]:
    """One object of each kind."""
    paths = {kind: folder / f"{kind}.dcm" for kind in KINDS}
    settings = {"algorithm": ALGORITHM, **rest}
    channels = np.stack([mask == value for value in labels.values()]) * 0.7
    written = [
        write_seg(mask, series, labels, paths["seg"], **settings),
        write_probabilities(channels, series, labels, paths["fractional"], **settings),
        write_rtstruct(mask, series, labels, paths["rtstruct"], **settings),
        write_measurements(paths["seg"], series, paths["report"], algorithm=ALGORITHM),
    ]
    assert written == list(paths.values())
    return paths


def require_faultless(faults_of: Faults, paths: dict[str, Path]) -> None:
    found = {kind: faults_of(path) for kind, path in paths.items()}
    assert found == dict.fromkeys(KINDS, [])


@pytest.mark.parametrize("enhanced", [False, True], ids=["slices", "enhanced"])
@pytest.mark.parametrize("name", ["axial", "coronal", "oblique"])
def test_objects_have_no_fault(
    name: str, enhanced: bool, faults_of: Faults, tmp_path: Path
) -> None:
    series = made_series(DIRECTIONS[name], enhanced=enhanced)
    require_faultless(faults_of, write_all(tmp_path, series, made_mask(), LABELS))


CODED = {
    "one segment": {"liver": 5},
    "side and region": {"left kidney": 1, "tumour of the left kidney": 2, "lower lobe of lung": 5},
    "another script": {"Leberläsion": 1, "肝臓": 2, "spleen": 5},
}


@pytest.mark.parametrize("labels", CODED.values(), ids=CODED)
def test_codes_have_no_fault(labels: dict[str, int], faults_of: Faults, tmp_path: Path) -> None:
    mask = np.where(np.isin(made_mask(), list(labels.values())), made_mask(), 0)
    settings = {"task_name": "Task03_Liver"}
    paths = write_all(tmp_path, made_series(OBLIQUE), mask, {"background": 0, **labels}, **settings)
    assert len(dcmread(paths["seg"]).SegmentSequence) == len(labels)
    require_faultless(faults_of, paths)


TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate"),
    *("StudyTime", "AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "Manufacturer"),
    *("PositionReferenceIndicator", "SpecificCharacterSet"),
)
SOURCES: dict[str, dict[str, Any]] = {
    "type 2 absent": dict.fromkeys(TYPE_2),
    "type 2 empty": dict.fromkeys(["PatientBirthDate", "PatientSex", "StudyDate", "StudyID"], ""),
    "no thickness": {"SliceThickness": None},
    "no frame of reference": {"FrameOfReferenceUID": None},
    "name in three scripts": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    },
}


@pytest.mark.parametrize("enhanced", [False, True], ids=["slices", "enhanced"])
@pytest.mark.parametrize("tags", SOURCES.values(), ids=SOURCES)
def test_objects_of_poor_sources_have_no_fault(
    tags: dict[str, Any], enhanced: bool, faults_of: Faults, tmp_path: Path
) -> None:
    series = made_series(OBLIQUE, enhanced=enhanced, **tags)
    if enhanced and "SliceThickness" in tags:
        shared = series.headers[0].SharedFunctionalGroupsSequence[0]
        del shared.PixelMeasuresSequence[0].SliceThickness
    require_faultless(faults_of, write_all(tmp_path, series, made_mask(), KNOWN))


def test_objects_of_lossy_sources_have_no_fault(faults_of: Faults, tmp_path: Path) -> None:
    series = made_series()
    series.headers[0].file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    paths = write_all(tmp_path, series, made_mask(), KNOWN)
    assert dcmread(paths["seg"]).LossyImageCompression == "01"
    require_faultless(faults_of, paths)


def test_objects_of_an_enhanced_file_have_no_fault(faults_of: Faults, tmp_path: Path) -> None:
    source = make_enhanced(tmp_path / "enhanced.dcm", volume(SHAPE), oblique())
    series = load_series(str(source))
    require_faultless(faults_of, write_all(tmp_path, series, made_mask(), KNOWN))


@pytest.mark.parametrize("folder", ["Study1/13_HCropVolume", "Study1/12-T1post-05670"])
def test_objects_of_real_series_have_no_fault(
    folder: str, faults_of: Faults, real_data: Path, tmp_path: Path
) -> None:
    source = real_data / "dicom" / folder
    if not source.is_dir():
        pytest.skip(f"{folder} is not in shared/data/dicom")
    series = load_series(str(source))
    mask = np.zeros(series.array.shape[1:], np.uint8)
    width, height, depth = mask.shape
    for place, value in enumerate((1, 2, 5), start=1):
        low = place * width // 5
        mask[low : low + width // 6, height // 3 : height // 2, depth // 4 : depth // 2] = value
    require_faultless(faults_of, write_all(tmp_path, series, mask, KNOWN))


# --- that the check can fail


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("objects"), made_series(), made_mask(), LABELS)


def item_at(dataset: Dataset, path: str) -> tuple[Dataset, str]:
    """Item and keyword of ``Sequence.Sequence.Keyword``, in the first items that have the next part."""
    *sequences, keyword = path.split(".")
    for sequence, wanted in zip(sequences, [*sequences, keyword][1:], strict=True):
        items = dataset[sequence].value
        dataset = next((item for item in items if wanted in item), items[0])
    return dataset, keyword


CODE = "SegmentSequence.SegmentedPropertyTypeCodeSequence"
FRAME, ITEM = "PerFrameFunctionalGroupsSequence", "ContentSequence.ContentSequence.ContentSequence"
TAKEN_OUT = [
    # type 1, at the top, in items of any depth, and in a functional group
    *[("seg", "SegmentationType"), ("seg", "SegmentSequence.SegmentNumber")],
    *[("seg", f"{CODE}.CodeMeaning"), ("seg", f"{FRAME}.FrameContentSequence")],
    *[("seg", f"{FRAME}.SegmentIdentificationSequence.ReferencedSegmentNumber")],
    *[("rtstruct", "StructureSetLabel"), ("rtstruct", "StructureSetROISequence.ROINumber")],
    *[("rtstruct", "ROIContourSequence.ContourSequence.ContourData")],
    *[("report", "CompletionFlag"), ("report", f"{ITEM}.ValueType")],
    # type 2
    *[("seg", "ContentCreatorName"), ("seg", "PatientID"), ("report", "StudyDate")],
    *[("rtstruct", "RTROIObservationsSequence.RTROIInterpretedType")],
    # type 1C and 2C: required by a value or by the presence of another attribute
    *[("fractional", "SegmentationFractionalType"), ("fractional", "MaximumFractionalValue")],
    *[("seg", "SegmentSequence.SegmentAlgorithmName"), ("seg", f"{CODE}.CodingSchemeDesignator")],
    *[("report", f"{ITEM}.TextValue"), ("report", f"{ITEM}.ConceptCodeSequence")],
    *[("report", f"{ITEM}.MeasuredValueSequence"), ("report", "ContinuityOfContent")],
]


@pytest.mark.parametrize(("kind", "path"), TAKEN_OUT)
def test_what_is_missing_is_found(
    kind: str, path: str, faults_of: Faults, written: dict[str, Path]
) -> None:
    dataset = dcmread(written[kind])
    assert faults_of(dataset) == []
    item, keyword = item_at(dataset, path)
    del item[keyword]
    assert f"{path} TagMissing" in faults_of(dataset)


CHANGED = [
    # enumerated values: in the description, by a condition, in a section that it refers to, and by a value's place
    ("seg", "SegmentationType", "COLOUR", "EnumValueNotAllowed"),
    ("seg", "BitsAllocated", 8, "EnumValueNotAllowed"),
    ("fractional", "BitsAllocated", 16, "EnumValueNotAllowed"),
    ("report", "VerificationFlag", "MAYBE", "EnumValueNotAllowed"),
    ("rtstruct", "PatientSex", "W", "EnumValueNotAllowed"),
    ("report", f"{ITEM}.ValueType", "THING", "EnumValueNotAllowed"),
    # empty although a value is required
    ("seg", "SegmentSequence.SegmentLabel", "", "TagEmpty"),
    ("rtstruct", "StructureSetLabel", "", "TagEmpty"),
    # values that are not allowed there
    ("seg", "RTImageLabel", "x", "TagUnexpected"),
    ("rtstruct", "StructureSetROISequence.RTImageLabel", "x", "TagUnexpected"),
    ("report", f"{ITEM}.GraphicType", "POINT", "TagUnexpected"),
    ("seg", "StudyDate", "19.1.2020", "InvalidValue"),
]


@pytest.mark.filterwarnings("ignore:Invalid value")
@pytest.mark.parametrize(("kind", "path", "value", "fault"), CHANGED)
def test_what_is_wrong_is_found(
    kind: str, path: str, value: Any, fault: str, faults_of: Faults, written: dict[str, Path]
) -> None:
    dataset = dcmread(written[kind])
    item, keyword = item_at(dataset, path)
    setattr(item, keyword, value)
    assert f"{path} {fault}" in faults_of(dataset)


def test_what_is_put_right_in_the_tables_is_still_wrong() -> None:
    paths = {row["path"] for row in standard_tables.read("module_to_attributes")}
    uses = standard_tables.read("ciod_to_fg_macros")
    macros = {row["macroId"] for row in standard_tables.read("macro_to_attributes")}
    standard_tables.read.cache_clear()
    for wrong in standard_tables.MISPLACED:
        assert any(path.startswith(wrong) for path in paths)
    for name in standard_tables.NOT_SHARED:
        assert {row["conditionalStatement"] for row in uses if row["macroId"] == name} == {None}
    assert macros >= set(standard_tables.VALUE_TYPES)


def test_without_the_standard_it_skips_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard_tables, "EDITION", "no-such-package")
    with pytest.raises(pytest.skip.Exception, match="no-such-package is not installed"):
        standard_tables.read.__wrapped__("sops")

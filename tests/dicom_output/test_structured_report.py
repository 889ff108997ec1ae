"""Measurement reports: the volumes of the segments, what they refer to, validity."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom")

from highdicom.sr import srread
from out_checks import ALGORITHM, NO_DICOMDIR, PRIVATE_CODE, require_valid
from out_series import LABELS, OBLIQUE, made_mask, made_series
from pydicom import dcmread

from dynunet_bundle.dicom_output.seg import write_probabilities, write_seg
from dynunet_bundle.dicom_output.structured_report import write_measurements
from dynunet_bundle.errors import OutputError

SPACING = (0.7, 1.3, 2.5)


def write(folder: Path, labels: dict[str, int], **source: Any) -> tuple[Path, Path]:
    series = made_series(OBLIQUE, spacing=SPACING, **source)
    segmentation = folder / "seg.dcm"
    write_seg(made_mask(), series, labels, segmentation, algorithm=ALGORITHM, task_name="Liver")
    report = write_measurements(segmentation, series, folder / "sr.dcm", algorithm=ALGORITHM)
    return segmentation, report


@pytest.mark.parametrize("enhanced", [False, True], ids=["slices", "enhanced"])
def test_volumes_and_references(enhanced: bool, tmp_path: Path) -> None:
    labels = {"left kidney": 1, "cancer": 2, "spleen": 5}
    segmentation, report = write(tmp_path, labels, enhanced=enhanced)
    groups = srread(report).content.get_volumetric_roi_measurement_groups()
    assert len(groups) == 3
    source = dcmread(segmentation)
    for number, (group, (name, value)) in enumerate(zip(groups, labels.items(), strict=True), 1):
        assert group.tracking_identifier == name
        (volume,) = group.get_measurements()
        assert (volume.name.meaning, volume.unit.value) == ("Volume", "mL")
        count = np.count_nonzero(made_mask() == value)
        assert volume.value == pytest.approx(count * np.prod(SPACING) / 1000, rel=1e-5)
        reference = group.referenced_segment[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedSegmentNumber == number
    findings = [group.finding_type.meaning for group in groups]
    assert findings == ["Kidney", "Neoplasm", "Spleen"]
    sites = [[site.value.meaning for site in group.finding_sites] for group in groups]
    assert sites == [["Kidney"], ["Liver"], []]
    assert groups[0].finding_sites[0].laterality.meaning == "Left"
    content = str(dcmread(report))
    assert content.count(source.SOPInstanceUID) == 4  # three segments and the evidence


def test_reports_are_valid(tmp_path: Path) -> None:
    require_valid(write(tmp_path, {"liver": 1, "left kidney": 2, "lower lobe of lung": 5})[1])
    require_valid(write(tmp_path, {**LABELS, "Häufchen": 5})[1], PRIVATE_CODE)
    bare = dict.fromkeys(["PatientBirthDate", "PatientSex", "StudyID", "StudyTime"])
    known = {"liver": 1, "cancer": 2, "spleen": 5}
    require_valid(write(tmp_path, known, **bare)[1], NO_DICOMDIR)


def test_probabilities_have_no_volume(tmp_path: Path) -> None:
    series = made_series()
    probability = np.full((1, *series.array.shape[1:]), 0.5)
    path = tmp_path / "seg.dcm"
    write_probabilities(probability, series, {"liver": 1}, path, algorithm=ALGORITHM)
    with pytest.raises(OutputError, match="not a BINARY segmentation"):
        write_measurements(path, series, tmp_path / "sr.dcm", algorithm=ALGORITHM)

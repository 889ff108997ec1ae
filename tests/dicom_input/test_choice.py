"""Cases of a source: rules, names of series and cases, channels, and the error for an ambiguous study."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynunet_bundle.errors import ConfigError, DatasetError

pytest.importorskip("pydicom")

from helpers.made_dicom import make_series, straight, volume

from dynunet_bundle.dataset.dicom_cases import find_cases
from dynunet_bundle.dicom_input.names import (
    SeriesName,
    is_dicom_input,
    is_series_name,
    parse_name,
    short_name,
)
from dynunet_bundle.dicom_input.series import load_series, series_identity

T1, T2, CORONAL, CT = "1.2.1", "1.2.2", "1.2.3", "1.2.4"
CORONAL_AFFINE = np.array([[-1.0, 0, 0, 9], [0, 0, 2, -30], [0, -1.5, 0, 7], [0, 0, 0, 1]])
PATIENT_FOLDER = "Doe Jane"


def series_tags(number: int, description: str, kind: str = "PRIMARY") -> dict[str, Any]:
    return {
        "SeriesNumber": number,
        "SeriesDescription": f"{description} Doe",
        "ImageType": ["ORIGINAL", kind],
    }


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """T1, T2, coronal T2 and CT; the last three slices thick."""
    folder = tmp_path / PATIENT_FOLDER
    array, short = volume(), volume((7, 6, 3))
    for uid, affine, modality, image, tags in (
        (T1, straight(), "MR", array, series_tags(2, "T1 mprage")),
        (T2, straight(), "MR", array + 1, series_tags(3, "T2 flair", "SECONDARY")),
        (CORONAL, CORONAL_AFFINE, "MR", array, series_tags(4, "T2")),
        (CT, straight(), "CT", short, series_tags(5, "planning")),
    ):
        make_series(folder / uid, image, affine, modality=modality, series_uid=uid, tags=tags)
    return folder


@pytest.mark.parametrize(
    ("rules", "uid"),
    [
        ({"modality": "ct"}, CT),
        ({"description": "t1.*rage"}, T1),
        ({"description": "^T2", "plane": "axial"}, T2),
        ({"image_type": "secondary"}, T2),
        ({"image_type": ["ORIGINAL", "SECONDARY"]}, T2),
        ({"plane": "coronal"}, CORONAL),
        ({"series_number": 2}, T1),
        ({"series": T1}, T1),
        ({"series": short_name(T1)}, T1),
        ({"min_slices": 4, "description": "T2", "plane": "coronal"}, CORONAL),
    ],
)
def test_rules_choose_one(study: Path, rules: dict[str, Any], uid: str) -> None:
    (case,) = find_cases(study, rules)
    assert case == {"image": f"{study}::{uid}", "name": short_name(uid)}
    assert load_series(case["image"]).headers[0].SeriesInstanceUID == uid


def test_ambiguity_lists_what_can_be_passed(study: Path, log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DatasetError) as caught:
        find_cases(study, {"min_slices": 4})
    message = str(caught.value)
    assert "contains 3 series that fit" in message
    assert f"{short_name(T1)} (number 2, MR, axial, 5 images)" in message
    assert f"{short_name(CORONAL)} (number 4, MR, coronal, 5 images)" in message
    first = short_name(T1)
    assert f'Choose one with --series {first} (in a config: "series_rules": {{"series": ' in message
    assert message.endswith("or by the rules series_number, plane, image_type, description.")
    with pytest.raises(DatasetError, match="no series of the DICOM input fits the rules"):
        find_cases(study, {"modality": "PT"})
    for text in (message, log.text):
        assert not any(word in text for word in ("Doe", "mprage", "planning", PATIENT_FOLDER))


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (
            {"modalty": "MR"},
            "unknown DICOM rule 'modalty'. Known rules: series, .*, channels, all",
        ),
        ({"channels": [{"all": True}]}, '"all" is not allowed inside "channels"'),
        ({"series": 5}, "series=5 must be a string"),
        ({"description": "("}, "is not a regular expression"),
        ({"plane": "transversal"}, "must be one of sagittal, coronal, axial"),
        ({"min_slices": "many"}, "must be a whole number"),
        ({"select": "EchoNumbers"}, "must be an object"),
        ({"all": True, "channels": [{}, {}]}, "exclude each other"),
    ],
)
def test_bad_rules_are_named(study: Path, rules: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find_cases(study, rules)


def test_unreadable_series_is_not_a_choice_but_named_when_alone(tmp_path: Path) -> None:
    make_series(tmp_path / "a", volume(), straight(), series_uid=T1)
    make_series(
        tmp_path / "b",
        volume(),
        straight(),
        series_uid=T2,
        tags={"PhotometricInterpretation": "MONOCHROME1"},
    )
    (case,) = find_cases(tmp_path)
    assert case["name"] == short_name(T1)
    with pytest.raises(DatasetError, match="no readable series: .*MONOCHROME1"):
        find_cases(tmp_path / "b")


def test_channels_are_separate_series(study: Path) -> None:
    rules = {"modality": "MR", "plane": "axial"}
    (case,) = find_cases(study, {**rules, "channels": [{"series_number": 3}, {"series_number": 2}]})
    assert case == {"image": [f"{study}::{T2}", f"{study}::{T1}"], "name": short_name(T2)}
    with pytest.raises(DatasetError, match="no series of the DICOM input fits"):
        find_cases(study, {**rules, "channels": [{"series_number": 3}, {"series_number": 9}]})


def test_all_series_that_fit(study: Path) -> None:
    cases = find_cases(study, {"all": True, "modality": "MR"})
    assert {case["name"] for case in cases} == {short_name(uid) for uid in (T1, T2, CORONAL)}
    assert [case["name"] for case in cases] == sorted(case["name"] for case in cases)


def test_one_case_per_study(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    for number in (1, 2, 3):
        make_series(
            tmp_path / str(number),
            volume(),
            straight(),
            series_uid=f"1.3.{number}",
            study_uid=f"1.4.{number}",
            modality="CT" if number == 3 else "MR",
        )
    cases = find_cases(tmp_path, {"modality": "MR"})
    assert {case["name"] for case in cases} == {short_name("1.3.1"), short_name("1.3.2")}
    assert "no series fits the rules; the study is skipped" in log.text


def test_an_unknown_name_of_a_series_lists_the_known_ones(study: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        find_cases(study, {"series": "hcrop"})
    message = str(caught.value)
    assert message.startswith(
        "no series of the DICOM input has the name hcrop. Pass one of these: "
    )
    assert all(short_name(uid) in message for uid in (T1, T2, CORONAL, CT))
    with pytest.raises(DatasetError) as caught:
        find_cases(f"{study}::1.2.99")
    assert f"has the name {short_name('1.2.99')}." in str(caught.value)
    assert "1.2.99" not in str(caught.value)
    with pytest.raises(DatasetError, match="fits the rules"):
        find_cases(study, {"series": short_name(T1), "modality": "CT"})


def make_studies(folder: Path, counts: dict[str, int]) -> None:
    """Studies by UID, each with this many series that differ only in their numbers."""
    for uid, count in counts.items():
        for number in range(1, count + 1):
            series_uid = f"{uid}.{number}"
            make_series(
                folder / series_uid,
                volume(),
                straight(),
                series_uid=series_uid,
                study_uid=uid,
                tags={"SeriesNumber": number},
            )


def test_all_ambiguous_studies_are_listed(tmp_path: Path) -> None:
    make_studies(tmp_path, {"1.5": 2, "1.6": 1, "1.7": 2})
    with pytest.raises(DatasetError) as caught:
        find_cases(tmp_path)
    message = str(caught.value)
    assert "contains 2 studies with several series that fit" in message
    for uid in ("1.5", "1.7"):
        assert (
            f"{short_name(uid).replace('series', 'study')}: {short_name(f'{uid}.1')} (" in message
        )
        assert short_name(f"{uid}.2") in message
    assert short_name("1.6.1") not in message
    assert message.endswith("or one in each study by the rules series_number.")
    # the remedy in the message works
    assert len(find_cases(tmp_path, {"series_number": 1})) == 3
    assert [case["name"] for case in find_cases(tmp_path, {"series": short_name("1.5.1")})] == [
        short_name("1.5.1")
    ]


def test_a_channel_that_no_study_has_beside_another_is_not_called_ambiguous(tmp_path: Path) -> None:
    make_studies(tmp_path, {"1.5": 1, "1.6": 1, "1.7": 1})
    make_series(tmp_path / "ct", volume(), straight(), modality="CT", study_uid="1.8")
    with pytest.raises(DatasetError, match="no study of the DICOM input has a series for each"):
        find_cases(tmp_path, {"channels": [{"modality": "MR"}, {"modality": "CT"}]})


def test_the_log_names_what_was_chosen_once(study: Path, log: pytest.LogCaptureFixture) -> None:
    find_cases(study, {"series": T1})
    (line,) = {record.getMessage() for record in log.records if "chosen" in record.getMessage()}
    assert line == f"chosen: {short_name(T1)} (number 2, MR, axial, 5 images)"
    log.clear()
    find_cases(study, {"channels": [{"series": T2}, {"series": T1}]})
    assert f"5 images), as {short_name(T2)}" in log.text


def test_name_of_one_series_is_a_source(study: Path) -> None:
    (case,) = find_cases(f"{study}::{T2}")
    assert case["name"] == short_name(T2)


@pytest.mark.parametrize(
    "name",
    [
        SeriesName(Path("/a/b")),
        SeriesName(Path("/a/b"), "1.2.3"),
        SeriesName(Path("/a::1/b c"), "1.2.3", {"EchoTime": "4.5"}),
        SeriesName(Path("a.zip"), "1.2.3", {"ImageType": "A\\B//C::=%", "StackID": "1"}),
    ],
)
def test_names_are_split_into_their_parts_again(name: SeriesName) -> None:
    # as MONAI's LoadImaged passes them
    assert parse_name(str(Path(str(name)).expanduser())) == name


def test_what_is_dicom(study: Path, tmp_path: Path) -> None:
    assert is_dicom_input(study) and is_dicom_input(study / T1 / "000.dcm")
    assert is_dicom_input(Path(f"{study}::{T1}"))
    (tmp_path / "nifti").mkdir()
    assert not is_dicom_input(tmp_path / "nifti") and not is_dicom_input(tmp_path / "absent")
    (tmp_path / "nifti" / "a.nii.gz").touch()
    (tmp_path / "nifti" / "a.dcm").touch()
    assert not is_dicom_input(tmp_path / "nifti")
    assert not is_series_name(tmp_path / "nifti" / "a.nii.gz")
    assert is_series_name(f"{study}::{T1}::EchoNumbers=1")


def test_a_changed_folder_is_read_again(study: Path) -> None:
    assert load_series(f"{study}::{CT}").array.shape == (1, 7, 6, 3)
    (study / CT / "000.dcm").unlink()
    assert load_series(f"{study}::{CT}").array.shape == (1, 7, 6, 2)


def test_identity_depends_on_content_and_not_on_names(study: Path, tmp_path: Path) -> None:
    first = series_identity(f"{study}::{T1}")
    assert first["file"] == short_name(T1)
    assert first["bytes"] == sum(file.stat().st_size for file in (study / T1).iterdir())
    moved = (study / T1).rename(tmp_path / "elsewhere")
    (moved / "000.dcm").rename(moved / "999")
    assert series_identity(str(moved)) == first
    (moved / "999").write_bytes((moved / "999").read_bytes()[:-1] + b"x")
    assert series_identity(str(moved))["sha256"] != first["sha256"]

"""Surveys of every case, cached until its files change."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_nifti

from dynunet_bundle.dataset.cases import name_of
from dynunet_bundle.dataset.layouts import DatasetDescription
from dynunet_bundle.errors import OutputError
from dynunet_bundle.images import read as volumes
from dynunet_bundle.labels.scheme import LabelScheme
from dynunet_bundle.survey.survey import CaseSurvey, all_findings, survey_dataset

SHAPE = (9, 8, 7)
NUM_TRAINING = 3


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetDescription:
    """Three labelled cases and a test case without label."""
    rng = np.random.default_rng(0)
    cases = []
    for name in ("a", "b", "c", "t"):
        image = rng.normal(100, 20, SHAPE).astype(np.float32)
        case = {"image": str(save_nifti(tmp_path / "images" / f"{name}.nii.gz", image))}
        if name != "t":
            label = (image > 120).astype(np.uint8)
            case["label"] = str(save_nifti(tmp_path / "labels" / f"{name}.nii.gz", label))
        cases.append(case)
    return DatasetDescription(
        "Own",
        ("MRI",),
        LabelScheme(("background", "organ")),
        tuple(cases[:NUM_TRAINING]),
        tuple(cases[NUM_TRAINING:]),
    )


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that are read, e.g. ``images/a``."""
    files: list[str] = []
    read = volumes._read_file

    def noted(path: str | Path) -> tuple[volumes.Volume, Any]:
        files.append("/".join(Path(path).parts[-2:]).removesuffix(".nii.gz"))
        return read(path)

    monkeypatch.setattr(volumes, "_read_file", noted)
    return files


def as_data(surveys: list[CaseSurvey]) -> list[Any]:
    """The parts in which two surveys must agree."""
    return [
        (
            survey.name,
            survey.findings,
            survey.digest,
            survey.facts
            and (
                survey.facts.shape,
                survey.facts.shape_after_crop,
                survey.facts.spacing_mm,
                survey.facts.label_voxels,
                [
                    (one.values.tolist(), one.weights.tolist(), one.lowest, one.highest)
                    for one in survey.facts.intensities
                ],
            ),
        )
        for survey in surveys
    ]


def cache_file(folder: Path, case: str) -> Path:
    (path,) = folder.glob(f"{case}-*.npz")
    return path


def test_what_a_survey_finds(dataset: DatasetDescription):
    surveys = survey_dataset(dataset)
    assert [survey.name for survey in surveys] == ["a", "b", "c", "t"]
    assert all(survey.findings == () for survey in surveys)
    assert all(survey.facts is not None for survey in surveys[:NUM_TRAINING])
    assert surveys[-1].facts is None  # nothing to learn from without a label
    assert len({survey.digest for survey in surveys}) == 4
    assert surveys[0].facts.shape == SHAPE


@pytest.mark.parametrize("num_workers", [1, 3])
def test_threads_change_nothing(dataset: DatasetDescription, num_workers: int):
    assert as_data(survey_dataset(dataset, num_workers)) == as_data(survey_dataset(dataset))


def test_a_second_survey_reads_only_the_test_cases(
    dataset: DatasetDescription, tmp_path: Path, reads: list[str]
):
    first = survey_dataset(dataset, 1, tmp_path / "cache")
    assert sorted(reads) == sorted([f"images/{n}" for n in "abct"] + [f"labels/{n}" for n in "abc"])
    reads.clear()
    second = survey_dataset(dataset, 1, tmp_path / "cache")
    # a test case has no facts to cache
    assert reads == ["images/t"]
    assert as_data(second) == as_data(first)
    assert len(list((tmp_path / "cache").iterdir())) == NUM_TRAINING


def test_without_a_cache_all_is_read_again(dataset: DatasetDescription, reads: list[str]):
    survey_dataset(dataset)
    first = sorted(reads)
    reads.clear()
    survey_dataset(dataset)
    assert sorted(reads) == first


@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_changed_file_is_read_again_alone(
    dataset: DatasetDescription, tmp_path: Path, reads: list[str], kind: str
):
    before = survey_dataset(dataset, 1, tmp_path / "cache")
    reads.clear()
    case = dataset.training[1]
    array = np.full(SHAPE, 1, np.uint8)
    array[0] = 0
    save_nifti(Path(case[kind]), array)
    after = survey_dataset(dataset, 1, tmp_path / "cache")
    assert sorted(reads) == ["images/b", "images/t", "labels/b"]
    assert as_data(after)[1] != as_data(before)[1]
    assert as_data(after)[:1] + as_data(after)[2:] == as_data(before)[:1] + as_data(before)[2:]
    reads.clear()
    survey_dataset(dataset, 1, tmp_path / "cache")
    assert reads == ["images/t"]


def test_a_touched_file_is_read_again_alone(
    dataset: DatasetDescription, tmp_path: Path, reads: list[str]
):
    survey_dataset(dataset, 1, tmp_path / "cache")
    reads.clear()
    path = dataset.training[2]["label"]
    modified = os.stat(path).st_mtime_ns
    os.utime(path, ns=(modified, modified + 1))
    survey_dataset(dataset, 1, tmp_path / "cache")
    assert sorted(reads) == ["images/c", "images/t", "labels/c"]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def without_end(content: bytes) -> bytes:
    return content[:-1]


def flipped(content: bytes) -> bytes:
    """Change one byte of the first compressed array."""
    middle = content.index(b"PK", 4) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def foreign_archive(content: bytes) -> bytes:
    file = BytesIO()
    np.savez(file, json=np.array(json.dumps(["not", "ours"])))
    return file.getvalue()


def pickled(content: bytes) -> bytes:
    file = BytesIO()
    np.savez(file, json=np.array({"a": 1}, dtype=object))
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        without_end,
        flipped,
        foreign_archive,
        pickled,
        lambda content: b"",
        lambda content: b"oops" * 50,
        lambda content: bytes(len(content)),
    ],
    ids=["cut", "without end", "flipped", "foreign", "pickled", "empty", "text", "zeros"],
)
def test_a_damaged_cache_file_is_rebuilt(
    dataset: DatasetDescription,
    tmp_path: Path,
    reads: list[str],
    damage: Callable[[bytes], bytes],
):
    cache = tmp_path / "cache"
    first = survey_dataset(dataset, 1, cache)
    path = cache_file(cache, "b")
    path.write_bytes(damage(path.read_bytes()))
    reads.clear()
    assert as_data(survey_dataset(dataset, 1, cache)) == as_data(first)
    assert sorted(reads) == ["images/b", "images/t", "labels/b"]
    reads.clear()
    assert as_data(survey_dataset(dataset, 1, cache)) == as_data(first)
    assert reads == ["images/t"]


def at(root: Path, dataset: DatasetDescription) -> DatasetDescription:
    """The same data set in another folder."""
    training, test = (
        tuple(
            {role: str(root / "/".join(Path(path).parts[-2:])) for role, path in case.items()}
            for case in cases
        )
        for cases in (dataset.training, dataset.test)
    )
    return replace(dataset, training=training, test=test)


@pytest.mark.parametrize("way", ["moved", "copied", "linked"])
def test_files_under_another_path_are_known_by_their_content(
    dataset: DatasetDescription, tmp_path: Path, reads: list[str], way: str
):
    first = survey_dataset(dataset, 1, tmp_path / "cache")
    other = tmp_path / "other"
    other.mkdir()
    for folder in ("images", "labels"):
        if way == "moved":
            (tmp_path / folder).rename(other / folder)
        elif way == "copied":
            shutil.copytree(tmp_path / folder, other / folder, copy_function=shutil.copy)
        else:
            (other / folder).symlink_to(tmp_path / folder)
    reads.clear()
    for _ in range(2):
        assert as_data(survey_dataset(at(other, dataset), 1, tmp_path / "cache")) == as_data(first)
    assert set(reads) == {"images/t"}


def test_another_file_of_the_same_name_and_size_is_read(
    dataset: DatasetDescription, tmp_path: Path, reads: list[str]
):
    survey_dataset(dataset, 1, tmp_path / "cache")
    other = tmp_path / "other"
    for folder in ("images", "labels"):
        shutil.copytree(tmp_path / folder, other / folder)
    path = other / "images" / "b.nii.gz"
    with gzip.open(path) as file:
        voxels = bytearray(file.read())
    path.with_suffix("").write_bytes(voxels)
    changed = at(other, dataset)
    changed = replace(
        changed,
        training=tuple(
            {**case, "image": case["image"].removesuffix(".gz")}
            if "b.nii" in case["image"]
            else case
            for case in changed.training
        ),
    )
    survey_dataset(changed, 1, tmp_path / "cache")
    voxels[-1] ^= 1
    path.with_suffix("").write_bytes(voxels)
    third = tmp_path / "third"
    other.rename(third)
    reads.clear()
    survey_dataset(at(third, changed), 1, tmp_path / "cache")
    assert "images/b.nii" in reads and "images/a" not in reads


@pytest.mark.parametrize("notes", [{}, {"identity": None}, [], None])
def test_a_cache_file_without_its_notes_is_rebuilt(
    dataset: DatasetDescription, tmp_path: Path, reads: list[str], notes: Any
):
    cache = tmp_path / "cache"
    (first, *_) = survey_dataset(dataset, 1, cache)
    with cache_file(cache, "a").open("wb") as file:
        first.facts.save(file, notes)
    reads.clear()
    survey_dataset(dataset, 1, cache)
    assert sorted(reads) == ["images/a", "images/t", "labels/a"]


@pytest.mark.parametrize(
    "change",
    [
        {"labels": LabelScheme(("background", "organ", "lesion"))},
        {"channel_names": ("CT",)},
    ],
)
def test_other_tables_of_names_are_checked_again(
    dataset: DatasetDescription, tmp_path: Path, reads: list[str], change: dict[str, Any]
):
    survey_dataset(dataset, 1, tmp_path / "cache")
    reads.clear()
    survey_dataset(replace(dataset, **change), 1, tmp_path / "cache")
    assert len(reads) == 2 * NUM_TRAINING + 1


def test_a_table_that_lacks_a_value_is_an_error_although_the_files_are_known(
    dataset: DatasetDescription, tmp_path: Path
):
    survey_dataset(dataset, 1, tmp_path / "cache")
    other = replace(dataset, labels=LabelScheme(dataset.labels.names, (0, 255)))
    findings = all_findings(survey_dataset(other, 1, tmp_path / "cache"))
    assert len(findings) == NUM_TRAINING
    assert all("not listed: 1 " in finding.problem for finding in findings)


@pytest.mark.parametrize("fault", ["damaged", "bad value"])
def test_cases_with_errors_are_read_again_every_time(
    dataset: DatasetDescription, tmp_path: Path, reads: list[str], fault: str
):
    path = Path(dataset.training[1]["label"])
    if fault == "damaged":
        path.write_bytes(path.read_bytes()[:60])
    else:
        save_nifti(path, np.full(SHAPE, 7, np.uint8))
    first = survey_dataset(dataset, 1, tmp_path / "cache")
    assert [finding.case for finding in all_findings(first)] == ["b"]
    assert first[1].facts is None
    reads.clear()
    assert as_data(survey_dataset(dataset, 1, tmp_path / "cache")) == as_data(first)
    assert "images/b" in reads and "labels/b" in reads
    assert not list((tmp_path / "cache").glob("b-*"))


def test_warnings_are_remembered(dataset: DatasetDescription, tmp_path: Path, reads: list[str]):
    save_nifti(Path(dataset.training[1]["label"]), np.zeros(SHAPE, np.uint8))
    first = all_findings(survey_dataset(dataset, 1, tmp_path / "cache"))
    assert [finding.problem for finding in first] == ["its label is empty"]
    reads.clear()
    assert all_findings(survey_dataset(dataset, 1, tmp_path / "cache")) == first
    assert reads == ["images/t"]


def test_two_cases_of_the_same_name_are_cached_separately(
    dataset: DatasetDescription, tmp_path: Path, reads: list[str]
):
    image = save_nifti(
        tmp_path / "more" / "a.nii.gz", np.random.default_rng(5).random(SHAPE, np.float32)
    )
    other = {"image": str(image), "label": dataset.training[0]["label"]}
    both = replace(dataset, training=(dataset.training[0], other), test=())
    assert [name_of(case) for case in both.training] == ["a", "a"]
    first = survey_dataset(both, 1, tmp_path / "cache")
    reads.clear()
    assert as_data(survey_dataset(both, 1, tmp_path / "cache")) == as_data(first)
    assert reads == []
    assert first[0].digest != first[1].digest


def test_a_test_image_that_is_a_training_image(dataset: DatasetDescription, tmp_path: Path):
    # of the same name, in another folder
    copy = tmp_path / "imagesTs" / "a.nii.gz"
    copy.parent.mkdir()
    copy.write_bytes(Path(dataset.training[0]["image"]).read_bytes())
    leaking = replace(dataset, test=({"image": str(copy)},))
    (finding,) = all_findings(survey_dataset(leaking))
    assert (finding.case, finding.severity) == ("a", "warning")
    assert "identical to that of a" in finding.problem


def test_a_cache_that_cannot_be_written(dataset: DatasetDescription, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write to"):
        survey_dataset(dataset, 1, tmp_path / "file" / "cache")


def test_a_data_set_without_names_accepts_any_labels(tmp_path: Path):
    image = np.random.default_rng(0).random((*SHAPE, 2), np.float32)
    label = np.zeros(SHAPE, np.uint8)
    label[2], label[5] = 128, 255
    case = {
        "image": str(save_nifti(tmp_path / "a.nii.gz", image)),
        "label": str(save_nifti(tmp_path / "m.nii.gz", label)),
    }
    (survey,) = survey_dataset(DatasetDescription("Plain", (), LabelScheme(()), (case,), ()))
    assert survey.findings == ()
    assert survey.facts.label_voxels == {0: 9 * 56 - 112, 128: 56, 255: 56}
    assert len(survey.facts.intensities) == 2


def test_another_ignore_value_means_another_survey(
    dataset: DatasetDescription, tmp_path: Path, reads: list[str]
):
    label = np.zeros(SHAPE, np.uint8)
    label[:2], label[2:4] = 1, 7
    save_nifti(Path(dataset.training[0]["label"]), label)
    plain = survey_dataset(dataset, 1, tmp_path / "cache")
    assert [finding.severity for finding in plain[0].findings] == ["error"]
    ignoring = replace(dataset, labels=LabelScheme(dataset.labels.names, ignore_value=7))
    first = survey_dataset(ignoring, 1, tmp_path / "cache")
    assert all(survey.findings == () for survey in first)
    assert first[0].facts.label_voxels == {0: label[4:].size, 1: label[:2].size}
    reads.clear()
    assert as_data(survey_dataset(ignoring, 1, tmp_path / "cache")) == as_data(first)
    assert reads == ["images/t"]

"""From a DICOM series to DICOM objects for a PACS, through the unchanged inference.json."""

import json

import nibabel as nib
import numpy as np
import pytest
from conftest import run_script
from helpers.predictions import prediction, run_of, threshold_weights

from dynunet_bundle.dicom_input.names import short_name
from dynunet_bundle.errors import CaseError, ConfigError, PredictionError

pytest.importorskip("highdicom")

from helpers.dicom_readers import (  # noqa: E402
    read_probabilities,
    read_rtstruct,
    read_seg,
)
from helpers.made_dicom import PATIENT, make_enhanced, make_series, oblique, straight  # noqa: E402

from dynunet_bundle.dicom_input.series import load_series  # noqa: E402


def body() -> np.ndarray:
    array = np.random.default_rng(0).integers(1, 20, (20, 18, 14)).astype(np.int16)
    array[3:12, 4:12, 3:10] = 60
    array[6:9, 6:9, 4:9] = 120
    return array


@pytest.fixture
def weights(tmp_path):
    return threshold_weights(tmp_path / "model.pt")


@pytest.mark.parametrize("kind", ["straight", "oblique", "enhanced"])
def test_the_segmentation_is_the_mask_on_the_slices_of_the_series(tmp_path, weights, kind):
    affine = oblique() if kind == "oblique" else straight()
    folder = tmp_path / PATIENT / "study"
    if kind == "enhanced":
        make_enhanced(folder / "file", body(), affine)
    else:
        make_series(folder, body(), affine)
    out = tmp_path / "out"
    objects = ["seg", "fractional", "rtstruct", "report"]
    # the spacing of the series: nothing is resampled, so the correct result is known
    spacing = [2.5, 1.1, 0.8] if kind != "oblique" else [1.0, 1.0, 1.0]
    prediction(folder, out, weights, dicom_objects=objects, spacing=spacing).run()
    case = next(iter(run_of(out)["cases"]))
    assert run_of(out)["cases"][case]["objects"] == [
        f"{case}.{name}.dcm" for name in ("seg", "fractional", "rtstruct", "report")
    ]
    series = load_series(str(folder))
    saved = nib.load(out / f"{case}.nii.gz")
    mask = np.asarray(saved.dataobj)
    np.testing.assert_allclose(saved.affine, series.affine, atol=1e-4)
    assert np.array_equal(read_seg(out / f"{case}.seg.dcm", series), mask)
    labels = {"Anterior": 1, "Posterior": 2}
    found = read_rtstruct(out / f"{case}.rtstruct.dcm", series, labels)
    assert np.array_equal(found, mask)
    shares = read_probabilities(out / f"{case}.fractional.dcm", series)
    assert np.array_equal(shares["Posterior"] > 0.5, mask == 2)
    if kind != "oblique":
        expected = (body() > 35).astype(int) + (body() > 90)
        assert np.array_equal(mask, expected)
    assert PATIENT not in (out / "run.json").read_text() + "".join(p.name for p in out.iterdir())


def test_an_empty_mask_gives_no_object(tmp_path, weights):
    make_series(tmp_path / "in", np.minimum(body(), 19), straight())
    prediction(tmp_path / "in", tmp_path / "out", weights).run()
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".gz", ".json"}


@pytest.mark.parametrize(
    ("objects", "words"),
    [(["pdf"], 'sets dicom_objects to ["pdf"]'), (["report"], "dicom_objects is ['report']")],
)
def test_objects_that_cannot_be_made_are_refused(tmp_path, weights, objects, words):
    make_series(tmp_path / "in", body(), straight())
    with pytest.raises((ConfigError, RuntimeError)) as caught:
        prediction(tmp_path / "in", tmp_path / "out", weights, dicom_objects=objects).run()
    assert words in str(caught.value) + str(caught.value.__cause__)


def test_a_series_that_allows_no_object_is_one_bad_case(tmp_path, weights):
    """Its mask is written, the other studies are finished, and run.json says what is missing."""
    for number in range(3):
        make_series(
            tmp_path / "in" / str(number),
            body() + number,
            straight(),
            study_uid=f"1.2.{number}",
            series_uid=f"1.2.{number}.1" if number != 1 else "1.2.Doe",
        )
    out = tmp_path / "out"
    objects = ["seg", "rtstruct", "report"]
    with pytest.raises(PredictionError, match="1 of 3 cases failed") as caught:
        prediction(tmp_path / "in", out, weights, dicom_objects=objects).run()
    assert caught.value.exit_code == 1 and "Doe" not in str(caught.value)
    run = run_of(out)
    bad = short_name("1.2.Doe")
    assert (run["status"], run["exit_code"], set(run["cases"])) == (
        *("failed", 1),
        {bad, short_name("1.2.0.1"), short_name("1.2.2.1")},
    )
    for name, case in run["cases"].items():
        assert (case["status"] == "failed") == (name == bad)
        assert (out / case["mask"]).is_file()
        assert case["objects"] == [f"{name}.{kind}.dcm" for kind in objects if name != bad]
        assert set(case["refused"]) == (set(objects) if name == bad else set())
    assert "SeriesInstanceUID of the series is not a UID" in run["cases"][bad]["refused"]["seg"]
    assert not list(out.glob(f"{bad}.*.dcm"))


def test_a_tilted_series_gives_a_marked_mask_alone(tmp_path, weights):
    affine = straight()
    affine[1, 2] = np.tan(np.radians(15)) * affine[2, 2]
    make_series(tmp_path / "in", body(), affine)
    out = tmp_path / "out"
    spacing = [2.5 / np.cos(np.radians(15)), 1.1, 0.8]  # nothing is resampled
    with pytest.raises(PredictionError, match="sheared"):
        prediction(
            tmp_path / "in", out, weights, series_rules={"tilt": True}, spacing=spacing
        ).run()
    (name, case), *_ = run_of(out)["cases"].items()
    assert name.endswith("_GantryTiltkept") and list(case["refused"]) == ["seg"]
    assert [flag["kind"] for flag in case["flags"]] == ["sheared"]
    assert case["sheared_degrees"] == pytest.approx(15, abs=0.01)
    saved = nib.load(out / case["mask"])
    np.testing.assert_allclose(saved.affine, affine, atol=1e-4)
    expected = (body() > 35).astype(int) + (body() > 90)
    assert np.array_equal(np.asarray(saved.dataobj), expected)


def test_an_unreadable_study_is_one_bad_case(tmp_path, weights):
    for number in range(3):
        tags = {"PhotometricInterpretation": "MONOCHROME1"} if number == 1 else {}
        names = {"study_uid": f"1.2.{number}", "series_uid": f"1.2.{number}.1"}
        make_series(tmp_path / "in" / str(number), body(), straight(), tags=tags, **names)
    damaged = tmp_path / "in" / "2" / "005.dcm"
    damaged.write_bytes(damaged.read_bytes()[:300])
    with pytest.raises(PredictionError, match="2 of 3 cases failed") as caught:
        prediction(tmp_path / "in", tmp_path / "out", weights).run()
    assert "MONOCHROME1" in str(caught.value) and "is damaged" in str(caught.value)
    done = [
        name for name, case in run_of(tmp_path / "out")["cases"].items() if case["status"] == "done"
    ]
    assert done == [short_name("1.2.0.1")]


def test_a_gap_is_refused_and_nothing_is_written(tmp_path, weights):
    make_series(tmp_path / "in", body(), straight())
    sorted(path for path in (tmp_path / "in").rglob("*") if path.is_file())[5].unlink()
    with pytest.raises(CaseError, match="missing slice after"):
        prediction(tmp_path / "in", tmp_path / "out", weights).run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]


def test_a_run_goes_on_unless_the_series_or_what_is_wanted_has_changed(tmp_path, weights):
    make_series(tmp_path / "in", body(), straight())
    prediction(tmp_path / "in", tmp_path / "out", weights).run()

    def remaining(**overrides):
        workflow = prediction(tmp_path / "in", tmp_path / "out", weights, resume=True, **overrides)
        return len(workflow.parser.get_parsed_content("record").remaining())

    assert remaining() == 0
    assert remaining(dicom_objects=["seg", "rtstruct"]) == 1
    codes = {"Anterior": ["1", "99TEST", "a"]}
    assert remaining(label_codes=codes) == 1
    next((tmp_path / "out").glob("*.seg.dcm")).unlink()
    assert remaining() == 1
    prediction(tmp_path / "in", tmp_path / "out", weights, resume=True).run()
    assert remaining() == 0
    make_series(tmp_path / "in", body() + 1, straight())
    assert remaining() == 1


def test_a_study_with_several_series_asks_which(tmp_path):
    make_series(tmp_path / "in" / "one", body(), straight())
    make_series(tmp_path / "in" / "two", body(), straight(), series_uid="1.2.3", modality="CT")
    arguments = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    done = run_script("predict", *arguments)
    assert done.returncode == 2 and "contains 2 series that fit" in done.stderr
    assert PATIENT not in done.stdout + done.stderr
    # in bundle/models are weights
    chosen = run_script("predict", *arguments, "--series", json.dumps({"modality": "CT"}))
    assert chosen.returncode == 0, chosen.stderr
    assert list(run_of(tmp_path / "out")["cases"]) == [short_name("1.2.3")]
    broken = run_script("predict", *arguments, "--series", "{modality}")
    assert broken.returncode == 2 and "not valid JSON" in broken.stderr

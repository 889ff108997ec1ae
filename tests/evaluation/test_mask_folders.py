"""Folders of masks: pairs of files, the meaning of their values, and refusals."""

import csv
import io
import json
import re

import nibabel as nib
import numpy as np
import pytest
from conftest import BUNDLE, run_script, save_nifti, save_picture

from dynunet_bundle.errors import CaseError, ConfigError, DatasetError, PlanError
from dynunet_bundle.evaluation.mask_folders import find_masks, label_ids, measure_masks
from dynunet_bundle.evaluation.scores import summarize_measures
from dynunet_bundle.evaluation.text_tables import format_measures, measures_csv
from dynunet_bundle.images.read import Volume

NAMES = ["background", "head", "tail"]


@pytest.fixture
def folders(tmp_path):
    reference = np.zeros((5, 5, 5), np.uint8)
    reference[1:3] = 1
    reference[4] = 2
    prediction = reference.copy()
    prediction[2] = 0
    for name in ("x", "y"):
        save_nifti(tmp_path / "labels" / f"{name}.nii.gz", reference)
    save_nifti(tmp_path / "predictions" / "x.nii.gz", prediction)
    return tmp_path


def measure(folder, *arguments, **ids):
    masks = find_masks(str(folder / "predictions"), str(folder / "labels"), *arguments, **ids)
    return measure_masks(masks), masks.labels.target_names


def score(folder, *arguments, **ids):
    """The Dice by case, and the names of the scored classes or regions."""
    measures, names = measure(folder, *arguments, **ids)
    return {case: [row["dice"] for row in rows] for case, rows in measures.items()}, names


def test_folders_are_paired_by_name(folders):
    scores, names = score(folders, NAMES)
    assert scores == {"x": [2 / 3, 1.0]}
    assert names == NAMES


def test_classes_without_names_are_named_by_their_values(folders):
    _, names = score(folders)
    assert names == ["background", "1", "2"]


def test_a_prediction_without_label_is_an_error(folders):
    (folders / "labels" / "x.nii.gz").unlink()
    with pytest.raises(DatasetError, match="has no label for x"):
        score(folders)


def link_away(folder, *names):
    """Replace files by links to files of one other name, as in a store of files by their hash."""
    for number, name in enumerate(names):
        target = folder.parent / "store" / f"{folder.name}{number}" / "SHA256E-s10"
        target.parent.mkdir(parents=True)
        (folder / name).rename(target)
        (folder / name).symlink_to(target)


def test_linked_masks_are_paired_by_the_names_of_the_links(folders):
    save_nifti(folders / "predictions" / "y.nii.gz", np.zeros((5, 5, 5), np.uint8))
    expected = score(folders, NAMES)
    assert list(expected[0]) == ["x", "y"]
    for folder in ("predictions", "labels"):
        link_away(folders / folder, "x.nii.gz", "y.nii.gz")
    assert score(folders, NAMES) == expected


@pytest.mark.parametrize("name", ["", "labels", "dataset.json"])
def test_a_data_set_names_the_label_of_each_case(folders, name):
    labels = folders / "labels"
    (labels / "x.nii.gz").rename(labels / "label1.nii.gz")
    # a label with the name of another case is not taken for that case
    save_nifti(labels / "x.nii.gz", np.zeros((5, 5, 5), np.uint8))
    pairs = {"x": "label1", "other": "x"}
    entries = [
        {"image": f"./images/{image}.nii.gz", "label": f"./labels/{label}.nii.gz"}
        for image, label in pairs.items()
    ]
    content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "head", "2": "tail"}}
    (folders / "dataset.json").write_text(json.dumps(content | {"training": entries}))
    masks = find_masks(str(folders / "predictions"), str(folders / name), NAMES)
    assert {case: files[1] for case, files in masks.files.items()} == {
        "x": str(labels / "label1.nii.gz")
    }
    assert measure_masks(masks)["x"][0]["dice"] == 2 / 3


@pytest.mark.parametrize("empty", ["predictions", "labels"])
def test_an_empty_path_is_not_the_current_folder(folders, monkeypatch, empty):
    paths = {name: str(folders / name) for name in ("predictions", "labels")}
    monkeypatch.chdir(paths[empty])
    with pytest.raises(DatasetError, match="a path is empty"):
        find_masks(**paths | {empty: ""})


def test_a_dataset_json_that_is_not_of_these_labels_is_left_out(folders, caplog):
    (folders / "dataset.json").write_text("{}")
    assert list(score(folders, NAMES)[0]) == ["x"]
    assert "labels are paired by file name" in caplog.text


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([1, 1, 2, 1])], ids=["shape", "affine"])
def test_different_grids_are_an_error(folders, affine):
    shape = (5, 5, 6) if np.array_equal(affine, np.eye(4)) else (5, 5, 5)
    save_nifti(folders / "predictions" / "x.nii.gz", np.ones(shape, np.uint8), affine)
    with pytest.raises(CaseError, match="case x: prediction and label are on different grids"):
        score(folders)


def test_values_without_a_name_are_an_error(folders):
    message = "case x: the prediction has the value 2, but the values of background, head are 0, 1"
    with pytest.raises(CaseError, match=message):
        score(folders, NAMES[:2])


def test_a_value_without_a_name_is_found_on_its_side(folders):
    save_nifti(folders / "predictions" / "y.nii.gz", np.ones((5, 5, 5), np.uint8))
    reference = np.ones((5, 5, 5), np.uint8)
    reference[0, 0, 0] = 7
    save_nifti(folders / "labels" / "y.nii.gz", reference)
    message = "case y: the reference has the value 7, but the values of background, head, tail are 0, 1, 2"
    with pytest.raises(CaseError, match=f"{message}.*--label_names and --label_values"):
        score(folders, NAMES)


# --- values with gaps


@pytest.fixture
def gaps(tmp_path):
    """Pictures of 0, 128 and 255; the prediction has half of 128 and all of 255."""
    reference = np.zeros((6, 8), np.uint8)
    reference[1:3] = 128
    reference[4] = 255
    prediction = reference.copy()
    prediction[2] = 0
    save_picture(tmp_path / "labels" / "x.png", reference)
    save_picture(tmp_path / "predictions" / "x.png", prediction)
    return tmp_path


def test_values_with_gaps_are_classes(gaps):
    scores, names = score(gaps, NAMES, [0, 128, 255])
    assert scores == {"x": [2 / 3, 1.0]}
    assert names == NAMES


def test_pictures_are_measured_in_pixels(gaps):
    for folder in ("labels", "predictions"):
        (gaps / folder / "x.png").rename(gaps / folder / "y.png")
    command = ["--predictions", gaps / "predictions", "--labels", gaps / "labels"]
    done = run_script("evaluate", *command, "--csv", gaps / "s.csv", "--report", gaps / "r.html")
    assert done.returncode == 0, done.stderr
    scores = json.loads((gaps / "predictions" / "scores.json").read_text())
    assert scores["nsd_tolerance_px"] == 1 and "nsd_tolerance_mm" not in scores
    measures = scores["measures"]["y"]["128"]
    assert list(measures) == list(scores["statistics"]["128"])
    assert (measures["area_px2"], measures["reference_area_px2"]) == (8, 16)
    assert (measures["area_difference_px2"], measures["hd95_px"]) == (-8, 1)
    # no mm and no ml, in any file or on the terminal
    shown = [done.stdout, (gaps / "s.csv").read_text(), json.dumps(scores)]
    page = (gaps / "r.html").read_text(encoding="utf-8")
    shown.append(re.sub(r"<style>.*?</style>|base64,[^\"]*", "", page, flags=re.DOTALL))
    for text in shown:
        assert not re.search(r"_mm\b|_ml\b|\bmm\b|\bml\b", text)
    assert "area bias: 128 -50.0 % (-8 px\u00b2)" in page
    assert "Caution: 1 case only." in page


def test_a_picture_and_a_volume_have_their_own_units(gaps):
    mask = np.ones((4, 4, 4), np.uint8) * 255
    for folder in ("labels", "predictions"):
        save_nifti(gaps / folder / "v.nii.gz", mask)
    summary = summarize_measures(
        measure_masks(find_masks(str(gaps / "predictions"), str(gaps / "labels"))),
        ["b", "128", "255"],
        1.0,
    )
    statistics = summary["statistics"]["255"]
    assert statistics["volume_ml"]["mean"] == pytest.approx(0.064)
    assert statistics["area_px2"]["mean"] == 8
    assert statistics["hd95_px"]["num_cases"] == statistics["hd95_mm"]["num_cases"] == 1
    rows = list(csv.DictReader(io.StringIO(measures_csv(summary).decode())))
    assert [row["volume_ml"] for row in rows if row["class"] == "255"] == ["0.064", ""]
    format_measures(summary)


def test_classes_with_gaps_are_named_by_the_values_that_occur(gaps):
    assert score(gaps) == ({"x": [2 / 3, 1.0]}, ["background", "128", "255"])
    assert score(gaps, None, [0, 5, 128, 255]) == (
        {"x": [None, 2 / 3, 1.0]},
        ["background", "5", "128", "255"],
    )


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (NAMES, None),
        (NAMES, [0, 1, 2]),
        (NAMES, [0, 128]),
        (NAMES[:2], [0, 128, 255]),
        (None, [0, 128]),
        (None, [128, 255]),
    ],
)
def test_tables_that_do_not_fit_the_masks(gaps, names, values):
    problem = r"(case x: the prediction has the value \d+|\d names|lack 0, the background)"
    message = f"{problem}.*--label_names and --label_values"
    with pytest.raises(DatasetError, match=message):
        score(gaps, names, values)


@pytest.mark.parametrize("values", [[0, 255, 128], [0, 128, 255, 255]])
def test_values_in_any_other_order_would_be_mixed_up(gaps, values):
    names = [*NAMES, "more"][: len(values)]
    with pytest.raises(DatasetError, match="must ascend"):
        score(gaps, names, values)


def test_negative_values_are_no_classes(folders):
    save_nifti(folders / "predictions" / "x.nii.gz", np.full((5, 5, 5), -1, np.int16))
    with pytest.raises(DatasetError, match="case x: the prediction has the value -1"):
        score(folders)


def test_the_script_takes_values(gaps):
    arguments = ("--predictions", gaps / "predictions", "--labels", gaps / "labels")
    result = run_script(
        "evaluate", *arguments, "--label_names", *NAMES, "--label_values", "0", "128", "255"
    )
    assert result.returncode == 0, result.stderr
    assert "0.6667  1.0000" in result.stdout


# --- regions and ignored voxels

REGIONS = {"body": [128, 255], "end": [255]}


def test_regions_are_scored_in_place_of_the_classes(gaps):
    # 16 of 24 voxels of the body are found, and no others
    expected = {"x": [2 * 16 / 40, 1.0]}
    arguments = (NAMES, [0, 128, 255], None, REGIONS, [128, 255])
    assert score(gaps, *arguments) == (expected, ["background", "body", "end"])
    assert score(gaps, None, None, None, REGIONS, [128, 255])[0] == expected


def test_ignored_voxels_are_left_out(gaps):
    reference = np.zeros((6, 8), np.uint8)
    reference[1], reference[2], reference[4] = 128, 7, 255
    save_picture(gaps / "labels" / "x.png", reference)
    arguments = (NAMES, [0, 128, 255], 7)
    assert score(gaps, *arguments)[0] == {"x": [1.0, 1.0]}
    assert score(gaps, None, None, 7) == ({"x": [1.0, 1.0]}, ["background", "128", "255"])
    prediction = reference.copy()
    prediction[2] = 255
    save_picture(gaps / "predictions" / "x.png", prediction)
    assert score(gaps, *arguments)[0] == {"x": [1.0, 1.0]}
    # networks never predict it
    save_picture(gaps / "predictions" / "x.png", reference)
    with pytest.raises(DatasetError, match="case x: the prediction has the value 7"):
        score(gaps, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((128, None), "ignore_value is 128"),
        ((None, {"body": [3]}), '"body" is'),
        ((None, {"body": [128]}, [255]), "writes 255"),
    ],
)
def test_what_does_not_fit_is_refused(gaps, arguments, message):
    with pytest.raises(PlanError, match=message):
        score(gaps, NAMES, [0, 128, 255], *arguments)


def test_the_script_takes_task_overlays(gaps):
    first, second = gaps / "first.json", gaps / "second.json"
    plan = {"label_names": NAMES, "label_values": [0, 128, 255], "regions": {"all": [128]}}
    first.write_text(json.dumps({**plan, "regions_class_order": [128], "epochs": 3}))
    second.write_text(json.dumps({"regions": REGIONS, "regions_class_order": [128, 255]}))
    arguments = ("--predictions", gaps / "predictions", "--labels", gaps / "labels")
    result = run_script("evaluate", *arguments, "--config_file", first, second)
    assert result.returncode == 0, result.stderr
    saved = json.loads((gaps / "predictions" / "scores.json").read_text())
    assert saved["mean"] == {"body": 0.8, "end": 1.0}


def test_overlays_say_what_they_say_of_labels(tmp_path):
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"ignore_value": 4, "epochs": 3}))
    assert label_ids([str(overlay)], BUNDLE / "configs") == {"ignore_value": 4}
    overlay.write_text(json.dumps({"region": {}}))
    with pytest.raises(ConfigError, match='"region".*did you mean "regions"'):
        label_ids([str(overlay)], BUNDLE / "configs")


# --- files


def test_masks_of_other_formats_are_paired_with_any_label(gaps):
    # what a BMP's label is read as, and where a NIfTI of a picture lies
    reference = np.zeros((6, 8), np.uint8)
    reference[1:3] = 128
    reference[4] = 255
    (gaps / "labels" / "x.png").unlink()
    save_picture(gaps / "labels" / "x.bmp", reference)
    assert score(gaps)[0] == {"x": [2 / 3, 1.0]}
    (gaps / "labels" / "x.bmp").unlink()
    volume = reference.T[..., np.newaxis]
    save_nifti(gaps / "labels" / "x.nii.gz", volume, np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert score(gaps)[0] == {"x": [2 / 3, 1.0]}


def test_names_that_end_like_channels_are_names(folders):
    for folder in ("predictions", "labels"):
        path = folders / folder / "x.nii.gz"
        path.rename(path.with_name("scan_0000.nii.gz"))
    (folders / "labels" / "y.nii.gz").unlink()
    assert score(folders, NAMES)[0] == {"scan_0000": [2 / 3, 1.0]}


@pytest.mark.parametrize("folder", ["predictions", "labels"])
def test_a_damaged_mask_names_the_case(folders, folder):
    path = folders / folder / "x.nii.gz"
    path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(CaseError, match=r"case x: cannot read x\.nii\.gz"):
        score(folders, NAMES)


def test_a_mask_with_channels_is_an_error(folders):
    save_nifti(folders / "predictions" / "x.nii.gz", np.ones((5, 5, 5, 2), np.uint8))
    with pytest.raises(CaseError, match="case x: its masks have 2 channels"):
        score(folders, NAMES)


@pytest.mark.parametrize("folder", ["labels", "predictions"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e9])
def test_a_mask_with_other_numbers_than_labels_is_an_error(folders, folder, value):
    mask = np.zeros((5, 5, 5), np.float32)
    mask[1, 1, 1] = value
    save_nifti(folders / folder / "x.nii.gz", mask)
    with pytest.raises(CaseError, match="case x: its mask has values that are NaN, infinite"):
        score(folders, NAMES)


def test_voxels_without_volume_name_the_case(folders, monkeypatch):
    flat = Volume(np.ones((1, 2, 2, 2)), np.diag([1.0, 1, 0, 1]))
    monkeypatch.setattr("dynunet_bundle.evaluation.mask_folders.read_volume", lambda path: flat)
    with pytest.raises(CaseError, match="case x: the affine .* gives its voxels a volume of 0"):
        measure(folders)


def test_cases_are_measured_on_the_grid_of_their_files(folders):
    # the file says how large voxels are: here 0.5 mm along the axis on which the masks differ
    affine = np.array([[0, 0, 2.0, 1], [-0.5, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]])
    for path in folders.glob("*/x.nii.gz"):
        save_nifti(path, np.asarray(nib.load(path).dataobj), affine)
    measures, names = measure(folders, label_names=NAMES)
    head, tail = measures["x"]
    assert (names, head["dice"], tail["hd95_mm"]) == (NAMES, 2 / 3, 0)
    # the layer that is not found, 25 voxels of 1 mm3
    assert head["hd95_mm"] == pytest.approx(0.5)
    assert head["volume_difference_ml"] == pytest.approx(-25 / 1000)


def test_masks_of_more_classes_than_can_be_told_apart(tmp_path):
    many = np.arange(343, dtype=np.int16).reshape(7, 7, 7)
    for folder in ("predictions", "labels"):
        save_nifti(tmp_path / folder / "x.nii.gz", many)
    with pytest.raises(DatasetError, match="there are 343 label values, but at most 255"):
        score(tmp_path)


def test_the_script_prints_and_saves(folders):
    arguments = ("--predictions", folders / "predictions", "--labels", folders / "labels")
    names = ("--label_names", *NAMES, "--nsd_tolerance_mm", "0.25")
    files = [folders / "new" / name for name in ("scores.json", "all.csv")]
    outputs = ("--output", files[0], "--csv", files[1])
    result = run_script("evaluate", *arguments, *names, *outputs)
    assert result.returncode == 0, result.stderr
    assert "0.6667  1.0000" in result.stdout
    assert "nsd at 0.25 mm" in result.stdout
    assert f"saved to {files[0]}, {files[1]}" in result.stdout
    saved = json.loads(files[0].read_text())
    assert saved["cases"]["x"]["tail"] == 1.0
    assert saved["measures"]["x"]["head"]["sensitivity"] == 0.5
    assert files[1].read_text().splitlines()[1].startswith("x,head,0.66666")
    assert not (folders / "predictions" / "scores.json").exists()


@pytest.mark.parametrize("missing", ["predictions", "labels"])
def test_the_script_answers_bad_input_in_one_line(folders, missing):
    paths = {name: folders / name for name in ("predictions", "labels")}
    paths[missing] = folders / "none"
    options = [part for name, path in paths.items() for part in (f"--{name}", path)]
    result = run_script("evaluate", *options)
    assert result.returncode == 2
    message = f"error: {paths[missing]} does not exist. Pass --{missing} with a folder of masks.\n"
    assert result.stderr == message
    assert "Traceback" not in result.stderr

"""Sources of class names and values: options, then overlays, then the run that made the masks."""

import json

import numpy as np
import pytest
from conftest import BUNDLE, run_script, save_nifti

from dynunet_bundle.errors import ConfigError
from dynunet_bundle.evaluation.label_source import find_label_source, with_names

RUN = {
    "label_names": ["background", "head", "tail"],
    "label_values": [0, 1, 2],
    "plan": {"ignore_value": 9, "regions": None, "regions_class_order": None},
    "cases": {
        "x": {
            "status": "done",
            "mask": "x.nii.gz",
            "volumes_ml": {"head": 1.5, "tail": 0.5},
            "flags": [
                {"kind": "volume", "label": "head", "message": "head has 1.50 ml, overhead 1"},
                {"kind": "intensity", "label": None, "message": "head is dark"},
            ],
        }
    },
}
QUICK = BUNDLE / "configs" / "quick.json"


@pytest.fixture
def folders(tmp_path):
    mask = np.zeros((6, 6, 6), np.uint8)
    mask[1:3], mask[4] = 1, 2
    for folder in ("images", "labels", "masks", "other"):
        save_nifti(tmp_path / folder / "x.nii.gz", mask)
    (tmp_path / "masks" / "run.json").write_text(json.dumps(RUN))
    return tmp_path


def source(folder, names=None, values=None, overlays=()):
    given = {"label_names": names, "label_values": values}
    return find_label_source(given, list(map(str, overlays)), BUNDLE / "configs", folder / "masks")


def overlay(folder, **content):
    path = folder / "overlay.json"
    path.write_text(json.dumps(content))
    return path


def test_an_ensemble_names_its_classes_up_to_the_comparison(folders):
    for name, prediction in (("ensemble", "other"), ("single", "masks")):
        (folders / prediction).rename(folders / name)
    record = {"members": ["a"], "weights": None, "keep_largest": []}
    labels = {key: RUN[key] for key in ("label_names", "label_values")}
    (folders / "ensemble" / "ensemble.json").write_text(
        json.dumps(record | labels | {"ignore_value": None, "regions": None})
    )
    for name in ("ensemble", "single"):
        command = ["--predictions", folders / name, "--labels", folders / "labels"]
        assert run_script("evaluate", *command).returncode == 0
    done = run_script("compare", folders / "ensemble", folders / "single")
    assert done.returncode == 0
    assert "head: A and B are equal in 1 pair." in done.stdout
    # that of an older version has no names
    (folders / "ensemble" / "ensemble.json").write_text(json.dumps(record))
    given = {"label_names": None, "label_values": None}
    assert not find_label_source(given, [], BUNDLE / "configs", folders / "ensemble").ids


OF_RUN = {"label_names": RUN["label_names"], "label_values": [0, 1, 2], "ignore_value": 9}


def test_the_run_is_asked_where_nobody_names_the_classes(folders):
    for overlays in ((), (QUICK,)):
        ids, told = source(folders, overlays=overlays)
        assert ids == OF_RUN
        assert told == f"class names and values: from {folders / 'masks' / 'run.json'}"
    assert source(folders, overlays=[overlay(folders, ignore_value=7)]).ids == {
        **OF_RUN,
        "ignore_value": 7,
    }
    assert source(folders, values=[0, 1, 2]).ids == OF_RUN


def test_whoever_names_the_classes_wins_over_the_run(folders):
    ids, told = source(folders, names=["a", "b", "c"])
    assert (ids, told) == ({"label_names": ["a", "b", "c"]}, "class names: from --label_names")
    path = overlay(folders, label_names=["d", "e", "f"])
    ids, told = source(folders, overlays=[path])
    assert (ids, told) == ({"label_names": ["d", "e", "f"]}, "class names: from --config_file")
    assert source(folders, ["a", "b", "c"], overlays=[path]).ids == {"label_names": ["a", "b", "c"]}


def test_other_values_take_no_names_from_the_run(folders):
    ids, told = source(folders, values=[0, 1, 2, 3])
    assert ids == {"label_values": [0, 1, 2, 3]}
    assert told.startswith("classes are named by their values")


def test_regions_are_those_of_the_run_unless_an_overlay_has_some(folders):
    regions = {"regions": {"all": [1, 2], "end": [2]}, "regions_class_order": [1, 2]}
    (folders / "masks" / "run.json").write_text(json.dumps({**RUN, "plan": regions}))
    names = {key: RUN[key] for key in ("label_names", "label_values")}
    assert source(folders).ids == names | regions
    path = overlay(folders, regions=None, regions_class_order=None)
    ids = source(folders, overlays=[path]).ids
    assert ids["regions"] is None and ids["regions_class_order"] is None


@pytest.mark.parametrize("content", [None, {}, {"label_names": ["a"], "label_values": None}])
def test_without_a_usable_run_classes_go_by_their_values(folders, content):
    file = folders / "masks" / "run.json"
    file.unlink() if content is None else file.write_text(json.dumps(content))
    ids, told = source(folders)
    assert ids == {}
    assert told.startswith("classes are named by their values; pass --label_names")


def test_a_damaged_run_is_named(folders):
    (folders / "masks" / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json is not valid JSON"):
        source(folders)
    (folders / "masks" / "run.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"run\.json: the whole content: \[\] is not .*move the"):
        source(folders)


def test_a_run_takes_the_names_of_the_scores():
    renamed = with_names(RUN, {0: "background", 1: "Kopf"})
    assert renamed["label_names"] == ["background", "Kopf", "tail"]
    facts = renamed["cases"]["x"]
    assert facts["volumes_ml"] == {"Kopf": 1.5, "tail": 0.5}
    assert facts["flags"][0]["label"] == "Kopf"
    assert facts["flags"][0]["message"] == "Kopf has 1.50 ml, overhead 1"
    assert facts["flags"][1:] == RUN["cases"]["x"]["flags"][1:]
    assert with_names(RUN, {}) == RUN


def evaluate(folder, masks, *arguments):
    paths = ("--predictions", folder / masks, "--labels", folder / "labels")
    done = run_script("evaluate", *paths, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_folders_of_masks_can_be_compared(folders):
    told = evaluate(folders, "masks", "--config_file", QUICK)
    assert "run.json" in told.splitlines()[0]
    assert "mean of 1 case " in told
    evaluate(folders, "other", "--label_names", "background", "head", "tail")
    done = run_script("compare", folders / "masks", folders / "other")
    assert done.returncode == 0, done.stderr
    assert "1 case in both" in done.stdout and "head" in done.stdout


def test_a_page_has_one_name_for_each_class(folders):
    page = folders / "page.html"
    names = ("--label_names", "background", "Kopf", "Schwanz")
    evaluate(folders, "masks", *names, "--report", page, "--images", folders / "images")
    content = page.read_text(encoding="utf-8").replace("<thead", "").partition("</style>")[2]
    shown = content.partition('id="run"')[0]
    assert "Kopf has 1.50 ml" in shown and "Schwanz" in shown
    assert ">tail<" not in shown and ">head<" not in shown

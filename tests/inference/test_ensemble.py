"""Ensembles: the mean decides, on the grid of the image; members that do not match are refused."""

import json
import os
import runpy
import sys

import nibabel as nib
import numpy as np
import pytest
from conftest import ROOT, save_nifti, save_picture
from probability_cases import LABELS, REGIONS, one_hot, random_probabilities, save_case

from dynunet_bundle.errors import BundleError, CaseError, ConfigError, DatasetError, OutputError
from dynunet_bundle.evaluation.dice import dice_by_target
from dynunet_bundle.evaluation.label_source import label_ids_of_masks
from dynunet_bundle.files import case_name
from dynunet_bundle.images.read import read_volume
from dynunet_bundle.inference import ensemble as module
from dynunet_bundle.inference.ensemble import EnsembleRequest, average_classes, write_ensemble
from dynunet_bundle.inference.probabilities import read_probabilities
from dynunet_bundle.labels.scheme import LabelScheme

SHAPE = (9, 7, 5)
AFFINE = np.array([[0, 2, 0, 5], [-1.5, 0, 0, -3], [0, 0, 3, 1], [0, 0, 0, 1.0]])


@pytest.fixture
def images(tmp_path):
    for case in ("a", "b"):
        save_nifti(tmp_path / "images" / f"{case}.nii.gz", np.ones(SHAPE, np.float32), AFFINE)
    return tmp_path / "images"


@pytest.fixture
def member(tmp_path, images):
    """``member("one", seed, **labels)``: a folder with random probabilities of all images."""

    def make(name, seed, cases=("a", "b"), shape=SHAPE, affine=AFFINE, labels=LABELS):
        for number, case in enumerate(cases):
            found = random_probabilities(10 * seed + number, shape, labels["regions"] is not None)
            save_case(tmp_path / name, images / f"{case}.nii.gz", found, labels, affine)
        return tmp_path / name

    return make


def request_for(images, *members, **changes):
    return EnsembleRequest(
        **{"members": members, "images": images, "output": images.parent / "out"} | changes
    )


def mean_of_members(folders, case, weights=None):
    arrays = [np.load(folder / f"{case}.npy").astype(np.float64) for folder in folders]
    return np.average(arrays, axis=0, weights=weights)


def load(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("chunk_bytes", [1, 3 * 7 * 5 * 4 * 2, 2**26])
@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.5)])
def test_the_largest_mean_wins(images, member, monkeypatch, chunk_bytes, weights):
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    folders = [member(name, seed) for seed, name in enumerate(("one", "two", "three"))]
    masks = write_ensemble(request_for(images, *folders, weights=weights))
    assert [mask.name for mask in masks] == ["a.nii.gz", "b.nii.gz"]
    for case, mask in zip("ab", masks, strict=True):
        expected = mean_of_members(folders, case, weights).argmax(0)
        assert len(np.unique(expected)) == 3 and np.array_equal(load(mask), expected)
        assert np.array_equal(nib.load(mask).affine, AFFINE)


def test_regions_are_written_in_their_order(images, member):
    folders = [member("one", 1, labels=REGIONS), member("two", 2, labels=REGIONS)]
    mask = load(write_ensemble(request_for(images, *folders))[0])
    whole, core = mean_of_members(folders, "a") > 0.5
    expected = np.where(core, 4, np.where(whole, 1, 0))
    assert set(np.unique(expected)) == {0, 1, 4} and np.array_equal(mask, expected)


def test_an_even_chance_is_no_region_and_the_first_of_equal_classes(images, tmp_path):
    half = np.full((2, *SHAPE), 0.5)
    save_case(tmp_path / "r", images / "a.nii.gz", half, REGIONS, AFFINE)
    assert not average_classes([read_probabilities(tmp_path / "r")["a"]] * 2).any()
    equal = np.stack([np.full(SHAPE, 0.2), np.full(SHAPE, 0.4), np.full(SHAPE, 0.4)])
    save_case(tmp_path / "c", images / "a.nii.gz", equal, LABELS, AFFINE)
    assert (average_classes([read_probabilities(tmp_path / "c")["a"]] * 2) == 1).all()


def test_one_sure_member_overrules_two_doubtful_ones(images, tmp_path):
    """The mean of probabilities decides, not a vote of masks."""
    sure = one_hot(np.full(SHAPE, 2), 3)
    doubtful = np.stack([np.full(SHAPE, share) for share in (0.1, 0.5, 0.4)])
    for name, found in (("one", sure), ("two", doubtful), ("three", doubtful)):
        save_case(tmp_path / name, images / "a.nii.gz", found, LABELS, AFFINE)
    members = [tmp_path / name for name in ("one", "two", "three")]
    assert (load(write_ensemble(request_for(images, *members))[0]) == 2).all()


def test_two_members_that_err_elsewhere_are_better_together(images, tmp_path):
    truth = np.zeros(SHAPE, int)
    truth[2:7, 1:6, 1:4] = 1
    truth[4:7, 1:6, 1:4] = 2
    scores = {}
    for name, seed in (("one", 1), ("two", 2)):
        rng = np.random.default_rng(seed)
        noisy = 0.55 * one_hot(truth, 3) + 0.45 * rng.dirichlet([0.3, 0.3, 0.3], SHAPE).transpose(
            3, 0, 1, 2
        )
        noisy = np.where(rng.random(SHAPE) < 0.2, one_hot((truth + 1) % 3, 3) * 0.52 + 0.16, noisy)
        save_case(tmp_path / name, images / "a.nii.gz", noisy, LABELS, AFFINE)
        found = read_probabilities(tmp_path / name)["a"]
        scores[name] = np.mean(dice_by_target(average_classes([found]), truth, [[1], [2]]))
    together = write_ensemble(request_for(images, tmp_path / "one", tmp_path / "two"))[0]
    score = np.mean(dice_by_target(load(together).astype(int), truth, [[1], [2]]))
    assert score > max(scores.values()) + 0.02


def test_the_values_of_the_files_and_the_rules(images, tmp_path):
    labels = {**LABELS, "label_values": [0, 128, 300]}
    classes = np.zeros(SHAPE, int)
    classes[0, 0, 0] = classes[8, 6, 4] = 1
    classes[8, 5, 4] = classes[4, 4, 4] = 2
    save_case(tmp_path / "one", images / "a.nii.gz", one_hot(classes, 3), labels, AFFINE)
    expected = np.array([0, 128, 300])[classes]
    assert np.array_equal(load(write_ensemble(request_for(images, tmp_path / "one"))[0]), expected)
    expected[0, 0, 0] = expected[4, 4, 4] = 0
    kept = write_ensemble(request_for(images, tmp_path / "one", rules=[[128, 300]]))[0]
    assert np.array_equal(load(kept), expected)
    with pytest.raises(ConfigError, match="the value 1, which is not a label value"):
        write_ensemble(request_for(images, tmp_path / "one", rules=[[1]]))


def test_pictures(tmp_path):
    picture = save_picture(tmp_path / "images" / "p.png", np.zeros((6, 8), np.uint8))
    grid = read_volume(picture)
    found = random_probabilities(0, (8, 6, 1))
    for name in ("one", "two"):
        save_case(tmp_path / name, picture, found, affine=grid.affine)
    (mask,) = write_ensemble(request_for(picture.parent, tmp_path / "one", tmp_path / "two"))
    assert mask.name == "p.png"
    assert np.array_equal(read_volume(mask).array[0], found.argmax(0))


def test_lacking_cases_are_named(images, member):
    one, two = member("one", 1), member("two", 2, cases=("b",))
    with pytest.raises(DatasetError, match=r"two has no probabilities of a, which another member"):
        write_ensemble(request_for(images, one, two))
    with pytest.raises(DatasetError, match=r"two has no probabilities of a"):
        write_ensemble(request_for(images, two, one))
    (images / "a.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"has no a\.nii\.gz"):
        write_ensemble(request_for(images, one))


def test_other_labels_and_grids_are_refused(images, member):
    one = member("one", 1)
    names = {**LABELS, "label_names": ["background", "tumour", "liver"]}
    with pytest.raises(DatasetError, match=r"other labels for a .*label_names: .* against"):
        write_ensemble(request_for(images, one, member("two", 2, labels=names)))
    shifted = AFFINE + np.eye(4)[:, [3, 0, 1, 2]] * [0, 0, 0, 1]
    with pytest.raises(CaseError, match="case a: .* different grids: they have shapes"):
        write_ensemble(request_for(images, one, member("three", 3, shape=(9, 7, 6))))
    with pytest.raises(CaseError, match="case a: .* different grids: .* voxels apart"):
        write_ensemble(request_for(images, one, member("four", 4, affine=shifted)))
    with pytest.raises(CaseError, match="case a: .* not on the grid of .*a.nii.gz: .* apart"):
        write_ensemble(request_for(images, member("five", 5, affine=shifted)))
    assert not list((images.parent / "out").glob("*.nii.gz"))


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, float("nan")), (1.0, -2.0)])
def test_weights_that_make_no_mean_are_refused(images, member, weights):
    with pytest.raises(ConfigError, match="for 2 member"):
        write_ensemble(request_for(images, member("one", 1), member("two", 2), weights=weights))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5, -0.5])
def test_numbers_that_are_no_probabilities_are_refused(images, member, value):
    folders = [member("one", 1), member("two", 2)]
    path = folders[1] / "b.npy"
    array = np.load(path)
    array[1, 2, 3, 4] = value
    np.save(path, array)
    with pytest.raises(CaseError, match=r"case b: .*two/b\.npy has numbers that are NaN or not"):
        write_ensemble(request_for(images, *folders))
    assert not (images.parent / "out" / "b.nii.gz").exists()


def test_the_ends_of_the_range_are_probabilities(images, tmp_path):
    found = np.zeros((3, *SHAPE), np.float32)
    found[2], found[1] = 1, -0.0
    for case in ("a", "b"):
        save_case(tmp_path / "one", images / f"{case}.nii.gz", found, LABELS, AFFINE)
    write_ensemble(request_for(images, tmp_path / "one"))
    assert (load(images.parent / "out" / "a.nii.gz") == LABELS["label_values"][2]).all()


def test_going_on_keeps_what_is_there(images, member):
    folders = (member("one", 1), member("two", 2))
    first, second = write_ensemble(request_for(images, *folders))
    second.unlink()
    content = first.stat().st_mtime_ns
    assert write_ensemble(request_for(images, *folders, go_on=True)) == [second]
    assert first.stat().st_mtime_ns == content
    assert write_ensemble(request_for(images, *folders, go_on=True)) == []
    # a member was predicted again
    later = second.stat().st_mtime_ns + 1
    (member,) = folders[0].glob(f"{case_name(second)}.npy")
    os.utime(member, ns=(later, later))
    assert write_ensemble(request_for(images, *folders, go_on=True)) == [second]
    with pytest.raises(OutputError, match="masks of another ensemble"):
        write_ensemble(request_for(images, *folders, go_on=True, rules=[[1]]))
    assert len(write_ensemble(request_for(images, *folders, rules=[[1]]))) == 2


def test_the_images_of_a_data_set_with_one_folder_a_patient(images, member):
    folder = member("one", 1)
    root = images.parent / "data"
    entries = []
    for case in "ab":
        (root / case).mkdir(parents=True)
        for name in ("t1", "seg"):
            (root / case / f"{name}.nii.gz").symlink_to(images / f"{case}.nii.gz")
        entries.append({"image": f"{case}/t1.nii.gz", "label": f"{case}/seg.nii.gz"})
    content = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "x"}}
    (root / "dataset.json").write_text(json.dumps(content | {"training": entries}))
    expected = write_ensemble(request_for(images, folder))
    masks = write_ensemble(request_for(root, folder, output=images.parent / "own"))
    assert [mask.read_bytes() for mask in masks] == [mask.read_bytes() for mask in expected]


def test_an_image_is_never_replaced(images, member):
    with pytest.raises(BundleError, match="would replace the image itself"):
        write_ensemble(request_for(images, member("one", 1), output=images))


def test_the_script(images, member, tmp_path, monkeypatch, capsys):
    folders = [member("one", 1), member("two", 2)]
    overlay = tmp_path / "rules.json"
    overlay.write_text(json.dumps({"keep_largest": [[1, 2], [1]]}))
    out = tmp_path / "masks"
    command = ["--members", *folders, "--images", images, "--output", out, "--weights", 1, 2]
    command += ["--config_file", overlay]
    # in this process, since starting another one would dominate the time of the test
    monkeypatch.setattr(sys, "argv", ["ensemble.py", *map(str, command)])
    runpy.run_path(str(ROOT / "scripts" / "ensemble.py"), run_name="__main__")
    assert "2 masks written" in capsys.readouterr().out
    record = json.loads((out / "ensemble.json").read_text())
    assert record["keep_largest"] == [[1, 2], [1]] and record["weights"] == [1.0, 2.0]
    assert str(tmp_path) not in json.dumps(record)
    # the labels, for whoever scores the masks
    labels = next(iter(read_probabilities(folders[0]).values())).labels
    _, ids = label_ids_of_masks(out)
    assert LabelScheme.from_plan(ids) == labels
    assert record["label_names"] == list(labels.names)
    expected = write_ensemble(
        request_for(images, *folders, weights=(1.0, 2.0), rules=[[1, 2], [1]], output=out / "x")
    )
    for mask in expected:
        assert np.array_equal(load(out / mask.name), load(mask))

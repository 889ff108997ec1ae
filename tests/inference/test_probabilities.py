"""Saved probabilities are those of the network, and incomplete cases are ignored."""

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from probability_cases import LABELS, REGIONS, random_probabilities, save_case

from dynunet_bundle.errors import CaseError, DatasetError
from dynunet_bundle.inference import probabilities as module
from dynunet_bundle.inference.probabilities import (
    SaveProbabilitiesd,
    label_differences,
    read_probabilities,
)
from dynunet_bundle.labels.scheme import LabelScheme

SCHEME = LabelScheme.from_plan(LABELS)
SHAPE = (5, 4, 3)
AFFINE = np.array([[0, 2, 0, 5], [1.5, 0, 0, -3], [0, 0, 3, 1], [0, 0, 0, 1.0]])


@pytest.fixture
def folder(tmp_path):
    save_case(
        tmp_path / "p", tmp_path / "a.1.nii.gz", random_probabilities(0, SHAPE), affine=AFFINE
    )
    return tmp_path / "p"


def test_what_is_read_is_what_was_found(folder, tmp_path):
    save_case(folder, tmp_path / "b.png", random_probabilities(1, (6, 2, 1), True), REGIONS)
    found = read_probabilities(folder)
    assert list(found) == ["a.1", "b"]
    first, second = found.values()
    assert (first.case, first.source, first.shape) == ("a.1", "a.1.nii.gz", SHAPE)
    assert np.array_equal(first.affine, AFFINE) and first.labels == SCHEME
    array = first.array()
    assert isinstance(array, np.memmap) and array.flags.c_contiguous
    assert np.array_equal(array, random_probabilities(0, SHAPE).astype(np.float16))
    assert second.labels == LabelScheme.from_plan(REGIONS) and second.array().shape == (2, 6, 2, 1)
    assert sorted(file.name for file in folder.iterdir()) == [
        *("a.1.json", "a.1.npy", "b.json", "b.npy")
    ]


def test_the_header_is_that_of_the_design(folder):
    header = json.loads((folder / "a.1.json").read_text())
    assert header == {
        "source": "a.1.nii.gz",
        "shape": [5, 4, 3],
        "affine": AFFINE.tolist(),
        **LABELS,
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_any_layout_and_type_is_saved(tmp_path, dtype):
    wanted = torch.rand(3, *SHAPE).to(torch.float16)
    turned = wanted.to(dtype).permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    tensor = MetaTensor(turned, meta={"filename_or_obj": "x.nii.gz"})
    data = {"probability": tensor, "name": "case"}
    saved = SaveProbabilitiesd("probability", str(tmp_path), SCHEME)(data)
    assert saved["probability"] is tensor
    found = read_probabilities(tmp_path)["case"]
    assert np.array_equal(found.array(), wanted.numpy())


def test_a_crash_between_array_and_header_leaves_no_case(folder, tmp_path, monkeypatch):
    def fails(path, content):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_json", fails)
    with pytest.raises(KeyboardInterrupt):
        save_case(folder, tmp_path / "a.1.nii.gz", random_probabilities(3, SHAPE))
    with pytest.raises(DatasetError, match="holds no probabilities"):
        read_probabilities(folder)


def test_folders_without_any(tmp_path):
    with pytest.raises(DatasetError, match="does not exist. Predict with --probabilities_dir"):
        read_probabilities(tmp_path / "none")
    with pytest.raises(DatasetError, match="holds no probabilities"):
        read_probabilities(tmp_path)


def change_header(folder, **changes):
    path = folder / "a.1.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"shape": [5, 4, 4]},
            r"float16 \(3, 5, 4, 3\), but its header says float16 \(3, 5, 4, 4\)",
        ),
        (
            {"label_names": ["b", "l"], "label_values": [0, 1]},
            r"its header says float16 \(2, 5, 4, 3\)",
        ),
        ({"label_names": ["background", "liver"]}, "2 label_names and 3 label_values"),
    ],
)
def test_arrays_that_do_not_fit_their_header_are_refused(folder, changes, message):
    change_header(folder, **changes)
    with pytest.raises(CaseError, match=f"case a.1: .*{message}"):
        read_probabilities(folder)["a.1"].array()


def test_a_header_without_a_field_is_named(folder):
    change_header(folder, affine="gone")
    message = r"a\.1\.json: .*'affine' is a required property\. Predict this case again"
    with pytest.raises(DatasetError, match=message):
        read_probabilities(folder)


def test_damaged_files_are_named(folder):
    path = folder / "a.1.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CaseError, match="a.1.npy cannot be read"):
        read_probabilities(folder)["a.1"].array()
    np.save(path, np.zeros((3, *SHAPE)))
    with pytest.raises(CaseError, match="holds float64"):
        read_probabilities(folder)["a.1"].array()


def test_outputs_that_are_not_the_plans_are_refused(tmp_path):
    with pytest.raises(CaseError, match=r"shape \(2, 5, 4, 3\), but the plan has 3 outputs"):
        save_case(tmp_path, tmp_path / "x.nii", np.zeros((2, *SHAPE)))


def test_labels_in_another_order_differ():
    one = LabelScheme(["b", "left", "right"], [0, 1, 2], None, {"l": [1], "r": [2]}, [1, 2])
    other = LabelScheme(one.names, one.values, None, {"r": [2], "l": [1]}, [2, 1])
    assert label_differences(one, one) == []
    assert [text.split(":")[0] for text in label_differences(one, other)] == [
        *("regions", "regions_class_order")
    ]
    assert label_differences(SCHEME, LabelScheme(SCHEME.names, [0, 1, 3])) == [
        "label_values: [0, 1, 2] against [0, 1, 3]"
    ]
